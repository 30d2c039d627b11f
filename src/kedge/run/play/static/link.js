// The connection: it comes back by itself, and says what it knows as soon as it does.

const FIRST = 250, LONGEST = 4000; // milliseconds between two tries

export class Link {
  constructor(heard) {
    this.heard = heard; // {open, lost, words, plan}
    this.n = 0;
    this.wait = FIRST;
    this.connect();
    addEventListener("online", () => this.soon());
    document.addEventListener("visibilitychange", () => document.hidden || this.soon());
  }

  connect() {
    const address = new URL("live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = location.search;
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") return this.heard.plan(planOf(data));
      const words = JSON.parse(data);
      if (words.type === "hello") this.wait = FIRST;
      this.heard.words(words);
    };
    socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  closed(code, reason) {
    const final = code === 4401; // it wants a token, and will go on to want it
    this.heard.lost(final ? reason : code === 1009 ? "a message was too long" : "", final);
    if (final) return;
    this.retry = setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST);
  }

  soon() {
    if (this.socket.readyState !== WebSocket.CLOSED || !this.retry) return;
    clearTimeout(this.retry);
    this.wait = FIRST;
    this.connect();
  }

  get live() { return this.socket.readyState === WebSocket.OPEN; }

  // Says something; returns its number, or 0 where nobody hears it.
  say(word, rest = {}) {
    if (!this.live) return 0;
    this.n += 1;
    this.socket.send(JSON.stringify({ do: word, n: this.n, ...rest }));
    return this.n;
  }
}

// A plan on the wire: the header's length, the header, 16-bit thousandths [frames, candidates, points, 2].
export function planOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const whole = new Int16Array(buffer, 4 + length);
  const [frames, candidates, points] = head.shape;
  const size = candidates * points * 2;
  const pictures = Array.from({ length: frames }, (_, i) => whole.subarray(i * size, (i + 1) * size));
  return { ...head, candidates, points, pictures };
}
