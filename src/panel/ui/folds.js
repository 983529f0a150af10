// Folds the notes that are longer than their room. What fits is plain text: it has nothing to open.
function mark() {
  for (const fold of document.querySelectorAll("div.fold, details.fold:not([open])")) {
    const text = fold.firstElementChild;
    // Rounded: at some zooms a line that fits is a fraction of a pixel too high.
    const isLong = text.scrollHeight > text.clientHeight + 2;
    if (isLong !== fold.matches("details")) turn(fold, text, ...(isLong ? ["details", "summary"] : ["div", "span"]));
  }
}

// Puts elements of these kinds in the place of a note and its text.
function turn(fold, text, outer, inner) {
  const whole = document.createElement(outer), told = document.createElement(inner);
  for (const { name, value } of fold.attributes) whole.setAttribute(name, value);
  told.append(...text.childNodes);
  whole.append(told);
  fold.replaceWith(whole);
}

const close = (fold) => fold.removeAttribute("open");

export default function () {
  mark();
  let asked = 0;
  const soon = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(mark);
  };
  const changes = new MutationObserver(soon);
  changes.observe(document.body, { childList: true, subtree: true, characterData: true });
  const width = new ResizeObserver(soon);
  width.observe(document.body);
  const press = (event) => {
    const fold = event.target.closest?.("details.fold");
    for (const other of document.querySelectorAll("details.fold[open]")) if (other !== fold) close(other);
  };
  const leave = (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.fold[open]").forEach(close);
  };
  const lose = (event) => {
    const fold = event.target.closest?.("details.fold[open]");
    if (fold && event.relatedTarget && !fold.contains(event.relatedTarget)) close(fold);
  };
  document.addEventListener("click", press);
  document.addEventListener("keydown", leave);
  document.addEventListener("focusout", lose);
  return () => {
    changes.disconnect();
    width.disconnect();
    document.removeEventListener("click", press);
    document.removeEventListener("keydown", leave);
    document.removeEventListener("focusout", lose);
  };
}
