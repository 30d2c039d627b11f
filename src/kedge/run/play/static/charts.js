// Small plots: the noise levels of the walk, and the run's error by noise level.

const SPACE = "http://www.w3.org/2000/svg";

function make(name, attributes, ...inside) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

const scaled = (low, high, from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
const said = (scale) => (scale >= 9.95 ? scale.toFixed(0) : scale >= 0.0995 ? scale.toFixed(1) : scale.toPrecision(1));

// The levels from the noisiest to the clean one; `at` may lie between two of them.
export function levels(place, scales, at) {
  const width = 300, noisy = scales.filter((s) => s > 0), logs = noisy.map(Math.log);
  const x = scaled(Math.max(...logs), Math.min(...logs), 12, width - 58);
  const where = scales.map((s) => (s > 0 ? x(Math.log(s)) : width - 14));
  const plot = make("svg", { viewBox: `0 0 ${width} 40`, class: "plot", role: "img", "aria-label": `Noise scales of the walk: ${scales.map(said).join(", ")}` });
  plot.append(make("line", { x1: where[0], x2: where.at(-1), y1: 13, y2: 13, class: "axis" }));
  let free = -1e9;
  scales.forEach((scale, i) => {
    plot.append(make("circle", { cx: where[i], cy: 13, r: 4.2, class: i <= at ? "dot past" : "dot" }));
    const last = i === scales.length - 1;
    if (last || (where[i] > free && where[i] < width - 46) || i === 0) {
      plot.append(make("text", { x: where[i], y: 34, "text-anchor": last ? "end" : i ? "middle" : "start", dx: last ? 12 : i ? 0 : -6 }, last ? "clean" : said(scale)));
      free = where[i] + 26;
    }
  });
  const below = Math.floor(at), next = Math.min(below + 1, scales.length - 1), w = at - below;
  plot.append(make("circle", { cx: where[below] + w * (where[next] - where[below]), cy: 13, r: 6, class: "now" }));
  place.replaceChildren(plot);
}

// `log L` over the noise scale: the last curve in full, those before it fainter, what the weighting takes it for dashed.
export function landscape(place, curves, scales) {
  if (!curves.length) return place.replaceChildren(Object.assign(document.createElement("p"), { className: "missing", textContent: "This run's folder has no landscape.csv." }));
  const width = 300, height = 112, left = 26, down = height - 20;
  const xs = curves.flatMap((c) => c.log_sigma), ys = curves.flatMap((c) => [...c.log_loss, ...c.fitted.filter((v) => v !== null)]);
  const x = scaled(Math.min(...xs), Math.max(...xs), left, width - 4), y = scaled(Math.min(...ys), Math.max(...ys), down - 4, 6);
  const last = curves.at(-1);
  const plot = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": `log L by noise scale at steps ${curves.map((c) => c.step).join(", ")}: lowest ${Math.min(...last.log_loss).toFixed(1)}, highest ${Math.max(...last.log_loss).toFixed(1)} at the end` });
  plot.append(make("line", { x1: left, x2: width - 4, y1: down, y2: down, class: "axis" }));
  for (const scale of scales) if (scale > 0 && Math.log(scale) <= Math.max(...xs) && Math.log(scale) >= Math.min(...xs)) plot.append(make("line", { x1: x(Math.log(scale)), x2: x(Math.log(scale)), y1: 6, y2: down, class: "level" }));
  for (const scale of [0.01, 0.1, 1, 10]) {
    const at = Math.log(scale);
    if (at < Math.min(...xs) || at > Math.max(...xs)) continue;
    plot.append(make("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, `σ=${scale}`));
  }
  for (const v of ticks(Math.min(...ys), Math.max(...ys))) plot.append(make("text", { x: left - 5, y: y(v) + 3.5, "text-anchor": "end" }, String(v)));
  curves.forEach((curve, i) => {
    const path = curve.log_sigma.map((s, k) => `${k ? "L" : "M"}${x(s).toFixed(1)} ${y(curve.log_loss[k]).toFixed(1)}`).join("");
    plot.append(make("path", { d: path, class: "curve", opacity: i === curves.length - 1 ? 1 : 0.16 + (0.3 * i) / curves.length }));
  });
  const fitted = last.log_sigma.map((s, k) => [s, last.fitted[k]]).filter(([, v]) => v !== null);
  if (fitted.length) plot.append(make("path", { d: fitted.map(([s, v], k) => `${k ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join(""), class: "fit" }));
  place.replaceChildren(plot);
}

function ticks(low, high) {
  const step = [0.5, 1, 2, 5, 10].find((s) => (high - low) / s <= 5) ?? 20;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(Math.round(v * 10) / 10);
  return found;
}
