// The maze on its canvas. A position is (x, y) with x down the rows and y along the columns, in metres.

const ROLES = ["floor", "wall", "grid", "drawn", "ink", "muted", "card", "blue", "vermillion", "green", "purple", "orange", "red",
  ...Array.from({ length: 8 }, (_, i) => `ramp${i}`)];

export class Paint {
  constructor(canvas, world) {
    this.canvas = canvas;
    this.world = world; // all that is shown, changed in place
    this.pen = canvas.getContext("2d");
    this.trail = [];
    this.colours();
  }

  // The colours as the page's style has them now.
  colours() {
    const probe = document.createElement("i");
    document.body.append(probe);
    this.c = {};
    for (const role of ROLES) {
      probe.style.color = `var(--${role})`;
      this.c[role] = getComputedStyle(probe).color;
    }
    probe.remove();
  }

  // As large as its place allows.
  fit(width, height) {
    const { shape, edge } = this.world.maze;
    const crop = this.crop = 0.62; // of the border's walls, which nobody needs to see whole
    const rows = shape[0] - 2 * crop, columns = shape[1] - 2 * crop;
    this.scale = Math.max(Math.min(width / columns, height / rows), 12);
    this.origin = crop - edge;
    const w = Math.floor(columns * this.scale), h = Math.floor(rows * this.scale), dpr = devicePixelRatio || 1;
    this.canvas.style.width = `${w}px`;
    this.canvas.style.height = `${h}px`;
    this.canvas.width = Math.round(w * dpr);
    this.canvas.height = Math.round(h * dpr);
    this.dpr = dpr;
  }

  px(y) { return (y - this.origin) * this.scale; }
  py(x) { return (x - this.origin) * this.scale; }
  at(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    return [(clientY - box.top) / this.scale + this.origin, (clientX - box.left) / this.scale + this.origin];
  }

  draw(now) {
    const { pen, c, world, canvas } = this;
    pen.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = c.floor;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    this.here = world.where(now);
    this.blocks();
    for (const mark of world.marks.values()) if (mark.kind === "gap") this.gap(mark.box, world.invalid === mark.id);
    for (const mark of world.marks.values()) if (mark.kind === "zone") this.zone(mark.box, world.invalid === mark.id);
    this.goalDisc();
    if (world.plan) this.candidates(now);
    for (const mark of world.marks.values()) this.mark(mark);
    if (world.sketch) this.sketch(world.sketch);
    this.goal();
    this.ball();
    if (world.cursor) this.cursor(world.cursor);
  }

  rect([x0, y0, x1, y1], radius = 0) {
    const { pen } = this;
    pen.beginPath();
    pen.roundRect(this.px(y0), this.py(x0), (y1 - y0) * this.scale, (x1 - x0) * this.scale, radius * this.scale);
  }

  blocks() {
    const { pen, c, world } = this;
    pen.fillStyle = pen.strokeStyle = c.wall;
    pen.lineWidth = 1; // over the seams between blocks
    for (const box of world.maze.blocks) { this.rect(box); pen.fill(); pen.stroke(); }
  }

  // A cell whose wall was erased.
  gap(box, bad) {
    const { pen, c } = this;
    pen.save();
    this.rect(box);
    pen.fillStyle = pen.strokeStyle = c.floor;
    pen.lineWidth = 2; // over the seam of its block
    pen.fill();
    pen.stroke();
    this.rect([box[0] + 0.04, box[1] + 0.04, box[2] - 0.04, box[3] - 0.04]);
    pen.strokeStyle = bad ? c.red : c.wall;
    pen.lineWidth = 1;
    pen.setLineDash([4, 4]);
    pen.stroke();
    pen.restore();
  }

  zone(box, bad) {
    const { pen, c } = this, colour = bad ? c.red : c.purple;
    pen.save();
    this.rect(box, 0.06);
    pen.clip();
    pen.globalAlpha = 0.13;
    pen.fillStyle = colour;
    pen.fill();
    pen.globalAlpha = 0.5;
    pen.strokeStyle = colour;
    pen.lineWidth = 1.2;
    pen.beginPath();
    const left = this.px(box[1]), right = this.px(box[3]), top = this.py(box[0]), down = this.py(box[2]);
    for (let at = left - (down - top); at < right; at += 9) { pen.moveTo(at, down); pen.lineTo(at + (down - top), top); }
    pen.stroke();
    pen.restore();
    this.rect(box, 0.06);
    pen.strokeStyle = colour;
    pen.lineWidth = 1.6;
    pen.stroke();
  }

  mark(mark) {
    const { pen, c, world } = this, bad = world.invalid === mark.id;
    if (mark.kind === "wall") {
      this.rect(mark.box, 0.04);
      pen.fillStyle = bad ? c.red : c.drawn;
      pen.fill();
      if (world.held === mark.id) { pen.strokeStyle = c.orange; pen.lineWidth = 2; pen.stroke(); }
    } else if (mark.kind === "way") this.way(mark.points);
    else if (mark.kind === "come" || mark.kind === "keep") this.point(mark, bad);
  }

  way(points, open = false) {
    const { pen, c } = this;
    pen.save();
    pen.strokeStyle = c.green;
    pen.lineWidth = 7;
    pen.globalAlpha = 0.25;
    pen.lineJoin = pen.lineCap = "round";
    this.line(points);
    pen.stroke();
    pen.globalAlpha = 1;
    pen.lineWidth = 1.8;
    pen.setLineDash([2, 5]);
    this.line(points);
    pen.stroke();
    pen.restore();
    if (!open && points.length > 1) this.arrow(points.at(-2), points.at(-1), c.green);
  }

  line(points) {
    this.pen.beginPath();
    points.forEach(([x, y], i) => this.pen[i ? "lineTo" : "moveTo"](this.px(y), this.py(x)));
  }

  arrow([xa, ya], [x, y], colour) {
    const { pen } = this, angle = Math.atan2(x - xa, y - ya);
    pen.save();
    pen.translate(this.px(y), this.py(x));
    pen.rotate(angle);
    pen.fillStyle = colour;
    pen.beginPath();
    pen.moveTo(8, 0); pen.lineTo(-5, 6); pen.lineTo(-2, 0); pen.lineTo(-5, -6);
    pen.fill();
    pen.restore();
  }

  point(mark, bad) {
    const { pen, c, world } = this, [x, y] = mark.points[0], px = this.px(y), py = this.py(x);
    const keep = mark.kind === "keep", colour = bad ? c.red : keep ? c.purple : c.green;
    const done = world.visited?.includes(mark.id);
    pen.save();
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    if (keep) {
      pen.globalAlpha = 0.12;
      this.disc(px, py, world.maze.away * this.scale);
      pen.fill();
      pen.globalAlpha = 0.8;
      pen.setLineDash([5, 4]);
      pen.lineWidth = 1.5;
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
      pen.lineWidth = 3;
      pen.beginPath();
      for (const [a, b] of [[-5, -5], [5, -5]]) { pen.moveTo(px + a, py + b); pen.lineTo(px - a, py - b); }
      pen.stroke();
    } else {
      pen.globalAlpha = done ? 0.45 : 1;
      pen.beginPath();
      pen.moveTo(px, py);
      pen.bezierCurveTo(px - 15, py - 15, px - 9, py - 30, px, py - 30);
      pen.bezierCurveTo(px + 9, py - 30, px + 15, py - 15, px, py);
      if (done) { pen.lineWidth = 2; pen.stroke(); } else pen.fill();
      pen.fillStyle = c.floor;
      this.disc(px, py - 20, 3.6);
      pen.fill();
    }
    pen.restore();
  }

  disc(px, py, radius) {
    this.pen.beginPath();
    this.pen.arc(px, py, radius, 0, 2 * Math.PI);
  }

  goalDisc() {
    const { pen, c, world } = this, [x, y] = world.goal;
    pen.save();
    this.disc(this.px(y), this.py(x), world.maze.reach * this.scale);
    pen.fillStyle = world.invalid === "goal" ? c.red : c.green;
    pen.globalAlpha = 0.14;
    pen.fill();
    pen.globalAlpha = 0.55;
    pen.strokeStyle = pen.fillStyle;
    pen.lineWidth = 1.3;
    pen.stroke();
    pen.restore();
  }

  goal() {
    const { pen, c, world } = this, [x, y] = world.goal, px = this.px(y), py = this.py(x);
    const colour = world.invalid === "goal" ? c.red : c.green;
    pen.fillStyle = colour;
    pen.strokeStyle = c.floor;
    pen.lineWidth = 2.5;
    pen.lineJoin = "round";
    pen.beginPath();
    for (let i = 0; i < 10; i++) {
      const r = (i % 2 ? 0.45 : 1) * 12, a = (i * Math.PI) / 5 - Math.PI / 2;
      pen[i ? "lineTo" : "moveTo"](px + r * Math.cos(a), py + r * Math.sin(a));
    }
    pen.closePath();
    pen.stroke();
    pen.fill();
    if (world.held === "goal") this.ring(px, py, 19);
  }

  // Where the estimates stand now: between two pictures of the plan while it comes out of noise.
  candidates(now) {
    const { world } = this, { plan, show } = world, last = plan.pictures.length - 1;
    let at = last;
    if (show !== null) at = Math.min(show, last);
    else if (world.film && last > 0) {
      const part = (now - world.film.begun) / world.film.length;
      if (part >= 1) world.film = null; else at = Math.max(part, 0) * last;
    }
    world.level = at;
    const below = Math.floor(at), w = at - below;
    const a = plan.pictures[below], b = plan.pictures[Math.min(below + 1, last)];
    const noisy = Math.min(1, (last - at) / Math.max(last, 1));
    for (const i of plan.order) if (i !== plan.best) this.candidate(plan, a, b, w, i, noisy);
    this.chosen(plan, a, b, w);
  }

  // A candidate's line; `left`: only what of it is still before the ball.
  trace(plan, a, b, w, i, left = false) {
    const { pen } = this, first = i * plan.points * 2;
    const from = left ? this.passed(plan, a, first) : 0;
    pen.beginPath();
    if (from) pen.moveTo(this.px(this.here[1]), this.py(this.here[0]));
    for (let k = from; k < plan.points; k++) {
      const j = first + 2 * k, x = (a[j] + w * (b[j] - a[j])) / 1000, y = (a[j + 1] + w * (b[j + 1] - a[j + 1])) / 1000;
      pen[k ? "lineTo" : "moveTo"](this.px(y), this.py(x));
    }
  }

  // The first point that the ball has not passed: after the one of the next few that is nearest to it.
  passed(plan, a, first) {
    let nearest = 0, least = Infinity;
    for (let k = 0; k < Math.min(plan.points - 1, 6); k++) {
      const away = Math.hypot(a[first + 2 * k] / 1000 - this.here[0], a[first + 2 * k + 1] / 1000 - this.here[1]);
      if (away < least) [nearest, least] = [k, away];
    }
    return least < 1 ? nearest + 1 : 0;
  }

  candidate(plan, a, b, w, i, noisy) {
    const { pen, c } = this, crosses = plan.crossings[i] > 0 && noisy === 0;
    pen.strokeStyle = c[`ramp${plan.shade[i]}`];
    pen.lineWidth = 1.15;
    pen.lineJoin = "round";
    const sure = 0.12 + 0.78 * plan.feasible[i] ** 3; // fainter where the logs have not been
    pen.globalAlpha = crosses ? 0.25 : sure * (1 - noisy) + 0.5 * noisy;
    if (crosses) pen.setLineDash([3, 4]);
    this.trace(plan, a, b, w, i);
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }

  chosen(plan, a, b, w) {
    const { pen, c } = this;
    pen.lineJoin = pen.lineCap = "round";
    this.trace(plan, a, b, w, plan.best, w === 0 && this.world.show === null);
    pen.strokeStyle = c.floor;
    pen.lineWidth = 5;
    pen.stroke();
    pen.strokeStyle = c.vermillion;
    pen.lineWidth = 2.6;
    pen.stroke();
    pen.lineCap = "butt";
  }

  ball() {
    const { pen, c, world } = this, [x, y] = this.here, px = this.px(y), py = this.py(x);
    this.remember(x, y);
    const radius = Math.max(world.maze.ball * this.scale, 7);
    this.disc(px, py, radius + 2);
    pen.fillStyle = c.floor;
    pen.fill();
    this.disc(px, py, radius);
    pen.fillStyle = world.invalid === "ball" ? c.red : c.blue;
    pen.fill();
    if (world.held === "ball") this.ring(px, py, radius + 6);
  }

  // Where the ball has been of late.
  remember(x, y) {
    const { pen, c, trail } = this, end = trail.at(-1);
    const away = end ? Math.hypot(x - end[0], y - end[1]) : 1;
    if (away > 0.6) trail.length = 0;
    if (away > 0.03) trail.push([x, y]);
    if (trail.length > 160) trail.shift();
    pen.strokeStyle = c.blue;
    pen.lineWidth = 2;
    for (let i = 1; i < trail.length; i++) {
      pen.globalAlpha = 0.4 * (i / trail.length);
      this.line([trail[i - 1], trail[i]]);
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  ring(px, py, radius) {
    this.disc(px, py, radius);
    this.pen.strokeStyle = this.c.orange;
    this.pen.lineWidth = 2.2;
    this.pen.stroke();
  }

  sketch({ kind, box, points }) {
    if (kind === "zone") this.zone(box, false);
    else if (kind === "wall") this.mark({ kind, box });
    else if (points) this.way(points, true);
  }

  cursor([x, y]) {
    const { pen, c } = this, px = this.px(y), py = this.py(x);
    pen.strokeStyle = c.orange;
    pen.lineWidth = 2.2;
    pen.beginPath();
    for (const [a, b] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { pen.moveTo(px + 5 * a, py + 5 * b); pen.lineTo(px + 13 * a, py + 13 * b); }
    pen.stroke();
  }
}
