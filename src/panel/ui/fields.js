// Ties what is refused to its field: for a screen reader, and for a press in the list of all problems.
const inputOf = (key) => document.querySelector(`.${CSS.escape(key)} :is(input, textarea, [role="combobox"])`);

// Streamlit draws the messages and the fields one after the other, and either may come anew.
function mark() {
  const refused = new Map();
  for (const told of document.querySelectorAll(".problem[data-field]")) {
    const input = inputOf(told.dataset.field);
    if (!input) continue;
    told.id ||= `why-${told.dataset.field}`;
    refused.set(input, told.id);
  }
  for (const input of document.querySelectorAll('[aria-describedby^="why-"]')) {
    if (refused.has(input)) continue;
    input.removeAttribute("aria-describedby");
    input.removeAttribute("aria-invalid");
  }
  for (const [input, id] of refused) {
    if (input.getAttribute("aria-describedby") !== id) input.setAttribute("aria-describedby", id);
    if (input.ariaInvalid !== "true") input.ariaInvalid = "true";
  }
}

function lead(event) {
  const link = event.target.closest?.("a[data-to]");
  if (!link) return;
  event.preventDefault();
  const input = inputOf(link.dataset.to);
  input?.focus({ preventScroll: true });
  input?.scrollIntoView({ block: "center" });
}

export default function () {
  mark();
  const watcher = new MutationObserver(mark);
  // Attributes too: a field that is drawn anew may take its own.
  const attributeFilter = ["aria-invalid", "aria-describedby"];
  watcher.observe(document.body, { childList: true, subtree: true, attributeFilter });
  // A listener of this call's own: the one of the call before is removed only after this.
  const follow = (event) => lead(event);
  document.addEventListener("click", follow);
  return () => {
    watcher.disconnect();
    document.removeEventListener("click", follow);
  };
}
