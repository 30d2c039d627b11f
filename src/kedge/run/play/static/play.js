// The table: what is on it, what is said about it, and who is told. Everything is restored from here after a lost
// connection, and from the tab's own storage after a reload.

import { landscape, levels } from "./charts.js";
import { Hands, TOOLS } from "./hands.js";
import { Link } from "./link.js";
import { Paint } from "./paint.js";

const $ = (id) => document.getElementById(id);
const KEPT = "kedge.play", THEME = "kedge.theme";
const stored = (store, key) => { try { return store.getItem(key); } catch { return null; } };
const store = (where, key, value) => { try { where.setItem(key, value); } catch { /* private windows keep nothing */ } };

const canvas = $("maze");
const world = { maze: null, heeds: true, goal: [0, 0], ball: [0, 0, 0, 0], marks: new Map(), settings: {}, plan: null, visited: [],
  levels: [], level: 0, show: null, film: null, sketch: null, cursor: null, held: null, invalid: null, where };
const paint = new Paint(canvas, world);
const pending = new Map(); // the number of what was said, and when the hand moved
const took = []; // milliseconds from a hand's move to the plan that was drawn for it
let about = null, seen = [], sent = { goal: 0, ball: 0 }, refusedAt = 0, dirty = true, told = null, memory = null, fade = 0;
window.kedge = { world, took, pending, ready: false, scale: () => [paint.scale, paint.origin] }; // for who looks in from outside

// Between the last two places that were heard of: a tick behind, and smooth.
function where(now) {
  const [a, b] = seen;
  if (!b || world.held === "ball") return world.ball;
  const w = Math.min((now - b.at) / Math.max(b.at - a.at, 1), 1);
  return [a.ball[0] + w * (b.ball[0] - a.ball[0]), a.ball[1] + w * (b.ball[1] - a.ball[1])];
}

const table = {
  offers: (tool) => !$("tools").querySelector(`[data-tool=${tool}]`).hidden,
  fresh: (kind) => `${kind}-${Math.random().toString(36).slice(2, 8)}`,

  put(thing, at, stamp, key = false) {
    const place = at.map((v) => Math.round(v * 1000) / 1000);
    const rest = thing === "ball" ? { at: place, held: !key } : { at: place };
    const n = note(link.say(thing, rest), stamp);
    world[thing] = thing === "ball" ? [...place, 0, 0] : place;
    if (thing === "ball") { seen = []; paint.trail.length = 0; }
    sent[thing] = n;
    touched(thing);
  },

  draw(mark, stamp) {
    if (!world.marks.has(mark.id) && world.marks.size >= about.most) return tell(`There are ${about.most} marks already: erase one first.`, true);
    world.marks.set(mark.id, mark);
    sent[mark.id] = note(link.say("draw", { mark }), stamp);
    touched(mark.id);
    return true;
  },

  erase(id) {
    if (!id || !world.marks.has(id)) return;
    const { kind } = world.marks.get(id);
    world.marks.delete(id);
    note(link.say("erase", { id }), performance.now());
    tell(kind === "gap" ? "The wall is back." : `Erased: ${{ wall: "a wall", zone: "a keep-out zone", way: "a way", come: "a point to come to", keep: "a point to keep away from" }[kind]}.`);
    touched(null);
  },

  letGo(thing) {
    if (thing === "ball") link.say("drop");
    if (world.invalid && refusedAt >= newest()) settle(); // else there is more to be heard of
    keep();
  },

  toolTaken(tool) {
    for (const button of $("tools").querySelectorAll("[data-tool]")) {
      const on = button.dataset.tool === tool;
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
  },
  tell,
};

function note(n, stamp) {
  if (n && stamp) pending.set(n, stamp);
  if (pending.size > 400) pending.delete(pending.keys().next().value);
  return n;
}

function touched(thing) {
  dirty = true;
  if (world.held !== thing) world.invalid = null;
  world.show = null;
  keep();
}

// The number of the newest wish for a thing. A refusal of an older one has been overtaken.
const newest = () => Math.max(...Object.values(sent));

// After a refusal: what the other side has is what there is.
function settle() {
  if (told) adopt(told);
  world.invalid = null;
}

function adopt(words) {
  world.goal = words.goal;
  if (world.held !== "ball") world.ball = words.ball;
  world.marks = new Map(words.marks.map((mark) => [mark.id, mark]));
  world.settings = words.settings;
  world.levels = words.levels;
  settingsShown();
  dirty = true;
}

function tell(line, bad = false) {
  $("say").textContent = line;
  $("say").dataset.tone = bad ? "bad" : "";
  clearTimeout(fade);
  fade = setTimeout(() => { $("say").textContent = ""; }, bad ? 6000 : 4000);
}

const sentence = (why) => why[0].toUpperCase() + why.slice(1) + (/[.!]$/.test(why) ? "" : ".");

// What is kept for a reload, and said again to a new connection.
function keep() {
  const moved = about && world.goal.some((v, i) => v !== about.goal[i]);
  const scene = { run: about?.run, maze: about?.maze.name, marks: [...world.marks.values()], settings: world.settings, ball: world.ball.slice(0, 2) };
  if (moved && !world.invalid) scene.goal = world.goal;
  memory = scene;
  store(sessionStorage, KEPT, JSON.stringify(scene));
}

const heard = {
  words(words) {
    stir();
    if (words.type === "hello") return hello(words);
    if (words.type === "ball") return ball(words);
    if (words.type === "scene") {
      told = words;
      if (!world.held) adopt(words);
      if (words.said.length) tell(sentence(words.said[0]), true);
    }
    if (words.type === "refused") refused(words);
  },

  plan(plan) {
    stir();
    const rank = [...plan.values.keys()].sort((a, b) => plan.values[a] - plan.values[b]);
    plan.order = rank;
    plan.shade = [];
    rank.forEach((i, k) => { plan.shade[i] = Math.floor((8 * k) / plan.candidates); });
    const was = world.plan;
    world.plan = plan;
    world.scales = plan.scales;
    if (refusedAt && plan.n > refusedAt) { refusedAt = 0; world.invalid = null; }
    film(plan, was);
    figures(plan);
    dirty = true;
  },

  lost(why, final) {
    $("link").dataset.state = "lost";
    $("link-words").textContent = final ? "Not let in" : "Reconnecting";
    $("lost").hidden = false;
    $("lost-words").textContent = final ? sentence(why) : why ? `${sentence(why)} Trying again.` : "Trying again.";
    pending.clear();
    if (about) keep();
  },
};

// A new plan comes out of noise before the eyes, where there is time for it before the next one.
function film(plan, was) {
  if (plan.pictures.length < 2) { if (!world.film?.asked) world.film = null; return; }
  if (world.film?.asked) { world.film.begun = performance.now(); world.film.asked = false; return; }
  if (world.settings.paused && plan.round > 0) { world.film = null; return; }
  const span = world.settings.paused ? 900 : Math.min((plan.every ?? 15) * 10 / world.settings.speed, 1800) * 0.55;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || world.held;
  world.film = span < 220 || still || !was ? null : { begun: performance.now(), length: span };
}

function hello(words) {
  const mine = memory ?? JSON.parse(stored(sessionStorage, KEPT) ?? "null");
  about = words;
  told = words;
  Object.assign(world, { maze: words.maze, heeds: words.heeds });
  seen = [];
  $("run").textContent = `${words.run} · ${words.agent} in ${words.maze.name}`;
  document.title = `${words.run} · kedge play`;
  $("link").dataset.state = "live";
  $("link-words").textContent = "Live";
  $("lost").hidden = true;
  ranges(words);
  adopt(words);
  landscape($("landscape"), words.landscape, words.levels);
  fit();
  if (mine && mine.run === words.run && mine.maze === words.maze.name) {
    const { goal, ball: at, marks, settings } = mine;
    link.say("restore", { marks, settings, ...(goal ? { goal } : {}), ...(at ? { ball: at } : {}) });
  }
  window.kedge.ready = true;
}

function ball(words) {
  if (world.held === "ball") return;
  world.ball = words.at;
  world.visited = words.visited;
  const at = performance.now();
  seen = seen.length ? [{ ...seen.at(-1), at: Math.max(seen.at(-1).at, at - 60) }, { ball: words.at, at }] : [{ ball: words.at, at }];
  world.arrived = words.arrived;
  dirty = true;
  if (words.steps % 30 < 4) keep();
}

// One reason; what was tried stays under the hand, in red, until it is let go.
function refused(words) {
  tell(sentence(words.why), true);
  told = words.goal ? words : told;
  pending.delete(words.n);
  refusedAt = Math.max(refusedAt, words.n);
  if (world.held || hands.drag) world.invalid = world.held ?? hands.drag.fresh;
  else if (words.n >= newest()) settle();
  dirty = true;
}

function figures(plan) {
  const reach = world.maze.reach, last = plan.pictures.at(-1), first = plan.best * plan.points * 2;
  let when = null;
  for (let k = 0; k < plan.points && when === null; k++) {
    if (Math.hypot(last[first + 2 * k] / 1000 - world.goal[0], last[first + 2 * k + 1] / 1000 - world.goal[1]) <= reach) when = (k * plan.stride) / 100;
  }
  figure("sooner", when === null ? "not yet" : world.arrived ? "there" : when.toFixed(1), when === null || world.arrived ? "" : "s");
  const clear = plan.crossings.filter((c) => c === 0).length;
  const barred = [...world.marks.values()].some((m) => m.kind === "wall" || m.kind === "zone");
  figure("clear-count", barred ? `${clear}` : "all", barred ? `of ${plan.candidates}` : "");
  figure("ms", Math.round(plan.ms), plan.draft ? "ms, draft" : `ms, ${plan.candidates} plans`);
}

function figure(id, value, unit) {
  $(id).replaceChildren(String(value), " ", Object.assign(document.createElement("small"), { textContent: unit }));
}

// Every hand's move is counted, by the first plan that knows of it.
function counted() {
  if (!world.plan) return;
  const now = performance.now();
  for (const [n, stamp] of pending) {
    if (n > world.plan.n) break;
    took.push(now - stamp);
    pending.delete(n);
  }
  if (took.length > 2000) took.splice(0, took.length - 2000);
  if (!took.length) return;
  const sorted = took.slice(-200).sort((a, b) => a - b), share = (p) => Math.round(sorted[Math.min(Math.floor(p * sorted.length), sorted.length - 1)]);
  figure("latency", share(0.5), `ms, 95%: ${share(0.95)}`);
}

// The maze is drawn while something happens, and for a moment after it.
let drawnLevel = -1, drawnScales = null, until = 0;
const stir = () => { until = performance.now() + 250; };
for (const kind of ["pointermove", "pointerdown", "pointerup", "keydown", "input", "change", "click", "resize", "focusin", "focusout"]) addEventListener(kind, stir, true);

function loop(now) {
  requestAnimationFrame(loop);
  if (!world.maze || (!dirty && !world.film && now > until)) return;
  paint.draw(now);
  if (dirty) { counted(); dirty = false; }
  const scales = world.scales?.length > 1 ? world.scales : world.levels;
  const at = world.plan && world.plan.pictures.length > 1 ? world.level : scales.length - 1;
  if (at !== drawnLevel || scales !== drawnScales) {
    levels($("levels"), scales, at);
    shownLevel(scales);
    [drawnLevel, drawnScales] = [at, scales];
  }
}

function shownLevel(scales) {
  const slider = $("level");
  slider.max = scales.length;
  if (world.show === null) slider.value = scales.length;
  const scale = world.show === null ? null : scales[Math.min(world.show, scales.length - 1)];
  slider.nextElementSibling.textContent = scale === null ? "auto" : scale === 0 ? "clean" : `σ ${scale.toPrecision(2)}`;
  slider.setAttribute("aria-valuetext", scale === null ? "as plans come" : scale === 0 ? "the clean plan" : `noise scale ${scale.toPrecision(2)}`);
}

// Settings.

const SPEED = { to: (v) => 0.05 * 80 ** (v / 100), from: (s) => (100 * Math.log(s / 0.05)) / Math.log(80) };
const shown = { candidates: (v) => v, steps: (v) => v, temperature: (v) => v.toFixed(2), strength: (v) => v.toFixed(2) };

function ranges(words) {
  for (const input of document.querySelectorAll("[data-set]")) [input.min, input.max] = words.ranges[input.dataset.set];
  fill("solver", words.named.solver, {
    "2m": "DPM-Solver++ (2M)", "3m": "DPM-Solver++ (3M)", unipc: "UniPC", deis: "DEIS", ab: "Adams-Bashforth", sa: "SA-Solver",
    ddim: "DDIM", ddpm: "DDPM", euler: "Euler", heun: "Heun",
  });
  fill("way", words.named.way, { random: "random sampling", push: "a push", rank: "ranking afterwards", biased: "biased start", guided: "guided", stochastic: "guided, again and again" });
  for (const input of $("sampler").querySelectorAll("input, select")) input.disabled = !words.denoises && input.id !== "candidates";
}

function fill(id, values, names) {
  $(id).replaceChildren(...values.map((value) => new Option(names[value] ?? value, value)));
}

function settingsShown() {
  const s = world.settings;
  for (const input of document.querySelectorAll("[data-set]")) {
    if (document.activeElement !== input || !input.matches(":active")) input.value = s[input.dataset.set];
    input.nextElementSibling.textContent = shown[input.dataset.set](s[input.dataset.set]);
  }
  $("solver").value = s.solver;
  $("way").value = s.way;
  $("speed").value = SPEED.from(s.speed);
  $("speed").nextElementSibling.textContent = `${s.speed < 1 ? s.speed.toFixed(2) : s.speed.toFixed(1)}×`;
  document.body.dataset.paused = s.paused;
  $("pause").querySelector("span").textContent = s.paused ? "Go on" : "Pause";
}

function set(name, value) {
  world.settings = { ...world.settings, [name]: value };
  settingsShown();
  note(link.say("set", { name, value }), name === "paused" || name === "speed" ? 0 : performance.now());
  keep();
}

for (const input of document.querySelectorAll("[data-set]")) input.addEventListener("input", () => set(input.dataset.set, Number(input.value)));
for (const id of ["solver", "way"]) $(id).addEventListener("change", () => set(id, $(id).value));
$("speed").addEventListener("input", () => set("speed", Math.min(4, Math.max(0.05, Number(SPEED.to(Number($("speed").value)).toPrecision(2))))));
$("level").addEventListener("input", () => {
  const at = Number($("level").value);
  world.show = at >= (world.scales?.length ?? 1) ? null : at;
  world.film = null;
  shownLevel(world.scales ?? world.levels);
});

// Buttons and keys.

const pause = () => set("paused", !world.settings.paused);
const again = () => { paint.trail.length = 0; note(link.say("again"), performance.now()); tell("A new start."); };
function denoise() {
  if (!world.settings.paused) set("paused", true);
  world.show = null;
  if (world.plan?.pictures.length > 1) world.film = { begun: performance.now(), length: 2200 };
  else tell("The next full plan has its noise levels; try again in a moment.");
}

$("pause").addEventListener("click", pause);
$("again").addEventListener("click", again);
$("denoise").addEventListener("click", denoise);
$("help").addEventListener("click", () => $("keys").showModal());
$("clear").addEventListener("click", () => {
  world.marks.clear();
  note(link.say("clear"), performance.now());
  tell("All that was drawn is erased.");
  touched(null);
});
for (const button of $("tools").querySelectorAll("[data-tool]")) button.addEventListener("click", () => hands.take(button.dataset.tool));
$("tools").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by || !event.target.dataset.tool) return;
  const open = TOOLS.filter(table.offers), next = open[(open.indexOf(event.target.dataset.tool) + by + open.length) % open.length];
  hands.take(next);
  $("tools").querySelector(`[data-tool=${next}]`).focus();
  event.preventDefault();
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("select, input");
  if (event.key === " " && !event.target.matches("button, select, input")) { event.preventDefault(); return pause(); }
  if (typing) return;
  const key = event.key.toLowerCase(), number = TOOLS[Number(key) - 1];
  if (number) { hands.take(number); canvas.focus(); } else if (key === "r") again();
  else if (key === "d") denoise();
  else if (key === "t") themed(1);
  else if (key === "g" || key === "b") { canvas.focus(); hands.choose(key === "g" ? "goal" : "ball"); } else if (key === "?") $("keys").showModal();
  else if (key === "escape") hands.giveUp();
});

// Light and dark.

const THEMES = ["system", "light", "dark"];
let theme = THEMES.indexOf(stored(localStorage, THEME) ?? "system");
function themed(by = 0) {
  theme = (Math.max(theme, 0) + by) % THEMES.length;
  if (theme) document.documentElement.dataset.theme = THEMES[theme]; else delete document.documentElement.dataset.theme;
  if (by) store(localStorage, THEME, THEMES[theme]);
  $("theme-words").textContent = THEMES[theme][0].toUpperCase() + THEMES[theme].slice(1);
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  const dark = theme ? THEMES[theme] === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("better").textContent = dark ? "brighter is better" : "darker is better";
  paint.colours();
  dirty = true;
}
$("theme").addEventListener("click", () => themed(1));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themed());

// The maze is as large as its place allows; on a narrow page its width decides.
function fit() {
  if (!world.maze) return;
  const place = $("floor"), narrow = matchMedia("(max-width: 900px)").matches;
  canvas.style.width = canvas.style.height = "0";
  paint.fit(place.clientWidth, narrow ? 0.47 * innerHeight : place.clientHeight);
}
addEventListener("resize", fit);

const hands = new Hands(canvas, paint, world, table);
themed();
table.toolTaken("move");
const link = new Link(heard);
window.kedge.link = link;
requestAnimationFrame(loop);
