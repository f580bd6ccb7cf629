// --- the Pareto plot
let axis = data.axis;
let selected = data.selected || "";
const planeHost = document.getElementById("plane");
const card = document.getElementById("card");
function budgetWindow(root, plane, x, y, box) {
  if (plane.max_x === null && plane.min_y === null) return;
  const right = plane.max_x === null ? box.right : clamp(x(plane.max_x), box.left, box.right);
  const low = plane.min_y === null ? box.bottom : clamp(y(plane.min_y), box.top, box.bottom);
  root.append(s("rect", { class: "window", x: box.left, y: box.top, width: right - box.left, height: Math.max(0, low - box.top) }));
  if (plane.max_x !== null && x(plane.max_x) <= box.right) {
    root.append(s("line", { class: "rule", x1: right, x2: right, y1: box.top, y2: box.bottom }));
    const anchor = right > box.right - 90 ? "end" : "start";
    root.append(s("text", { x: right + (anchor === "end" ? -5 : 5), y: box.bottom - 6, "text-anchor": anchor }, `≤ ${short(plane.max_x)} ${plane.axis.unit}`));
  }
  if (plane.min_y !== null) {
    root.append(s("line", { class: "rule", x1: box.left, x2: box.right, y1: low, y2: low }));
    root.append(s("text", { x: box.right - 4, y: low - 5, "text-anchor": "end" }, `≥ ${plane.min_y.toFixed(2)} %`));
  }
}

function dot(plane, p, x, y, box) {
  const px = clamp(x(Math.max(p.x, 1e-12)), box.left, box.right), py = clamp(y(p.y), box.top, box.bottom);
  const outside = p.y < plane.y_range[0] || p.y > plane.y_range[1] || p.x < plane.x_range[0] || p.x > plane.x_range[1];
  const r = p.rank ? (box.right < 420 ? 7 : 9) : 4.5;
  const lost = p.status === "dropped" || p.status === "failed";
  const text = `${p.y.toFixed(2)} % at ${short(p.x)} ${plane.axis.unit}${outside ? " (off the scale)" : ""}`;
  const kind = p.rank ? `front ${p.rank}` : p.status;
  const g = s("g", {
    class: `dot ${p.status}${p.id === selected ? " selected" : ""}`, role: "button", tabindex: "-1", "data-id": p.id,
    "aria-label": `${p.label}, ${kind}${p.baseline ? ", float baseline" : ""}: ${text}`,
    transform: `translate(${px.toFixed(1)},${py.toFixed(1)})`,
  });
  g.append(s("circle", { class: "hit", r: 12 }));
  if (lost) g.append(s("path", { d: "M-4-4L4 4M-4 4L4-4" }));
  else g.append(s("circle", { class: "body", r }));
  if (p.baseline) g.append(s("circle", { class: "ring", r: r + 4 }));
  g.append(s("circle", { class: "halo", r: r + 1.5 }));
  if (p.rank) g.append(s("text", { y: r > 8 ? 4 : 3.2 }, String(p.rank)));
  const show = () => showTip(planeHost, p.label, text, px, py);
  g.addEventListener("mouseenter", show);
  g.addEventListener("focus", show);
  g.addEventListener("mouseleave", hideTip);
  g.addEventListener("blur", hideTip);
  g.addEventListener("click", () => select(p.id));
  return g;
}

const order = { failed: 0, dropped: 1, dominated: 2, front: 3 };
const pareto = chart(planeHost, () => {
  const plane = data.planes[axis];
  return {
    label: `${plane.metric} against ${plane.axis.title.toLowerCase()}`,
    x: plane.x_range, y: plane.y_range, log: plane.log,
    xTitle: `${plane.axis.title}, ${plane.axis.unit}${plane.log ? " (log)" : ""}`, yTitle: `${plane.metric}, % (val)`,
    draw(root, x, y, box) {
      budgetWindow(root, plane, x, y, box);
      const corners = [];
      plane.line.forEach(([cx, cy], n) => {
        if (n) corners.push([x(cx), y(plane.line[n - 1][1])]);
        corners.push([x(cx), y(cy)]);
      });
      if (corners.length) corners.push([box.right, corners[corners.length - 1][1]]);
      if (corners.length) root.append(s("path", { class: "step", d: path(corners) }));
      const points = [...plane.points].sort((a, b) => order[a.status] - order[b.status] || a.x - b.x);
      root.append(...points.map((p) => dot(plane, p, x, y, box)));
      const first = root.querySelector(".dot.selected") || root.querySelector(".dot.front") || root.querySelector(".dot");
      if (first) first.setAttribute("tabindex", "0");
    },
  };
});

function focusDot(g) {
  for (const other of planeHost.querySelectorAll('.dot[tabindex="0"]')) other.setAttribute("tabindex", "-1");
  g.setAttribute("tabindex", "0");
  g.focus();
}
if (planeHost) planeHost.addEventListener("keydown", (event) => {
  const current = event.target.closest ? event.target.closest(".dot") : null;
  if (!current) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    select(current.dataset.id);
    return;
  }
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const ids = data.planes[axis].points.map((p) => p.id);
  const next = ids[clamp(ids.indexOf(current.dataset.id) + step, 0, ids.length - 1)];
  focusDot([...planeHost.querySelectorAll(".dot")].find((g) => g.dataset.id === next));
});

// --- the card
function select(id) {
  selected = id;
  for (const g of document.querySelectorAll(".dot")) g.classList.toggle("selected", g.dataset.id === id);
  for (const row of document.querySelectorAll("tr[data-id]")) row.classList.toggle("selected", row.dataset.id === id);
  if (!card || !data.cards[id]) return;
  const c = data.cards[id];
  const state = [h("b", {}, c.status === "front" ? "On the front" : c.status[0].toUpperCase() + c.status.slice(1))];
  const more = [c.pick, id === data.baseline ? "float baseline" : "", c.reason].filter(Boolean).join(" · ");
  if (more) state.push(` · ${more}`);
  const facts = c.facts.map(([key, text]) => h("div", {}, h("dt", {}, key), h("dd", key === "SHA-256" || key === "Id" ? { class: "mono" } : {}, text)));
  card.replaceChildren(
    h("h3", {}, c.label),
    h("p", { class: "state" }, ...state),
    h("dl", {}, ...facts),
    ...c.notes.map((note) => h("p", { class: "note" }, note)),
    ...c.commands.map(([title, command]) => h("div", { class: "command" },
      h("code", {}, command), h("button", { type: "button", class: "copy", "aria-label": `Copy: ${title}` }, "Copy"))),
  );
}
if (card && !data.cards[selected]) card.append(h("p", { class: "state" }, "Choose a candidate in the plot or in the table."));
for (const row of document.querySelectorAll("tr[data-id]")) {
  if (!(data.cards || {})[row.dataset.id]) continue;
  const head = row.querySelector("th span");
  const button = h("button", { type: "button", class: "pick" }, head.textContent);
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    select(row.dataset.id);
    if (card) card.scrollIntoView({ block: "nearest" });
  });
}
if (card && data.cards[selected]) select(selected);

// --- other charts
const known = (curve, key, factor) => curve.epochs.map((e, n) => [e, curve[key][n]]).filter((p) => Number.isFinite(p[1])).map(([e, v]) => [e, v * factor]);
if (byId("progress")) lines(byId("progress"), [{ name: "", points: data.progress.map(([n, v]) => [n, 100 * v]) }],
  { label: "Hypervolume", yTitle: "hypervolume, %", xTitle: "evaluations", step: true });
if (byId("curves")) {
  const named = (key, factor) => data.curves.map((c) => ({ name: c.label, points: known(c, key, factor) }));
  lines(byId("curves"), named("score", 100), { label: "Validation score", yTitle: "score, %", xTitle: "epoch" });
  lines(byId("loss"), named("loss", 1), { label: "Training loss", yTitle: "loss", xTitle: "epoch" });
}
[...document.querySelectorAll(".histogram")].forEach((host, n) => {
  const { edges, counts, label, id } = data.histograms[n];
  chart(host, () => ({
    label: `Latency samples of ${label}`, counts: true, yTitle: "samples", xTitle: "latency, ms",
    x: [edges[0], edges[edges.length - 1]], y: [0, Math.max(...counts) * 1.08],
    draw(root, x, y, box) {
      const bars = s("g", { class: `bars${id === data.baseline ? " quiet" : ""}` });
      counts.forEach((k, i) => {
        if (k) bars.append(s("rect", { x: x(edges[i]), y: y(k), width: Math.max(1, x(edges[i + 1]) - x(edges[i]) - 1), height: box.bottom - y(k) }));
      });
      root.append(bars);
    },
  }));
});

// --- stages: a colour and a shape each
const shapes = ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M-4.5-4.5h9v9h-9Z", "M0-6L6 0L0 6L-6 0Z", "M0-6L6 5H-6Z", "M0 6L6-5H-6Z", "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4Z"];
const shape = (n, attributes) => s("path", { class: `shape s${n % 6}`, d: shapes[n % 6], ...attributes });
const stagesHost = byId("stages-plane");
chart(stagesHost, () => {
  const plane = data.stages;
  return {
    label: `${plane.metric} against operations`, x: plane.x_range, y: plane.y_range, log: plane.log,
    xTitle: `MACs, M${plane.log ? " (log)" : ""}`, yTitle: `${plane.metric}, % (val)`,
    draw(root, x, y, box) {
      const corners = plane.line.flatMap(([px, py], k) => (k ? [[x(px), y(plane.line[k - 1][1])], [x(px), y(py)]] : [[x(px), y(py)]]));
      root.append(s("path", { class: "steps", d: path([...corners, [box.right, corners[corners.length - 1][1]]]) }));
      plane.stages.forEach((stage, n) => {
        for (const p of stage.points) {
          const text = `${stage.name}: ${p.y.toFixed(2)} % at ${short(p.x)} M MACs${p.front ? ", on the front so far" : ""}`;
          const mark = shape(n, { transform: `translate(${x(p.x).toFixed(1)},${y(p.y).toFixed(1)})`, tabindex: "0", role: "img", "aria-label": `${p.label}, ${text}` });
          const show = () => showTip(stagesHost, p.label, text, x(p.x), y(p.y));
          mark.addEventListener("mouseenter", show);
          mark.addEventListener("focus", show);
          mark.addEventListener("mouseleave", hideTip);
          mark.addEventListener("blur", hideTip);
          root.append(mark);
        }
      });
    },
  };
});
if (stagesHost) {
  const key = (name, mark) => h("li", {}, s("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, mark), cut(name, 60));
  const front = s("path", { class: "steps", d: "M-7 0H7" });
  stagesHost.after(h("ul", { class: "legend" }, ...data.stages.stages.map((stage, n) => key(stage.name, shape(n))), key("front", front)));
}

// --- comparison of runs
const fronts = byId("fronts-chart");
const compared = chart(fronts, () => {
  const plane = data.fronts[axis];
  return {
    label: `${plane.metric} against ${plane.title.toLowerCase()}`, x: plane.x_range, y: plane.y_range, log: plane.log,
    xTitle: `${plane.title}, ${plane.unit}${plane.log ? " (log)" : ""}`, yTitle: `${plane.metric}, % (val)`,
    draw(root, x, y) {
      plane.runs.forEach((run, n) => {
        const corners = run.line.flatMap(([px, py], k) => (k ? [[x(px), y(run.line[k - 1][1])], [x(px), y(py)]] : [[x(px), y(py)]]));
        if (corners.length) root.append(s("path", { class: `line s${n % 6}`, d: path(corners) }));
        for (const p of run.points) {
          const c = s("circle", { class: `mark0 s${n % 6}`, cx: x(p.x), cy: y(p.y), r: 5, tabindex: "0", role: "img", "aria-label": `${run.name}: ${p.label}` });
          const show = () => showTip(fronts, run.name, `${p.label}: ${p.y.toFixed(2)} % at ${short(p.x)} ${plane.unit}`, x(p.x), y(p.y));
          c.addEventListener("mouseenter", show);
          c.addEventListener("focus", show);
          c.addEventListener("mouseleave", hideTip);
          c.addEventListener("blur", hideTip);
          root.append(c);
        }
      });
    },
  };
});
if (fronts) legend(fronts, data.fronts[axis].runs.map((r) => r.name));

// --- switches, sorting, copying
for (const input of document.querySelectorAll('input[name="axis"]')) input.addEventListener("change", () => {
  axis = input.value;
  hideTip();
  pareto.redraw();
  compared.redraw();
});
for (const key of document.querySelectorAll(".budget-key")) {
  key.hidden = Object.values(data.planes).every((plane) => plane.max_x === null && plane.min_y === null);
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sign = up ? 1 : -1, rows = [...table.tBodies[0].rows];
      const numeric = head.classList.contains("num") || rows.some((row) => row.cells[column].dataset.value !== undefined);
      const key = (row) => (numeric ? (row.cells[column].dataset.value === undefined ? null : Number(row.cells[column].dataset.value)) : row.cells[column].textContent.trim());
      const keyed = rows.map((row) => [key(row), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);  // what was not measured stays last
        return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
      });
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest ? event.target.closest(".copy") : null;
  if (!button) return;
  const done = await copy(button.parentElement.querySelector("code").textContent);
  button.dataset.text = button.dataset.text || button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = button.dataset.text; }, 1600);
});
window.addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
