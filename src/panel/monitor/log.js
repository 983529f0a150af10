// Shows the lines of a log that have all words looked for, of all levels or only those that warn, and
// copies what it shows.
const PARTS = `
  <div class="log-tools">
    <input type="search" aria-label="Find in the log" placeholder="Find in the log" autocomplete="off">
    <select aria-label="Level of the lines">
      <option value="">all lines</option>
      <option value=".warning, .error">warnings and errors</option>
      <option value=".error">errors</option>
    </select>
    <button type="button" class="plain">Copy</button>
    <span class="quiet" role="status"></span>
  </div>
  <div class="log" tabindex="0" role="log" aria-label="Log"><pre></pre></div>`;

function make(parent) {
  const box = Object.assign(document.createElement("div"), { className: "run-log", innerHTML: PARTS });
  box.one = (name) => box.querySelector(name);
  parent.append(box);
  box.oninput = () => filter(box);
  box.one("button").onclick = () => copy(box);
  return box;
}

const lines = (box) => [...box.one("pre").children];

function filter(box) {
  const words = box.one("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const level = box.one("select").value;
  const all = lines(box);
  let shown = 0;
  for (const line of all) {
    const text = line.textContent.toLowerCase();
    line.hidden = !words.every((word) => text.includes(word)) || Boolean(level && !line.matches(level));
    shown += !line.hidden;
  }
  tell(box, !all.length ? "nothing yet" : words.length || level ? `${shown} of ${all.length} lines` : "");
  box.one("button").disabled = !shown;
}

function tell(box, text) {
  const told = box.one("[role=status]");
  if (told.textContent !== text) told.textContent = text;
}

async function copy(box) {
  const shown = lines(box).filter((line) => !line.hidden);
  try {
    await navigator.clipboard.writeText(shown.map((line) => line.textContent).join(""));
    tell(box, `copied ${shown.length} ${shown.length === 1 ? "line" : "lines"}`);
  } catch {
    // Where the panel is not reached by https, a browser lets no page write the clipboard.
    getSelection().selectAllChildren(box.one("pre"));
    tell(box, "selected; Ctrl+C copies");
  }
}

export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".run-log") ?? make(parentElement);
  if (box.text === data.html) return; // what was told or selected stays
  box.text = data.html;
  box.one("pre").innerHTML = data.html;
  filter(box);
}
