// Follows links between pages inside the session: a plain click on a.inner does not reload.
export default function ({ setTriggerValue }) {
  const follow = (event) => {
    const anchor = event.target.closest?.("a.inner");
    if (!anchor || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const { pathname, search } = new URL(anchor.href);
    setTriggerValue("to", pathname + search);
  };
  document.addEventListener("click", follow);
  return () => document.removeEventListener("click", follow);
}
