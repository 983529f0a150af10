// Tells the server that a page is in front of a reader, and shows the countdown to the command of an
// idle machine, with the button that stops it.
const EVERY_MS = 5000;
const UNWATCHED_MS = 60000; // where the server has no command for an idle machine

const post = (address) => fetch(new URL(address, document.baseURI), { method: "POST" });

function inWords(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

function banner(state) {
  const shown = document.createElement("div");
  shown.className = "idle-banner";
  shown.setAttribute("role", "alert");
  // The seconds are not read aloud each time.
  shown.innerHTML =
    '<span>The machine is idle: <code></code> runs <span class="unseen">soon</span>' +
    '<span aria-hidden="true">in <b></b></span>.</span>' +
    '<button type="button" class="plain">Keep it on</button>';
  shown.querySelector("code").textContent = state.command;
  shown.querySelector("button").onclick = async () => {
    await post("keep-on");
    end(state);
  };
  document.querySelector(".stApp").append(shown);
  state.timer = setInterval(() => tick(state), 1000);
  return shown;
}

function tick(state) {
  state.banner.querySelector("b").textContent = inWords((state.endsAt - Date.now()) / 1000);
}

function end(state) {
  clearInterval(state.timer);
  state.banner?.remove();
  state.banner = null;
}

async function look(state) {
  if (document.visibilityState !== "visible" || Date.now() < state.notBefore) return;
  const answer = await post("in-front");
  // Who may only read does not keep the machine on.
  const found = answer.ok ? await answer.json() : { watching: false, seconds: null };
  state.notBefore = found.watching ? 0 : Date.now() + UNWATCHED_MS;
  if (found.seconds === null) return end(state);
  state.command = found.command;
  state.endsAt = Date.now() + found.seconds * 1000;
  state.banner ??= banner(state);
  tick(state);
}

export default function () {
  if (window.spelltuneIdle) return;
  const state = (window.spelltuneIdle = { banner: null, notBefore: 0 });
  const go = () => look(state).catch(() => {}); // the panel may be gone for a while
  go();
  setInterval(go, EVERY_MS);
  document.addEventListener("visibilitychange", go);
}
