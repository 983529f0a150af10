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
  const names = ["ink", "quiet", "line", "faint", "raised", "good", "warn", ...COLOURS];
  const found = { font: getComputedStyle(element).fontFamily };
  for (const name of names) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

const MARKS = { best: "good", stop: "warn", fork: "quiet" };

function themed({ layout }, look) {
  for (const { name, line } of layout.shapes ?? []) line.color = look[MARKS[name]];
  for (const { name, font } of layout.annotations ?? []) font.color = look[MARKS[name]];
  const axis = {
    gridcolor: look.line, zeroline: false, color: look.quiet,
    // Off: both measure every label at every refresh. The margins below leave room for labels.
    automargin: false, ticklabeloverflow: "allow",
  };
  return {
    ...layout,
    font: { family: look.font, size: 12, color: look.quiet },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 62, r: 16, t: 10, b: 42, ...layout.margin }, height: layout.height ?? 210,
    autosize: true, showlegend: false,
    hovermode: "x unified", dragmode: "zoom",
    hoverlabel: { bgcolor: look.raised, bordercolor: look.line, font: { color: look.ink } },
    xaxis: { ...axis, ...layout.xaxis, title: { ...layout.xaxis?.title, standoff: 4, font: { size: 11 } }, showgrid: false, tickangle: 0, tickformat: layout.xaxis?.tickformat ?? ",.9~r" },
    yaxis: { ...axis, ...layout.yaxis, title: { ...layout.yaxis?.title, standoff: 8, font: { size: 11 } }, nticks: 6 },
  };
}

function makeCard(grid, title) {
  const card = document.createElement("section");
  card.className = "chart";
  card.dataset.title = title;
  card.innerHTML = '<header><h3></h3><span class="last"></span></header><div class="plot" role="img"></div>';
  card.querySelector("h3").textContent = title;
  grid.append(card);
  return card;
}

function coloured(plain, look) {
  const trace = { ...plain };
  if (trace.type === "parcoords") {
    const scale = ["faint", ...COLOURS].map((name, i) => [i / COLOURS.length, look[name]]);
    trace.line = { ...trace.line, colorscale: scale, cmin: 0, cmax: COLOURS.length };
    for (const font of ["labelfont", "tickfont", "rangefont"]) trace[font] = { color: look.ink };
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
  card.classList.toggle("broad", figure.layout.height > 210); // not a small one
  plot.style.height = figure.layout.height ? `${figure.layout.height}px` : "";
  await Plotly.react(plot, traces, themed(figure, look), {
    displaylogo: false, responsive: true, doubleClick: "autosize", displayModeBar: HOVERS ? "hover" : false,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { filename: card.dataset.title, scale: 2 },
  });
  readOut(card, plot);
}

// The legend shows each curve's last value, so that no hovering is needed to read it.
function readOut(card, plot) {
  const items = plot._fullData.filter((trace) => trace.meta).map((trace) => {
    const item = document.createElement("span");
    item.style.setProperty("--curve", trace.line?.color ?? trace.marker.color);
    const [name, last] = Array.isArray(trace.meta) ? trace.meta : [trace.name, trace.meta];
    item.textContent = `${name} ${last}`;
    return item;
  });
  card.querySelector(".last").replaceChildren(...items);
  plot.setAttribute("aria-label", `${card.dataset.title}: ${items.map((i) => i.textContent).join(", ")}`);
}

const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

// Draws the charts that are not as they should be, all with the same step.
async function drawAll(grid) {
  const { plotly, figures } = grid.shown;
  const titles = Object.keys(figures);
  for (const title of titles) grid.cards[title] ??= makeCard(grid, title);
  for (const title of Object.keys(grid.cards)) {
    if (title in figures) continue;
    grid.cards[title].remove();
    delete grid.cards[title];
  }
  // The order of the server, whichever metric came first.
  titles.forEach((title, place) => {
    if (grid.children[place] !== grid.cards[title]) grid.insertBefore(grid.cards[title], grid.children[place]);
  });
  const Plotly = await loadPlotly(plotly);
  while (!getComputedStyle(grid).getPropertyValue("--curve-1")) await frame(); // until panel.css has loaded
  const look = palette(grid);
  let start = performance.now();
  for (const title of titles) {
    const card = grid.cards[title], figure = figures[title];
    if (card?.shown === figure && card.revision === figure.revision && card.ink === look.ink) continue;
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

// Adds what the server tells to the figures of a grid.
function take(shown, told) {
  const { live } = shown;
  if (told.figures) {
    live.shape = told.shape;
    shown.figures = parsed(told.figures);
  } else {
    for (const [title, { curves, shapes, annotations }] of Object.entries(told.news)) {
      const figure = shown.figures[title];
      const isNew = curves.some(({ x }) => x.length) || JSON.stringify(shapes) !== figure.marks;
      figure.marks = JSON.stringify(shapes);
      if (!isNew) continue;
      curves.forEach((more, place) => {
        const trace = figure.data[place];
        Object.assign(trace, grown(trace, live.reach[title][place], more));
        if (more.meta !== null) trace.meta = more.meta;
        trace.mode = more.mode;
      });
      Object.assign(figure.layout, { shapes, annotations });
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
  grid.cards ??= {};
  // A page that refreshes sends the same charts again, which have grown meanwhile.
  const text = JSON.stringify(data);
  if (grid.text !== text) {
    grid.text = text;
    grid.shown = { plotly: data.plotly, figures: parsed(data.figures), live: data.live && { ...data.live } };
    if (data.live) follow(grid);
  }
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
