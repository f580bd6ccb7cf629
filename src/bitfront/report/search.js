// --- bit searches: the plane, the heat maps, the table of tensors and the odds of one search; all follow one picked plan
(data.searches || []).forEach((search, number) => {
  const part = (name) => byId(`search-${number}-${name}`);
  let axis = 0, view = "near", picked = search.first;
  const n_members = search.members.length;

  // the plane
  const host = part("plane");
  const plot = chart(host, () => {
    const plane = search.planes[axis], limits = plane.views[view];
    return {
      label: `${search.metric} against ${plane.title}`, x: limits.x, y: limits.y, log: limits.log,
      xTitle: `${plane.title}${plane.unit ? `, ${plane.unit}` : ""}${limits.log ? " (log)" : ""}`, yTitle: `${search.metric}, %`,
      draw(root, x, y, box) {
        const inside = ([px, py]) => px >= limits.x[0] && px <= limits.x[1] && py >= limits.y[0] && py <= limits.y[1];
        const at = ([px, py]) => [clamp(x(Math.max(px, 1e-12)), box.left, box.right), clamp(y(py), box.top, box.bottom)];
        level(root, search.floor, "floor", "rule", y, box, limits);
        level(root, search.float_score, "float32", "rule float", y, box, limits);
        const cloud = plane.points.filter(inside).map((p) => { const [px, py] = at(p); return `M${px.toFixed(1)},${py.toFixed(1)}h0`; });
        if (cloud.length) root.append(s("path", { class: "cloud", d: cloud.join("") }));
        const line = plane.line.filter(([px]) => px <= limits.x[1]);
        const corners = line.flatMap((p, n) => (n ? [[at(p)[0], at(line[n - 1])[1]], at(p)] : [at(p)]));
        if (corners.length) root.append(s("path", { class: "step", d: path([...corners, [box.right, corners[corners.length - 1][1]]]) }));
        for (const [px, py, text] of plane.labelled) if (inside([px, py])) {
          const [cx, cy] = at([px, py]);
          const end = cx > box.right - 80;
          root.append(s("path", { class: "diamond", d: `M${cx},${cy - 6}l6,6l-6,6l-6,-6z` }));
          root.append(s("text", { class: "name", x: cx + (end ? -10 : 10), y: cy + 14, "text-anchor": end ? "end" : "start" }, cut(text, 30)));
        }
        const dots = plane.members.map((p, n) => dot(n, p, at(p), inside(p)));
        root.append(...dots.filter((_, n) => n !== picked), ...dots.filter((_, n) => n === picked));
      },
    };
  });

  function level(root, value, text, name, y, box, limits) {
    if (value === null || value < limits.y[0] || value > limits.y[1]) return;
    root.append(s("line", { class: name, x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    root.append(s("text", { class: "name", x: box.left + 4, y: y(value) - 5 }, `${text} ${value.toFixed(2)} %`));
  }

  function dot(n, [px, py], [cx, cy], inside) {
    const member = search.members[n], plane = search.planes[axis];
    const text = `${py.toFixed(2)} % at ${short(px)} ${plane.unit}; ${member.bits}${member.dropped ? `; dropped: ${member.dropped}` : ""}${inside ? "" : " (off the scale)"}`;
    const g = s("g", {
      class: `dot ${member.dropped ? "dropped" : "front"}${n === picked ? " selected" : ""}${inside ? "" : " off"}`, role: "button", "data-n": n,
      tabindex: n === (picked < n_members ? picked : 0) ? "0" : "-1", "aria-label": `Plan ${n + 1}: ${text}`,
      transform: `translate(${cx.toFixed(1)},${cy.toFixed(1)})`,
    });
    g.append(s("circle", { class: "hit", r: 12 }), s("circle", { class: "body", r: 8 }), s("circle", { class: "halo", r: 9.5 }), s("text", { y: 3.6 }, String(n + 1)));
    const show = () => showTip(host, `Plan ${n + 1}`, text, cx, cy);
    for (const name of ["mouseenter", "focus"]) g.addEventListener(name, show);
    for (const name of ["mouseleave", "blur"]) g.addEventListener(name, hideTip);
    g.addEventListener("click", () => pick(n));
    return g;
  }

  if (host) host.addEventListener("keydown", (event) => {
    const current = event.target.closest ? event.target.closest(".dot") : null;
    if (!current) return;
    const n = Number(current.dataset.n);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick(n);
      host.querySelector(`.dot[data-n="${n}"]`).focus();
      return;
    }
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    host.querySelector(`.dot[data-n="${clamp(n + step, 0, n_members - 1)}"]`).focus();
  });
  for (const name of ["axis", "view"]) for (const input of document.getElementsByName(`search-${number}-${name}`)) input.addEventListener("change", () => {
    if (name === "axis") axis = Number(input.value);
    else view = input.value;
    hideTip();
    plot.redraw();
  });

  const steps = (name, yTitle) => {
    if (part(name)) lines(part(name), [{ name: "", points: search[name] }], { label: yTitle, yTitle, xTitle: "evaluations", step: true });
  };
  steps("hypervolume", "hypervolume, %");
  steps("at_level", search.planes.length ? `${search.planes[0].title}${search.planes[0].unit ? `, ${search.planes[0].unit}` : ""}` : "");

  // the heat maps: a row a plan, a column a tensor
  const maps = Object.entries(search.groups).map(([group, columns]) => heatMap(part(`heat-${group}`), group, columns));

  function heatMap(mapHost, group, columns) {
    const narrow = () => mapHost.clientWidth < 520;
    const rows = search.members.map((_, n) => n);
    let cell = [Math.min(picked, n_members - 1), 0], box = null;
    const draw = () => {
      const w = mapHost.clientWidth;
      if (!w) return;
      const left = narrow() ? 22 : 172, step = (w - left) / columns.length, height = 18, top = 2, bars = 34;
      const bottom = top + rows.length * height;
      box = { left, top, step, height, bottom };
      mapHost.style.height = `${bottom + bars + 24}px`;
      const root = s("svg", { viewBox: `0 0 ${w} ${bottom + bars + 24}`, role: "img", "aria-label": `Bits of ${columns.length} ${group} tensors in ${rows.length} plans; the table below has them as text` });
      const paths = new Map();
      for (const row of rows) {
        const y = top + row * height;
        const label = s("text", { class: `row${row === picked ? " picked" : ""}`, x: 0, y: y + 13 }, narrow() ? String(row + 1) : cut(search.members[row].row, 28));
        label.addEventListener("click", () => pick(row));
        root.append(label);
        columns.forEach((tensor, k) => {
          const bits = search.picks[row][tensor];
          if (bits === null) return;
          const x0 = left + k * step, gap = step > 4 ? 0.5 : 0;
          paths.set(bits, `${paths.get(bits) || ""}M${(x0 + gap).toFixed(2)},${y + 0.5}h${(step - 2 * gap).toFixed(2)}v${height - 1}h${(2 * gap - step).toFixed(2)}z`);
        });
      }
      for (const [bits, d] of paths) root.append(s("path", { class: `b${bits}`, d }));
      if (step >= 15) for (const row of rows) columns.forEach((tensor, k) => {
        const bits = search.picks[row][tensor];
        if (bits !== null) root.append(s("text", { class: `number on${bits}`, x: (left + (k + 0.5) * step).toFixed(1), y: top + row * height + 12.5 }, bits === 32 ? "f" : String(bits)));
      });
      if (picked < n_members) root.append(s("rect", { class: "outline-row", x: left - 1, y: top + picked * height - 0.5, width: step * columns.length + 2, height: height + 1 }));
      sizes(root, columns, box, bars);
      stages(root, columns, box, bottom + bars + 8);
      root.append(s("rect", { class: "cursor", width: Math.max(2, step), height, visibility: "hidden" }));
      mapHost.replaceChildren(root);
    };
    const show = () => {
      const [row, k] = cell, tensor = search.tensors[columns[k]], bits = search.picks[row][columns[k]];
      const cursor = mapHost.querySelector(".cursor");
      cursor.setAttribute("x", box.left + k * box.step);
      cursor.setAttribute("y", box.top + row * box.height);
      cursor.setAttribute("visibility", "visible");
      const said = bits === null ? "no bits" : bits === 32 ? "float32" : `${bits} bits`;
      showTip(mapHost, tensor.name, `${said} in plan ${row + 1}; ${tensor.size.toLocaleString("en")} values${tensor.fixed === null ? "" : "; not searched"}`, box.left + (k + 0.5) * box.step, box.top + row * box.height);
    };
    const leave = () => {
      hideTip();
      const cursor = mapHost.querySelector(".cursor");
      if (cursor) cursor.setAttribute("visibility", "hidden");
    };
    const find = (event) => {
      const area = mapHost.getBoundingClientRect();
      const k = Math.floor((event.clientX - area.left - box.left) / box.step), row = Math.floor((event.clientY - area.top - box.top) / box.height);
      if (k < 0 || k >= columns.length || row < 0 || event.clientY - area.top > box.bottom + 34) return false;
      cell = [Math.min(row, rows.length - 1), k];
      return true;
    };
    mapHost.addEventListener("pointermove", (event) => (find(event) ? show() : leave()));
    mapHost.addEventListener("pointerleave", leave);
    mapHost.addEventListener("click", (event) => { if (find(event)) pick(cell[0]); });
    mapHost.addEventListener("focus", () => { if (mapHost.matches(":focus-visible")) show(); });
    mapHost.addEventListener("blur", leave);
    mapHost.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
      if (event.key === "Enter" || event.key === " ") pick(cell[0]);
      else if (move) cell = [clamp(cell[0] + move[0], 0, rows.length - 1), clamp(cell[1] + move[1], 0, columns.length - 1)];
      else return;
      event.preventDefault();
      show();
    });
    watch(mapHost, draw);
    return draw;
  }

  // how many values each tensor has, on a linear scale
  function sizes(root, columns, box, height) {
    const most = Math.max(...columns.map((c) => search.tensors[c].size), 1);
    const bars = s("g", { class: "bars quiet" });
    columns.forEach((c, k) => {
      const tall = Math.max(1, (search.tensors[c].size / most) * (height - 10));
      bars.append(s("rect", { x: box.left + k * box.step + 0.5, y: box.bottom + height - tall, width: Math.max(0.8, box.step - 1), height: tall }));
    });
    root.append(bars);
    if (box.left > 100) root.append(s("text", { x: 0, y: box.bottom + height - 2 }, `values, up to ${short(most / (most < 1e6 ? 1e3 : 1e6))} ${most < 1e6 ? "k" : "M"}`));
  }

  // names of the network's parts, where there is room: what stands before the first dot
  function stages(root, columns, box, top) {
    let start = 0;
    const stage = (k) => search.tensors[columns[k]].name.split(/[./]/)[0];
    columns.forEach((_, k) => {
      if (k + 1 < columns.length && stage(k + 1) === stage(start)) return;
      const x0 = box.left + start * box.step, width = (k + 1 - start) * box.step;
      const room = Math.floor(width / 6.6);
      if (k > start && room >= 3) {
        root.append(s("path", { class: "brace", d: `M${x0 + 1},${top - 4}H${x0 + width - 1}` }));
        root.append(s("text", { class: "stage", x: x0 + width / 2, y: top + 9 }, cut(stage(start), room)));
      }
      start = k + 1;
    });
  }

  function watch(node, draw) {
    let width = 0;
    new ResizeObserver(() => {
      if (node.clientWidth === width) return;
      width = node.clientWidth;
      draw();
    }).observe(node);
    draw();
  }

  // the table of tensors
  const choice = part("pick");
  if (choice) choice.addEventListener("change", () => pick(Number(choice.value)));
  const table = part("why") ? part("why").querySelector("tbody") : null;

  function fillTable() {
    if (!table) return;
    for (const row of table.rows) {
      const tensor = Number(row.dataset.tensor);
      const cells = search.why[tensor][String(search.picks[picked][tensor])] || [];
      cells.forEach(([text, value, note], n) => {
        const td = row.cells[search.fixed_columns + n];
        td.replaceChildren(h("span", {}, text), ...(note ? [h("small", {}, note)] : []));
        if (value === null) delete td.dataset.value;
        else td.dataset.value = value;
      });
    }
    part("hurts").textContent = search.hurts[picked];
    for (const head of part("why").querySelectorAll('thead th[aria-sort]')) head.setAttribute("aria-sort", "none");
  }

  function pick(n) {
    picked = n;
    if (choice) choice.value = String(n);
    fillTable();
    plot.redraw();
    for (const draw of maps) draw();
    mark();
  }
  function mark() {
    const rows = part("members") ? part("members").querySelectorAll("tbody tr") : [];
    for (const row of rows) row.classList.toggle("selected", Number(row.dataset.member) === picked);
  }
  if (part("members")) for (const row of part("members").querySelectorAll("tbody tr")) {
    const head = row.querySelector("th span");
    const button = h("button", { type: "button", class: "pick", "aria-label": `Show plan ${head.textContent}` }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => pick(Number(row.dataset.member)));
  }
  mark();

  // the odds: a column a tensor, divided as its widths are drawn
  const oddsHost = part("odds");
  if (oddsHost) {
    const columns = search.odds;
    let at = 0, left = 46, step = 1;
    const one = part("odds-one"), name = part("odds-name");
    const draw = () => {
      const w = oddsHost.clientWidth, top = 6, bottom = 150;
      if (!w) return;
      step = (w - left) / columns.length;
      const root = s("svg", { viewBox: `0 0 ${w} 170`, role: "img", "aria-label": `Odds of the widths of ${columns.length} tensors` });
      columns.forEach(([, odds], k) => {
        let y = bottom;
        for (const [bits, p] of odds) {
          const tall = p * (bottom - top);
          y -= tall;
          root.append(s("rect", { class: `b${bits}`, x: left + k * step, y, width: Math.max(0.6, step - (step > 4 ? 1 : 0)), height: tall }));
        }
      });
      for (const t of [0, 50, 100]) root.append(s("text", { x: left - 8, y: bottom - (t / 100) * (bottom - top) + 4, "text-anchor": "end" }, `${t} %`));
      root.append(s("text", { x: left, y: 167 }, "tensors in execution order"));
      root.append(s("rect", { class: "cursor", x: left + at * step, y: top - 3, width: Math.max(2, step), height: bottom - top + 6 }));
      oddsHost.replaceChildren(root);
      interval();
    };
    const interval = () => {
      const [tensor, odds] = columns[at];
      name.textContent = search.tensors[tensor].name;
      const w = one.clientWidth;
      if (!w) return;
      const root = s("svg", { viewBox: `0 0 ${w} 92`, role: "img", "aria-label": odds.map(([bits, p]) => `${bits} bits ${(100 * p).toFixed(1)} %`).join(", ") });
      const bar = (values, y, text) => {
        let x = 0;
        root.append(s("text", { x: 0, y: y - 5 }, text));
        for (const [bits, p] of values) {
          root.append(s("rect", { class: `b${bits}`, x: x + 0.5, y, width: Math.max(0.5, p * w - 1), height: 24 }));
          const label = p * w > 88 ? `${bits} bits ${(100 * p).toFixed(0)} %` : p * w > 20 ? String(bits) : "";
          if (label) root.append(s("text", { class: `number on${bits}`, x: x + (p * w) / 2, y: y + 16.5 }, label));
          x += p * w;
        }
      };
      bar(odds.map(([bits]) => [bits, 1 / odds.length]), 15, "equal odds");
      bar(odds, 61, "biased by the scores with this tensor alone quantized");
      one.replaceChildren(root);
    };
    const move = (k) => {
      at = clamp(k, 0, columns.length - 1);
      const cursor = oddsHost.querySelector(".cursor");
      if (cursor) cursor.setAttribute("x", left + at * step);
      interval();
    };
    oddsHost.addEventListener("pointermove", (event) => move(Math.floor((event.clientX - oddsHost.getBoundingClientRect().left - left) / step)));
    oddsHost.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      move(at + by);
    });
    watch(oddsHost, draw);
  }
});
