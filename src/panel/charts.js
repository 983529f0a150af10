// Draws figures with Plotly.react, which keeps zoom and pan while the figure's uirevision stays.

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

// A custom property of panel.css as the browser resolves it for the theme that is on.
function color(element, name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function themed(card, figure) {
  const ink = color(card, "--quiet"), line = color(card, "--line"), paper = color(card, "--raised");
  const axis = { gridcolor: line, zeroline: false, color: ink, automargin: true, fixedrange: false };
  const { layout } = figure;
  return {
    ...layout,
    colorway: [1, 2, 3].map((n) => color(card, `--curve-${n}`)),
    font: { family: getComputedStyle(card).fontFamily, size: 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 14, t: 10, b: 8 }, height: 210, autosize: true, showlegend: false,
    hovermode: "x unified", dragmode: "zoom",
    hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: color(card, "--ink") } },
    xaxis: { ...axis, ...layout.xaxis, title: { ...layout.xaxis?.title, standoff: 4 }, showgrid: false, tickformat: ",d" },
    yaxis: { ...axis, ...layout.yaxis, title: { ...layout.yaxis?.title, standoff: 8 }, nticks: 6 },
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

async function drawCard(Plotly, card, text) {
  const look = getComputedStyle(card).colorScheme;
  if (card.drawn === text && card.look === look) return;
  card.drawn = text;
  card.look = look;
  const figure = JSON.parse(text);
  const plot = card.querySelector(".plot");
  const lines = figure.data.map((trace) => ({ ...trace, line: { width: 1.75 }, marker: { size: 5 } }));
  await Plotly.react(plot, lines, themed(card, figure), {
    displaylogo: false, responsive: true, doubleClick: "autosize",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { filename: card.dataset.title, scale: 2 },
  });
  readOut(card, plot);
}

// The legend shows each curve's last value, so it is read without hovering.
function readOut(card, plot) {
  const items = plot._fullData.map((trace) => {
    const item = document.createElement("span");
    item.style.setProperty("--curve", trace.line.color);
    item.textContent = `${trace.name} ${trace.meta}`;
    return item;
  });
  card.querySelector(".last").replaceChildren(...items);
  plot.setAttribute("aria-label", `${card.dataset.title}: ${items.map((i) => i.textContent).join(", ")}`);
}

const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

async function drawAll(grid) {
  const { plotly, figures } = grid.shown;
  for (const title of Object.keys(figures)) {
    grid.cards[title] ??= makeCard(grid, title);
  }
  for (const title of Object.keys(grid.cards)) {
    if (title in figures) continue;
    grid.cards[title].remove();
    delete grid.cards[title];
  }
  const Plotly = await loadPlotly(plotly);
  while (!getComputedStyle(grid).getPropertyValue("--curve-1")) await frame(); // until panel.css is there
  for (const title of Object.keys(figures)) {
    if (!grid.isConnected || grid.shown.figures !== figures) return;
    await drawCard(Plotly, grid.cards[title], figures[title]);
    await frame(); // one chart a frame: the page stays responsive
  }
}

export default function ({ data, parentElement }) {
  const grid = parentElement.querySelector(".charts");
  grid.cards ??= {};
  grid.shown = data;
  drawAll(grid);
  if (!grid.watcher) {
    // The theme switch changes a class of the app's root and nothing else.
    grid.watcher = new MutationObserver(() => drawAll(grid));
    const app = document.querySelector('[data-testid="stApp"]');
    if (app) grid.watcher.observe(app, { attributes: true, attributeFilter: ["class", "style"] });
  }
}
