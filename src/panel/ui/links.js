// Opens addresses of the panel within the session: of a plain click on a.inner, and of the server.
function open(address) {
  if (address === location.href) return;
  // Pretend that the reader went back to that address. Streamlit's own switch of the page would first
  // give the page that is left the new one's parameters, and Back would return to another view.
  history.pushState(null, "", address);
  dispatchEvent(new PopStateEvent("popstate", { state: null }));
}

// Streamlit replaces the address when a filter is chosen from a list: Back would leave the page, where
// after a click on a chart it takes the filter off. On Errors each choice is a step of its own.
const FILTERS = ["kind", "length", "tokens", "task", "outcome", "distance", "letters", "order", "every", "find", "split", "step", "vs", "map"];
const replace = history.replaceState;
if (!window.spelltuneSteps) {
  window.spelltuneSteps = true;
  history.replaceState = function (state, title, url) {
    const [now, next] = [new URL(location.href), new URL(url ?? location.href, location.href)];
    const chosen = (name) => now.searchParams.get(name) !== next.searchParams.get(name);
    const within = now.pathname === next.pathname && now.pathname.endsWith("/errors");
    return (within && FILTERS.some(chosen) ? history.pushState : replace).call(history, state, title, url);
  };
}

// The menu of a narrow window lies over the page, and Streamlit leaves it open.
function closeMenu() {
  if (innerWidth < 768) document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
}

// A page that is drawn anew takes the focus from the box that was ticked: its new copy gets it back.
let ticked = null;
new MutationObserver(() => {
  if (!ticked || ticked.isConnected || document.activeElement !== document.body) return;
  const boxes = [...document.querySelectorAll(".pick input")];
  const copy = boxes.find((box) => box.ariaLabel === ticked.ariaLabel);
  if (!copy) return; // not drawn yet
  ticked = copy;
  ticked.focus({ preventScroll: true });
}).observe(document.body, { childList: true, subtree: true });
document.addEventListener("focusout", ({ target }) => {
  setTimeout(() => {
    if (target === ticked && target.isConnected) ticked = null; // the reader went elsewhere
  });
});

// The link of the row of runs, words or trials that was pressed, beside its other links and its box.
function ofRow(target) {
  const row = target.closest?.("table:is(.runs, .words, .opens) tbody tr");
  if (!row || target.closest("a, label, input, button") || !getSelection().isCollapsed) return null;
  return row.querySelector("td:not(.pick) a.inner");
}

function linkAt({ target, button, ctrlKey, metaKey, shiftKey, altKey }) {
  if (button || ctrlKey || metaKey || shiftKey || altKey) return null;
  return target.closest?.("a.inner") ?? ofRow(target);
}

// A page that refreshes may draw a link anew while it is pressed: then the browser tells of no click.
let pressed = null;
document.addEventListener("pointerdown", (event) => {
  pressed = linkAt(event);
});
document.addEventListener("pointerup", (event) => {
  const copy = linkAt(event);
  if (pressed && !pressed.isConnected && copy?.href === pressed.href) copy.click();
  pressed = null;
});

export default function ({ data }) {
  if (data.to && window.spelltuneWent !== data.number) {
    window.spelltuneWent = data.number;
    open(new URL(data.to, document.baseURI).href);
  }
  // A listener of this call's own: the one of the call before is removed only after this.
  const follow = (event) => {
    if (event.target.closest?.('[data-testid="stSidebarNavLink"]')) closeMenu();
    const jump = event.target.closest?.("[data-jump]");
    if (jump) {
      event.preventDefault();
      const place = document.querySelector(jump.dataset.jump);
      place?.scrollIntoView({ block: "start" });
      place?.querySelector("a, button, input")?.focus({ preventScroll: true });
      return;
    }
    const anchor = linkAt(event);
    if (!anchor) return;
    event.preventDefault();
    open(anchor.href);
    if (anchor.dataset.then) document.querySelector(anchor.dataset.then)?.scrollIntoView({ block: "start" });
  };
  // The arrow keys lead to what is named previous and next: a word in the history of one, else a page of words.
  const step = ({ key, target, ctrlKey, metaKey, shiftKey, altKey, defaultPrevented }) => {
    const to = { ArrowLeft: ".previous a", ArrowRight: ".next a" }[key];
    if (!to || ctrlKey || metaKey || shiftKey || altKey || defaultPrevented) return;
    if (target.closest?.("input, select, textarea, button, [contenteditable], .js-plotly-plot")) return;
    document.querySelector(to)?.click();
  };
  // A POST: another site's link must not log anybody out.
  const logOut = (event) => {
    const anchor = event.target.closest?.("a.log-out");
    if (!anchor) return;
    event.preventDefault();
    const form = Object.assign(document.createElement("form"), { method: "post", action: anchor.href });
    document.body.append(form);
    form.submit();
  };
  const pick = (event) => {
    if (!event.target.matches?.(".pick input")) return;
    ticked = event.target;
    // The address of now, not of when the row was drawn: a tick may follow another one at once.
    const url = new URL(location.href);
    for (const name of ["pick", "drop"]) {
      const ids = new Set(url.searchParams.getAll(name));
      for (const id of (ticked.dataset[name] || "").split(" ").filter(Boolean))
        ticked.checked === (name === "pick") ? ids.add(id) : ids.delete(id);
      url.searchParams.delete(name);
      for (const id of ids) url.searchParams.append(name, id);
    }
    open(url.href);
  };
  document.addEventListener("click", follow);
  document.addEventListener("click", logOut);
  document.addEventListener("change", pick);
  document.addEventListener("keydown", step);
  return () => {
    document.removeEventListener("click", follow);
    document.removeEventListener("click", logOut);
    document.removeEventListener("change", pick);
    document.removeEventListener("keydown", step);
  };
}
