// Draws figures with Plotly.react, which keeps zoom and pan while the figure's uirevision stays.

const BUDGET_MS = 20;
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

function colour(trace, look) {
  if (trace.type === "parcoords") {
    const scale = ["faint", ...COLOURS].map((name, i) => [i / COLOURS.length, look[name]]);
    trace.line = { ...trace.line, colorscale: scale, cmin: 0, cmax: COLOURS.length };
    for (const font of ["labelfont", "tickfont", "rangefont"]) trace[font] = { color: look.ink };
    return;
  }
  const own = look[`curve-${trace.legendrank}`];
  const width = trace.line?.width ?? (trace.meta ? 1.75 : trace.line?.dash ? 1.25 : 2.5);
  trace.line = { ...trace.line, width, color: own };
  trace.marker = { size: 5, color: own, ...trace.marker };
  if (trace.fill) trace.fillcolor = own.replace("rgb(", "rgba(").replace(")", ", 0.18)");
}

async function drawCard(Plotly, card, text, look, marks) {
  card.shown = text;
  card.marks = marks;
  card.ink = look.ink;
  card.drawnAt = performance.now();
  const figure = JSON.parse(text);
  for (const trace of figure.data) colour(trace, look);
  const plot = card.querySelector(".plot");
  card.classList.toggle("broad", figure.layout.height > 210); // not a small one
  plot.style.height = figure.layout.height ? `${figure.layout.height}px` : "";
  await Plotly.react(plot, figure.data, themed(figure, look), {
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

async function drawAll(grid) {
  const { plotly, figures, live, marks } = grid.shown;
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
  const isStale = ({ shown, ink }, text) => shown !== text || ink !== look.ink;
  const stale = titles.filter((title) => isStale(grid.cards[title], figures[title]));
  // Redraw the first chart always and the others in turns, so that a refresh never blocks the page
  // for long; but redraw all if a mark moved, so that all show the same best step.
  const turn = (title) => (title === titles[0] ? -1 : grid.cards[title].drawnAt ?? 0);
  let others = 0;
  const start = performance.now();
  for (const title of stale.sort((a, b) => turn(a) - turn(b))) {
    if (!grid.isConnected || grid.shown.figures !== figures) return;
    const card = grid.cards[title];
    const late = performance.now() - start > BUDGET_MS;
    const onlyGrew = card.ink === look.ink && card.marks === marks;
    if (live && late && onlyGrew && title !== titles[0] && others++) return;
    await drawCard(Plotly, card, figures[title], look, marks);
  }
}

export default function ({ data, parentElement }) {
  const grid = parentElement.querySelector(".charts");
  grid.cards ??= {};
  grid.shown = data;
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
