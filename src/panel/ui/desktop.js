// Notifications of the browser, where the reader asked for them: of what ends while a page of the
// panel is open. Every page has this; on one of them it draws the button that asks.
const KEY = "spelltune.desktop";
const EVERY_MS = 5000;

const possible = () => "Notification" in window && isSecureContext;
const wanted = () => possible() && localStorage.getItem(KEY) === "yes" && Notification.permission === "granted";

async function read(query) {
  const answer = await fetch(new URL(`notices${query}`, document.baseURI), { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.json();
}

// Of all calls of this module one looks, also while the page that began it is left.
async function look(state) {
  if (!wanted()) {
    state.last = null; // what ended before the reader asked again is no news
    return;
  }
  if (state.last === null) {
    state.last = (await read("")).last;
    return;
  }
  const found = await read(`?after=${state.last}`);
  state.last = found.last;
  for (const one of found.notices) {
    // Of several tabs one notification remains: they have one tag.
    const shown = new Notification(one.title, { body: one.body, tag: `spelltune ${one.id}` });
    shown.onclick = () => {
      window.focus();
      if (one.address) location.assign(new URL(one.address, document.baseURI));
    };
  }
}

function begin() {
  if (window.spelltuneDesktop) return;
  const state = (window.spelltuneDesktop = { last: null });
  const go = () => look(state).catch(() => {}); // the panel may be gone for a while
  state.go = go;
  go();
  setInterval(go, EVERY_MS);
}

function draw(parent) {
  const button = parent.querySelector("button");
  const said = parent.querySelector("p");
  const show = () => {
    const on = wanted();
    button.textContent = on ? "Stop telling me in this browser" : "Tell me in this browser";
    button.disabled = !possible() || Notification.permission === "denied";
    said.textContent = !possible()
      ? "A browser shows notifications only of pages at https or on this machine."
      : Notification.permission === "denied"
        ? "This browser was told to show none of this page; its settings of the site allow them again."
        : on
          ? "This browser shows a notification when something ends, while a page of the panel is open."
          : "A notification of this browser when something ends, while a page of the panel is open.";
  };
  button.onclick = async () => {
    const on = wanted();
    if (!on) await Notification.requestPermission();
    localStorage.setItem(KEY, on ? "no" : "yes");
    window.spelltuneDesktop.go();
    show();
  };
  show();
}

export default function ({ parentElement }) {
  begin();
  if (parentElement.querySelector("button")) draw(parentElement);
}
