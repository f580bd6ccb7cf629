const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

// Elements are only ever built from text nodes and attributes, never from markup.
const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.filter((c) => c !== null && c !== ""));
  return node;
};
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const short = (value) => Number(value.toPrecision(3)).toString();
const tickText = (value) => Number(value.toPrecision(6)).toString();
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// --- axes
function linearTicks(low, high, n) {
  const raw = (high - low) / Math.max(1, n) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(10)));
  return ticks;
}
function logTicks(low, high, n) {
  const all = (factors) => {
    const ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const f of factors) if (f * 10 ** e >= low && f * 10 ** e <= high) ticks.push(Number((f * 10 ** e).toPrecision(10)));
    return ticks;
  };
  const fine = all([1, 2, 5]);
  if (fine.length < 3) return linearTicks(low, high, n);
  return fine.length <= n + 2 ? fine : all([1]);
}
function scale(range, pixels, log) {
  const f = log ? Math.log : (v) => v;
  const [a, b] = [f(range[0]), f(range[1])];
  return (v) => pixels[0] + ((f(v) - a) / (b - a || 1)) * (pixels[1] - pixels[0]);
}

// A chart: axes from `spec`, content by `spec.draw(root, x, y, box)`; drawn again when its width changes.
function chart(host, spec) {
  if (!host) return { redraw: () => {} };
  let width = 0;
  const redraw = () => {
    const current = spec();
    const w = host.clientWidth, hgt = host.clientHeight;
    if (!w) return;
    width = w;
    const box = { left: 46, right: w - 12, top: 22, bottom: hgt - 40 };
    const x = scale(current.x, [box.left, box.right], current.log);
    const y = scale(current.y, [box.bottom, box.top], false);
    const root = s("svg", { viewBox: `0 0 ${w} ${hgt}`, role: "group", "aria-label": current.label });
    const nx = Math.max(2, Math.floor(w / 70)), ny = Math.max(2, Math.floor(hgt / (hgt > 300 ? 75 : 48)));
    for (const t of linearTicks(...current.y, ny)) {
      if (current.counts && !Number.isInteger(t)) continue;
      root.append(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) }));
      root.append(s("text", { x: box.left - 8, y: y(t) + 4, "text-anchor": "end" }, tickText(t)));
    }
    for (const t of current.log ? logTicks(...current.x, nx) : linearTicks(...current.x, nx)) {
      if (current.whole && !Number.isInteger(t)) continue;
      root.append(s("line", { class: "grid", x1: x(t), x2: x(t), y1: box.bottom, y2: box.bottom + 4 }));
      root.append(s("text", { x: x(t), y: box.bottom + 18, "text-anchor": "middle" }, tickText(t)));
    }
    root.append(s("text", { x: 0, y: 10 }, current.yTitle));
    root.append(s("text", { x: box.right, y: hgt - 4, "text-anchor": "end" }, current.xTitle));
    current.draw(root, x, y, box);
    host.replaceChildren(root, ...(current.extra ? current.extra(x, y, box) : []));
  };
  new ResizeObserver(() => { if (host.clientWidth !== width) redraw(); }).observe(host);
  redraw();
  return { redraw };
}
const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
const cut = (text, n) => (text.length > n ? text.slice(0, n - 1) + "…" : text);

function legend(host, names) {
  if (names.length < 2) return;
  host.after(h("ul", { class: "legend" }, ...names.map((name, n) => h("li", {}, h("i", { class: `key line s${n % 6}` }), cut(name, 60)))));
}
const byId = (id) => document.getElementById(id);

// --- a tip beside what is pointed at
const tip = h("div", { class: "tip", role: "status" });
tip.hidden = true;

function showTip(host, name, text, px, py) {
  tip.replaceChildren(h("b", {}, name), text);
  host.append(tip);
  tip.hidden = false;
  const left = clamp(px - tip.offsetWidth / 2, 0, Math.max(0, host.clientWidth - tip.offsetWidth));
  const above = py - tip.offsetHeight - 14;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > -20 ? above : py + 16}px`;
}
const hideTip = () => { tip.hidden = true; };

// --- lines over epochs or evaluations
const lines = (host, series, options) => {
  const xs = series.flatMap((c) => c.points.map((p) => p[0])), ys = series.flatMap((c) => c.points.map((p) => p[1]));
  if (!xs.length) { if (host) host.closest("figure").remove(); return; }
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  chart(host, () => ({
    ...options, whole: true, x: [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)], y: [options.zero ? 0 : low - pad, high + pad],
    draw(root, x, y) {
      series.forEach((c, n) => {
        if (!c.points.length) return;
        const corners = c.points.flatMap(([px, py], k) => (options.step && k ? [[x(px), y(c.points[k - 1][1])], [x(px), y(py)]] : [[x(px), y(py)]]));
        root.append(s("path", { class: `line s${n % 6}`, d: path(corners) }));
        if (c.points.length === 1) root.append(s("circle", { class: `mark0 s${n % 6}`, cx: x(c.points[0][0]), cy: y(c.points[0][1]), r: 3 }));
      });
    },
  }));
  if (series.length <= 12) legend(host, series.map((c) => c.name));
};
