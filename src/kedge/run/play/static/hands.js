// What hands do: pointers and keys, said in terms of the table (see play.js): hold, move, let go, draw, erase.

export const TOOLS = ["move", "wall", "zone", "way", "come", "keep", "erase"];
const GRIP = 26; // pixels around a thing in which it is taken hold of
const THIN = 0.1; // metres between two points of a sketched way

const boxOf = ([xa, ya], [xb, yb]) => [Math.min(xa, xb), Math.min(ya, yb), Math.max(xa, xb), Math.max(ya, yb)];

// At least as thick as the other side takes it to be.
export function thick([x0, y0, x1, y1], least = 0.2) {
  const dx = Math.max(least - (x1 - x0), 0) / 2, dy = Math.max(least - (y1 - y0), 0) / 2;
  return [x0 - dx, y0 - dy, x1 + dx, y1 + dy];
}

export class Hands {
  constructor(canvas, paint, world, table) {
    Object.assign(this, { canvas, paint, world, table, tool: "move", chosen: "goal", anchor: null });
    canvas.addEventListener("pointerdown", (e) => this.down(e));
    canvas.addEventListener("pointermove", (e) => this.moved(e));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => this.up(e));
    canvas.addEventListener("keydown", (e) => this.key(e));
    canvas.addEventListener("blur", () => { world.cursor = null; if (this.anchor) this.giveUp(); });
  }

  take(tool) {
    if (!TOOLS.includes(tool) || !this.table.offers(tool)) return;
    this.giveUp();
    this.tool = tool;
    this.canvas.style.cursor = tool === "move" ? "grab" : tool === "erase" ? "not-allowed" : "crosshair";
    this.table.toolTaken(tool);
    this.world.cursor = tool === "move" || document.activeElement !== this.canvas ? null : this.place();
  }

  giveUp() {
    this.anchor = this.drag = null;
    this.world.sketch = null;
    this.world.held = null;
  }

  // The thing under a point: the goal, the ball, or a mark.
  under(at) {
    const near = (p) => Math.hypot(p[0] - at[0], p[1] - at[1]) * this.paint.scale;
    const { goal, ball, marks } = this.world;
    const free = [["ball", near(ball)], ["goal", near(goal)]].filter(([, d]) => d < GRIP).sort((a, b) => a[1] - b[1]);
    if (free.length) return free[0][0];
    const mark = this.markUnder(at, near);
    return this.world.marks.get(mark)?.kind === "gap" ? null : mark;
  }

  // The maze's own wall under a point: the cell of it, as a gap that may be made there. The border stays.
  wallUnder(at) {
    const { maze } = this.world, [r, c] = at.map((v) => Math.floor(v + maze.edge));
    const inner = r > 0 && c > 0 && r < maze.shape[0] - 1 && c < maze.shape[1] - 1;
    if (!inner || !maze.blocks.some(([x0, y0, x1, y1]) => at[0] > x0 && at[0] < x1 && at[1] > y0 && at[1] < y1)) return null;
    return { id: `gap-${r}-${c}`, kind: "gap", box: [r - maze.edge, c - maze.edge, r + 1 - maze.edge, c + 1 - maze.edge] };
  }

  // What was drawn is taken away, a wall of the maze gives way, and a gap is closed again.
  erase(at, stamp) {
    const mark = this.markUnder(at), wall = mark ? null : this.wallUnder(at);
    if (mark) this.table.erase(mark);
    else if (wall && this.table.draw(wall, stamp)) this.table.tell("Erased: a wall of the maze. Erase the gap, and it is back.");
  }

  markUnder(at, near = (p) => Math.hypot(p[0] - at[0], p[1] - at[1]) * this.paint.scale) {
    for (const mark of [...this.world.marks.values()].reverse()) {
      if (mark.box) {
        const [x0, y0, x1, y1] = mark.box, slack = 6 / this.paint.scale;
        if (at[0] > x0 - slack && at[0] < x1 + slack && at[1] > y0 - slack && at[1] < y1 + slack) return mark.id;
      } else if (mark.points.some((p) => near(p) < GRIP * 0.8)) return mark.id;
      else if (mark.kind === "come" && near([mark.points[0][0] - 18 / this.paint.scale, mark.points[0][1]]) < GRIP * 0.7) return mark.id;
    }
    return null;
  }

  down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus({ preventScroll: true });
    this.world.cursor = null;
    const at = this.paint.at(event.clientX, event.clientY);
    if (this.tool === "move") this.hold(this.under(at), at);
    else if (this.tool === "erase") this.erase(at, event.timeStamp);
    else if (this.tool === "come" || this.tool === "keep") this.drag = { fresh: this.table.fresh(this.tool), from: at };
    else this.drag = { fresh: this.table.fresh(this.tool), from: at, points: [at] };
    if (this.drag) this.reach(at, event.timeStamp);
  }

  hold(thing, at) {
    if (!thing || (thing === "goal" && !this.world.heeds)) {
      if (thing) this.table.tell("This run was never shown goals: its goal stays where it is.", true);
      return;
    }
    this.drag = { thing, from: at, mark: this.world.marks.get(thing) };
    this.world.held = thing;
    if (thing === "goal" || thing === "ball") this.chosen = thing;
    this.canvas.style.cursor = "grabbing";
  }

  moved(event) {
    const at = this.paint.at(event.clientX, event.clientY);
    if (this.drag) return this.reach(at, event.timeStamp);
    if (this.tool === "move") this.canvas.style.cursor = this.under(at) ? "grab" : "default";
    if (this.tool === "erase") this.canvas.style.cursor = this.markUnder(at) || this.wallUnder(at) ? "pointer" : "default";
  }

  // Something is dragged or drawn, and is here now.
  reach(at, stamp) {
    const { drag, table } = this;
    if (drag.mark) {
      const by = [at[0] - drag.from[0], at[1] - drag.from[1]];
      table.draw(shifted(drag.mark, by), stamp);
    } else if (drag.thing) table.put(drag.thing, at, stamp);
    else if (this.tool === "way") this.trace(drag, at);
    else if (this.tool === "come" || this.tool === "keep") table.draw({ id: drag.fresh, kind: this.tool, points: [at] }, stamp);
    else if (far(drag.from, at) > 0.08) table.draw({ id: drag.fresh, kind: this.tool, box: thick(boxOf(drag.from, at)) }, stamp);
  }

  // A way is said once it is finished: half of one is not what is meant.
  trace(drag, at) {
    if (far(drag.points.at(-1), at) > THIN) drag.points.push(at);
    this.world.sketch = { kind: "way", points: [...drag.points, at] };
  }

  up(event) {
    const { drag, table } = this;
    if (!drag) return;
    if (this.tool === "way" && drag.points) this.finishWay(drag.fresh, drag.points, event.timeStamp);
    this.drag = null;
    this.world.sketch = null;
    this.world.held = null;
    if (this.tool === "move") this.canvas.style.cursor = "grab";
    table.letGo(drag.thing);
  }

  finishWay(id, points, stamp) {
    const whole = points.reduce((sum, p, i) => sum + (i ? far(points[i - 1], p) : 0), 0);
    if (whole < 0.3) return this.table.tell("A way is a line: press, draw, let go.");
    const most = this.world.maze.longest, step = (points.length - 1) / (Math.min(points.length, most) - 1);
    const thinned = Array.from({ length: Math.min(points.length, most) }, (_, i) => points[Math.round(i * step)]);
    this.table.draw({ id, kind: "way", points: thinned }, stamp);
  }

  // Where keys begin to move the cursor of a tool.
  place() { return this.world.cursor ?? [...this.world.ball]; }

  key(event) {
    const step = event.shiftKey ? 0.5 : 0.1;
    const by = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    if (by) this.step(by, event.timeStamp);
    else if (event.key === "Enter") this.enter(event.timeStamp);
    else if (event.key === "Escape") this.giveUp();
    else if (event.key === "Backspace" || event.key === "Delete") this.table.erase([...this.world.marks.keys()].at(-1) ?? null);
    else if ("gb".includes(event.key.toLowerCase()) && event.key.length === 1) this.choose(event.key.toLowerCase() === "g" ? "goal" : "ball");
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  choose(thing) {
    this.take("move");
    this.chosen = thing;
    this.table.tell(`Arrow keys move the ${thing}.`);
  }

  step(by, stamp) {
    const { world, table } = this;
    if (this.tool === "move") {
      if (this.chosen === "goal" && !world.heeds) return table.tell("This run was never shown goals: its goal stays where it is.", true);
      const from = world[this.chosen];
      table.put(this.chosen, [from[0] + by[0], from[1] + by[1]], stamp, true);
      return;
    }
    const [x, y] = this.place();
    world.cursor = [x + by[0], y + by[1]];
    if (this.anchor && (this.tool === "wall" || this.tool === "zone")) {
      world.sketch = { kind: this.tool, box: thick(boxOf(this.anchor.from, world.cursor)) };
    } else if (this.anchor) world.sketch = { kind: "way", points: [...this.anchor.points, world.cursor] };
  }

  enter(stamp) {
    const { table, world } = this, at = this.place();
    if (this.tool === "move") return;
    world.cursor = at;
    if (this.tool === "erase") return this.erase(at, stamp);
    if (this.tool === "come" || this.tool === "keep") return table.draw({ id: table.fresh(this.tool), kind: this.tool, points: [at] }, stamp);
    if (!this.anchor) {
      this.anchor = { from: at, points: [at] };
      return table.tell(this.tool === "way" ? "Move, Enter sets a point; Enter twice at one place ends the way." : "Move with the arrow keys; Enter ends the box.");
    }
    if (this.tool === "way" && far(this.anchor.points.at(-1), at) > 0.05) return this.anchor.points.push(at);
    const { from, points } = this.anchor;
    this.giveUp();
    world.cursor = at;
    if (this.tool === "way") this.finishWay(table.fresh("way"), points, stamp);
    else table.draw({ id: table.fresh(this.tool), kind: this.tool, box: thick(boxOf(from, at)) }, stamp);
  }
}

const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

function shifted(mark, [dx, dy]) {
  if (mark.box) return { ...mark, box: mark.box.map((v, i) => v + (i % 2 ? dy : dx)) };
  return { ...mark, points: mark.points.map(([x, y]) => [x + dx, y + dy]) };
}

