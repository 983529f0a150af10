// Draws figures with Plotly.react, which keeps zoom and pan while the figure's uirevision stays.
// Those of runs that go on come once; what is new of them is asked for every two seconds.

const BUDGET_MS = 20; // of the main thread, before other things of the page have their turn
const POLL_MS = 2000;
const MAX_POINTS = 1200; // of one curve; then every second pair of neighbours goes
const HOVERS = matchMedia("(hover: hover)").matches; // without hover the buttons would cover the data permanently
const COLOURS = Array.from({ length: 8 }, (_, i) => `curve-${i + 1}`);
const root = document.querySelector('script[src*="static/js/"]')?.src.split("static/js/")[0] ?? "/";

function loadPlotly(path) {
  window.spelltunePlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = root + path;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    document.head.append(script);
  });
  return window.spelltunePlotly;
}

// The custom properties of panel.css, resolved for the current theme.
function palette(element) {
  const probe = document.createElement("span");
  element.append(probe);
  const names = ["ink", "quiet", "line", "faint", "raised", "accent", "good", "warn", ...COLOURS];
  const found = { font: getComputedStyle(element).fontFamily };
  for (const name of names) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

const MARKS = {
  best: "good", stop: "warn", heal: "warn", resume: "accent", fork: "accent", checkpoint: "quiet", beyond: "quiet",
};
// Margins of large and small charts of one run, which have their unit in the title.
const LARGE = { l: 48, r: 14, t: 20, b: 36 }, SMALL = { l: 48, r: 18, t: 16, b: 22 };

function themed({ layout }, look) {
  for (const { name, line } of layout.shapes ?? []) line.color = look[MARKS[name]];
  for (const { name, font } of layout.annotations ?? []) font.color = look[MARKS[name]];
  const small = Boolean(layout.meta?.group);
  const margin = layout.meta ? (small ? SMALL : LARGE) : { l: 62, r: 16, t: 10, b: 42 };
  const axis = {
    gridcolor: look.line, zeroline: false, color: look.quiet,
    // Off: both measure every label at every refresh. The margins below leave room for labels.
    automargin: false, ticklabeloverflow: "allow",
  };
  return {
    ...layout,
    font: { family: look.font, size: 12, color: look.quiet },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { ...margin, ...layout.margin }, height: layout.height ?? 210,
    autosize: true, showlegend: false,
    hovermode: layout.meta?.many ? "closest" : "x unified", hoverdistance: 24, dragmode: "zoom",
    modebar: { bgcolor: look.raised, color: look.quiet, activecolor: look.accent },
    hoverlabel: { bgcolor: look.raised, bordercolor: look.line, font: { family: look.font, size: 12, color: look.ink } },
    xaxis: { ...axis, ...layout.xaxis, ...(layout.meta?.many && { showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "solid", spikecolor: look.faint }), title: small ? undefined : { ...layout.xaxis?.title, standoff: 4, font: { size: 11 } }, showgrid: false, tickangle: 0, nticks: small ? 4 : 0, tickformat: layout.xaxis?.tickformat ?? ",.9~r" },
    yaxis: { ...axis, ...layout.yaxis, title: { ...layout.yaxis?.title, standoff: 8, font: { size: 11 } }, nticks: small ? 4 : 6 },
  };
}

function makeCard(grid, title, { unit, group } = {}) {
  const card = document.createElement("section");
  card.className = "chart";
  card.dataset.title = title;
  card.innerHTML = '<header><h3><span></span> <small></small></h3><span class="last"></span></header><div class="plot" role="group"></div>';
  card.querySelector("h3 span").textContent = title;
  card.querySelector("h3 small").textContent = !unit || group ? (unit ?? "") : `(${unit})`; // of a small one in a line of its own
  grid.append(card);
  grid.views.observe(card);
  return card;
}

function coloured(plain, look) {
  const trace = { ...plain };
  if (trace.type === "parcoords") {
    const scale = ["faint", ...COLOURS].map((name, i) => [i / COLOURS.length, look[name]]);
    trace.line = { ...trace.line, colorscale: scale, cmin: 0, cmax: COLOURS.length };
    for (const font of ["labelfont", "tickfont", "rangefont"]) trace[font] = { ...trace[font], color: look.ink };
    return trace;
  }
  const own = look[`curve-${trace.legendrank}`];
  const width = trace.line?.width ?? (trace.meta ? 1.75 : trace.line?.dash ? 1.25 : 2.5);
  trace.line = { ...trace.line, width, color: own };
  trace.marker = { size: 5, color: own, ...trace.marker };
  if (trace.fill) trace.fillcolor = own.replace("rgb(", "rgba(").replace(")", ", 0.18)");
  return trace;
}

async function drawCard(Plotly, card, figure, look) {
  card.shown = figure;
  card.revision = figure.revision;
  card.ink = look.ink;
  const traces = figure.data.map((trace) => coloured(trace, look));
  const plot = card.querySelector(".plot");
  card.classList.toggle("broad", figure.layout.height > 210 && !figure.layout.meta);
  plot.style.height = figure.layout.height ? `${figure.layout.height}px` : "";
  await Plotly.react(plot, traces, themed(figure, look), {
    displaylogo: false, responsive: true, doubleClick: "autosize", displayModeBar: HOVERS ? "hover" : false,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { filename: card.dataset.title, scale: 2 },
  });
  readOut(card, plot);
  // On the way of the Tab key one stop a chart: the others are for a pointer that drags.
  for (const button of plot.querySelectorAll(".modebar-btn"))
    button.tabIndex = button.dataset.title?.startsWith("Download") ? 0 : -1;
  if (!figure.layout.meta?.compared) return;
  bringOut(card.parentElement);
  if (plot.together) return;
  plot.together = true;
  hoverTogether(Plotly, card.parentElement, plot);
}

// The legend shows each curve's last value, so that no hovering is needed to read it.
function readOut(card, plot, out) {
  const { compared, many } = plot.layout.meta ?? {};
  if (many && !out) return; // as they are brought out
  const told = plot._fullData.filter((trace) => trace.meta && (!many || out.has(trace.legendgroup)));
  const items = told.map((trace) => {
    const item = document.createElement("span");
    item.style.setProperty("--curve", trace.line?.color ?? trace.marker?.color ?? "");
    item.dataset.dash = trace.line?.dash ?? "solid";
    if (trace.mode === "markers") item.dataset.symbol = trace.marker.symbol;
    const [name, last] = Array.isArray(trace.meta) ? trace.meta : [trace.name, trace.meta];
    item.textContent = `${name} ${last}`;
    return item;
  });
  plot.setAttribute("aria-label", `${card.dataset.title}: ${items.map((i) => i.textContent).join(", ")}`);
  // The title of a small chart says what its only curve is.
  if (card.classList.contains("small") && items.length === 1) items[0].textContent = plot._fullData[0].meta;
  // Names stand once above charts that are compared; of many lines those that stand out are named.
  if (compared) for (const [i, item] of items.entries()) {
    const { name, meta, legendgroup } = told[i];
    [item.title, item.textContent] = Array.isArray(meta) ? meta : [name, meta];
    if (many) item.textContent = `${card.parentElement.legend.names[legendgroup]} ${item.textContent}`;
  }
  card.querySelector(".last").replaceChildren(...items);
}

// A point of a chart is pointed at in all that are compared; of many lines its own stands out in all.
function hoverTogether(Plotly, grid, plot) {
  const others = () => [...grid.querySelectorAll(".plot")].filter((other) => other !== plot && other._fullLayout?.meta?.compared);
  plot.on("plotly_hover", ({ points, event }) => {
    if (!event?.isTrusted) return; // that of another chart
    const [{ x, fullData }] = points, { many } = plot.layout.meta;
    if (many) point(grid, fullData.legendgroup);
    for (const other of others()) {
      const curveNumber = other._fullData.findIndex((trace) => trace.name === fullData.name && trace.fill !== "toself");
      if (!many) Plotly.Fx.hover(other, { xval: x }, ["xy"]);
      else if (curveNumber >= 0) Plotly.Fx.hover(other, [{ curveNumber, pointNumber: nearest(other._fullData[curveNumber].x, x) }], ["xy"]);
    }
  });
  plot.on("plotly_unhover", ({ event }) => {
    if (!event?.isTrusted) return;
    point(grid, null);
    for (const other of others()) Plotly.Fx.unhover(other);
  });
}

const nearest = (values, wanted) => values.reduce((best, value, place) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? place : best), 0);

// --- which of the compared configs stand out ---

const FOLDED = 8; // names of a legend that are in view at first

function point(grid, config) {
  if (grid.pointed === config) return;
  grid.pointed = config;
  bringOut(grid);
}

// Those that are pointed at or picked stand out; where nobody points, of many the leader does.
function bringOut(grid) {
  const asked = new Set([...grid.picked, ...(grid.pointed === null ? [] : [grid.pointed])]);
  for (const plot of grid.querySelectorAll(".plot")) {
    const meta = plot._fullLayout && plot.layout.meta;
    if (!meta?.compared) continue;
    const out = asked.size ? asked : new Set(meta.lead ?? []);
    plot.classList.toggle("asked", asked.size > 0);
    plot.classList.toggle("many", Boolean(meta.many));
    for (const { uid, legendgroup, fill } of plot._fullData) {
      const line = plot.querySelector(`.scatterlayer .trace${uid}`);
      if (!line) continue;
      const stands = out.has(legendgroup);
      line.classList.toggle("out", stands);
      line.classList.toggle("muted", !stands && (out.size > 0 || Boolean(meta.many)));
      line.classList.toggle("band", fill === "toself");
      if (stands) line.parentNode.append(line); // over the others
    }
    if (meta.many) readOut(plot.closest(".chart"), plot, out);
  }
  markNames(grid, asked);
}

function markNames(grid, asked) {
  for (const button of grid.legend?.querySelectorAll("[data-config]") ?? []) {
    button.ariaPressed = grid.picked.has(button.dataset.config);
    button.classList.toggle("muted", asked.size > 0 && !asked.has(button.dataset.config));
  }
}

// The names of the configs above the charts: pointing at one brings its lines out, a press keeps them so.
function drawLegend(grid, entries) {
  const text = JSON.stringify(entries);
  if (grid.legend?.told === text) return;
  // Other runs may have been chosen: a config that is picked has another number then, or is gone. Of a name that goes
  // while it is pointed at, the browser says no end.
  const picked = new Set([...grid.picked].map((config) => grid.legend.names[config]));
  grid.picked = new Set(entries.filter(({ name }) => picked.has(name)).map(({ config }) => config));
  grid.pointed = null;
  grid.legend?.remove();
  grid.legend = Object.assign(document.createElement("div"), { className: "config-legend", role: "group", ariaLabel: "Configs", told: text });
  grid.legend.names = Object.fromEntries(entries.map(({ name, config }) => [config, name]));
  for (const [place, { name, config, colour, dash }] of entries.entries()) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.dataset.config = config;
    button.dataset.dash = dash;
    button.classList.toggle("beyond", place >= FOLDED);
    button.style.setProperty("--curve", `var(--curve-${colour})`);
    for (const begins of ["pointerenter", "focus"]) button.addEventListener(begins, () => point(grid, config));
    for (const ends of ["pointerleave", "blur"]) button.addEventListener(ends, () => point(grid, null));
    button.onclick = () => {
      if (!grid.picked.delete(config)) grid.picked.add(config);
      bringOut(grid);
    };
    grid.legend.append(button);
  }
  const folded = entries.length - FOLDED;
  if (folded > 1) {
    const more = Object.assign(document.createElement("button"), { type: "button", className: "fold" });
    const fold = (isFolded) => {
      more.textContent = isFolded ? `${folded} more` : "fewer";
      more.ariaExpanded = !isFolded;
      grid.legend.classList.toggle("folded", isFolded);
    };
    more.onclick = () => fold(more.ariaExpanded === "true");
    fold(true);
    grid.legend.append(more);
  }
  grid.before(grid.legend);
  markNames(grid, grid.picked);
}

const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

// What a grid holds, in the order of the server, whichever metric came first: cards, and above those of a group
// its heading. Small ones of a group stand in rows of as many as fill them best.
function arrange(grid, figures) {
  const titles = Object.keys(figures), of = (title) => figures[title].layout.meta?.group ?? "";
  const wanted = [];
  for (const title of titles) {
    const group = of(title), count = titles.filter((other) => of(other) === group).length;
    const card = (grid.cards[title] ??= makeCard(grid, title, figures[title].layout.meta));
    grid.classList.toggle("sized", Boolean(figures[title].layout.meta));
    card.classList.toggle("small", Boolean(group));
    // One or two are no wider than the large charts above them.
    card.style.setProperty("--wide-row", count <= 5 ? Math.max(count, 3) : [6, 9].includes(count) ? 3 : 4);
    card.classList.toggle("few", count < 3);
    card.style.setProperty("--narrow-row", Math.min(count, 2));
    if (group && !wanted.includes(grid.heads[group])) {
      grid.heads[group] ??= Object.assign(document.createElement("h2"), { textContent: group });
      wanted.push(grid.heads[group]);
    }
    wanted.push(card);
  }
  for (const [name, nodes] of [["cards", grid.cards], ["heads", grid.heads]]) {
    for (const [key, node] of Object.entries(nodes)) {
      if (wanted.includes(node)) continue;
      node.remove();
      delete grid[name][key];
    }
  }
  wanted.forEach((node, place) => {
    if (grid.children[place] !== node) grid.insertBefore(node, grid.children[place]);
  });
}

// Draws the charts that are not as they should be, all with the same step. Those out of view follow once they are in
// view again.
async function drawAll(grid) {
  const { plotly, figures } = grid.shown;
  const titles = Object.keys(figures);
  arrange(grid, figures);
  const Plotly = await loadPlotly(plotly);
  while (!getComputedStyle(grid).getPropertyValue("--curve-1")) await frame(); // until panel.css has loaded
  const look = palette(grid);
  let start = performance.now();
  for (const title of titles) {
    const card = grid.cards[title], figure = figures[title];
    if (card?.shown === figure && card.revision === figure.revision && card.ink === look.ink) continue;
    if (card.shown && !card.isNear) continue;
    if (performance.now() - start > BUDGET_MS) {
      await frame();
      start = performance.now();
    }
    if (!grid.isConnected || grid.shown.figures !== figures) return; // later ones are being drawn
    await drawCard(Plotly, card, figure, look);
  }
}

const parsed = (texts) =>
  Object.fromEntries(Object.entries(texts).map(([title, text]) => [title, { ...JSON.parse(text), revision: 0 }]));

// Plotly's arrays travel as base64 with a type.
const TYPES = { i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };
function listed(values) {
  if (!values?.bdata) return values ?? [];
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  return Array.from(new TYPES[values.dtype](bytes.buffer));
}

// A curve without what lies beyond `reach`, and with the new points.
function grown({ x, y, fill }, reach, more) {
  const oldX = listed(x), oldY = listed(y);
  const known = (value) => reach === null || reach === undefined || value <= reach;
  if (fill === "toself") {
    // The outline of an area: there above it, and back below it.
    const parts = [];
    for (const [xs, ys] of [[oldX, oldY], [more.x, more.y]]) {
      const half = xs.length / 2;
      parts.push(xs.slice(0, half).map((value, i) => [value, ys[i], ys[xs.length - 1 - i]]));
    }
    const all = thinned([...parts[0].filter(([value]) => known(value)), ...parts[1]]);
    const back = [...all].reverse();
    return { x: [...all, ...back].map((p) => p[0]), y: [...all.map((p) => p[1]), ...back.map((p) => p[2])] };
  }
  const kept = oldX.map((value, i) => [value, oldY[i]]).filter(([value]) => known(value));
  const all = thinned([...kept, ...more.x.map((value, i) => [value, more.y[i]])]);
  return { x: all.map((p) => p[0]), y: all.map((p) => p[1]) };
}

// At most MAX_POINTS points: of each four neighbours the lowest and the highest stay.
function thinned(points) {
  if (points.length <= MAX_POINTS) return points;
  const kept = [];
  for (let i = 0; i < points.length; i += 4) {
    const four = points.slice(i, i + 4);
    if (four.some((p) => p[1] === null || Number.isNaN(p[1]))) {
      kept.push(...four);
      continue;
    }
    let low = 0, high = 0;
    four.forEach((p, n) => {
      if (p[1] < four[low][1]) low = n;
      if (p[1] >= four[high][1]) high = n;
    });
    kept.push(...[...new Set([low, high])].sort((a, b) => a - b).map((n) => four[n]));
  }
  if (kept.at(-1) !== points.at(-1)) kept.push(points.at(-1));
  return kept;
}

// Puts what the server tells into the figures of a grid, and into the parts of the page that go on with them.
function take(shown, told) {
  const { live } = shown;
  for (const [name, html] of Object.entries(told.parts)) {
    const part = document.querySelector(`[data-live="${name}"]`);
    if (!part || part.told === html) continue; // the focus stays in what is the same
    part.innerHTML = part.told = html;
  }
  if (told.figures) {
    live.shape = told.shape;
    shown.figures = parsed(told.figures);
  } else {
    for (const [title, { curves, shapes, annotations, ends }] of Object.entries(told.news)) {
      const figure = shown.figures[title], marks = JSON.stringify([shapes, annotations]);
      const isNew = curves.some(({ x }) => x.length) || marks !== figure.marks;
      figure.marks = marks;
      if (!isNew) continue;
      curves.forEach((more, place) => {
        const trace = figure.data[place];
        Object.assign(trace, grown(trace, live.reach[title][place], more));
        if (more.meta !== null) trace.meta = more.meta;
        trace.mode = more.mode;
      });
      Object.assign(figure.layout, { shapes, annotations });
      figure.layout.yaxis = { ...figure.layout.yaxis, autorangeoptions: ends };
      figure.revision += 1;
    }
  }
  live.reach = told.reach;
}

async function follow(grid) {
  const { shown } = grid;
  for (let goesOn = true; goesOn; ) {
    await new Promise((done) => setTimeout(done, POLL_MS));
    if (!grid.isConnected || grid.shown !== shown) return;
    if (document.hidden) continue;
    const { source, shape, reach, address } = shown.live;
    try {
      const asked = new URLSearchParams({ asked: JSON.stringify({ source, shape, reach }) });
      const answer = await fetch(`${root}${address}?${asked}`);
      if (!answer.ok) continue; // the page itself says what is wrong
      const told = await answer.json();
      if (grid.shown !== shown) return;
      take(shown, told);
      goesOn = told.live;
      await drawAll(grid);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // the server is not reached: asked again
    }
  }
}

export default function ({ data, parentElement }) {
  const grid = parentElement.querySelector(".charts");
  grid.picked ??= new Set();
  grid.pointed ??= null;
  grid.cards ??= {};
  grid.heads ??= {};
  grid.views ??= new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) target.isNear = isIntersecting;
    if (entries.some(({ isIntersecting }) => isIntersecting)) drawAll(grid);
  }, { rootMargin: "200px" });
  // A page that refreshes sends the same charts again, which have grown meanwhile.
  const text = JSON.stringify(data);
  if (grid.text !== text) {
    grid.text = text;
    grid.shown = { plotly: data.plotly, figures: parsed(data.figures), live: data.live && { ...data.live } };
    if (data.live) follow(grid);
  }
  drawLegend(grid, data.legend ?? []);
  drawAll(grid);
  // Switching the theme only changes a class of the app's root.
  const watcher = new MutationObserver(() => drawAll(grid));
  const app = document.querySelector('[data-testid="stApp"]');
  if (app) watcher.observe(app, { attributes: true, attributeFilter: ["class", "style"] });
  return () => {
    watcher.disconnect();
    setTimeout(() => {
      if (grid.isConnected) return;
      for (const plot of grid.querySelectorAll(".plot")) window.Plotly?.purge(plot);
    });
  };
}
