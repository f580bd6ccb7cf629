"use strict";
(() => {
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

  // --- the Pareto plot
  let axis = "latency";
  let selected = data.selected || "";
  const planeHost = document.getElementById("plane");
  const card = document.getElementById("card");
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
  const known = (curve, key, factor) => curve.epochs.map((e, n) => [e, curve[key][n]]).filter((p) => Number.isFinite(p[1])).map(([e, v]) => [e, v * factor]);
  const byId = (id) => document.getElementById(id);
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
  if (fronts) legend(fronts, data.fronts.latency.runs.map((r) => r.name));

  // --- switches, sorting, copying
  for (const input of document.querySelectorAll('input[name="axis"]')) input.addEventListener("change", () => {
    axis = input.value;
    hideTip();
    pareto.redraw();
    compared.redraw();
  });
  for (const key of document.querySelectorAll(".budget-key")) {
    const plane = data.planes.latency, other = data.planes.size;
    key.hidden = plane.max_x === null && plane.min_y === null && other.max_x === null;
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
})();
