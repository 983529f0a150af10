// Draws HTML of the server, with a box that finds in it where one is asked for, and tells the server
// which of its buttons was pressed.
const folded = (text) => text.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "");

function make(parent, { find, placeholder }) {
  const box = document.createElement("div");
  box.className = "chooser";
  if (find) {
    const label = document.createElement("label");
    label.className = "find";
    label.append(Object.assign(document.createElement("span"), { textContent: find }));
    label.append(Object.assign(document.createElement("input"), { type: "search", placeholder, autocomplete: "off" }));
    const told = Object.assign(document.createElement("p"), { className: "quiet" });
    told.setAttribute("role", "status");
    box.append(label, told);
  }
  box.append(Object.assign(document.createElement("div"), { className: "choices" }));
  parent.append(box);
  return box;
}

// Shows what has all the words, and says how many there are.
function filter(box) {
  const input = box.querySelector(".find input");
  if (!input) return;
  const words = folded(input.value).split(/\s+/).filter(Boolean);
  const all = [...box.querySelectorAll("[data-find]")];
  let shown = 0;
  for (const one of all) {
    const fits = words.every((word) => folded(`${one.textContent} ${one.dataset.find}`).includes(word));
    one.hidden = !fits;
    shown += fits;
  }
  oneStop(box);
  box.querySelector(":scope > p").textContent = words.length ? `${shown} of ${all.length} settings` : "";
}

// One step of the Tab key for the whole list, in which arrows move; not one for each of sixty rows.
function oneStop(box) {
  let first = 0;
  for (const one of box.querySelectorAll("[data-find] [data-choose]")) one.tabIndex = one.closest("[data-find]").hidden || first++ ? -1 : 0;
}

const buttons = (box) =>
  [...box.querySelectorAll("[data-choose]")].filter((one) => one.offsetParent !== null && !one.disabled);

// What a choice brings onto the page is drawn by the server: it gets the focus when it is there.
function focusLater(name) {
  const until = performance.now() + 5000;
  const look = () => {
    const field = document.querySelector(`.${name} :is(input, textarea, [role=switch])`);
    if (field) field.focus();
    else if (performance.now() < until) setTimeout(look, 50);
  };
  look();
}

function keys(event, box) {
  const { target, key } = event;
  const all = buttons(box);
  const place = all.indexOf(target);
  if (key === "Enter" && target.type === "search" && all.length) {
    event.preventDefault();
    all[0].click();
  } else if (key === "Escape" && target.type === "search" && target.value) {
    target.value = "";
    filter(box);
  } else if (key === "ArrowDown" || key === "ArrowUp") {
    const next = place + (key === "ArrowDown" ? 1 : -1);
    const to = next < 0 ? box.querySelector(".find input") : all[next];
    if (!to || (place < 0 && target.type !== "search")) return;
    event.preventDefault();
    to.focus();
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const box = parentElement.querySelector(".chooser") ?? make(parentElement, data);
  if (box.shown !== data.html) {
    const at = document.activeElement?.dataset?.choose;
    const list = box.querySelector(".choices");
    list.innerHTML = data.html;
    box.shown = data.html;
    if (at) list.querySelector(`[data-choose="${CSS.escape(at)}"]`)?.focus({ preventScroll: true });
  }
  filter(box);
  box.oninput = () => filter(box);
  box.onkeydown = (event) => keys(event, box);
  box.onclick = (event) => {
    const button = event.target.closest("[data-choose]");
    if (!button || button.disabled) return;
    // The class that Streamlit makes of a widget's key.
    if (data.focus) focusLater(`st-key-${data.focus}${button.dataset.choose}`.replace(/[^a-zA-Z0-9_-]/g, "-"));
    // What was looked for is found.
    const input = box.querySelector(".find input");
    if (input) input.value = "";
    filter(box);
    setTriggerValue("chosen", button.dataset.choose);
  };
}
