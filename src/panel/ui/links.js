// Follows links between pages within the session: a plain click on a.inner does not reload.
export default function ({ setTriggerValue }) {
  const follow = (event) => {
    const anchor = event.target.closest?.("a.inner");
    if (!anchor || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const { pathname, search } = new URL(anchor.href);
    if (pathname !== location.pathname) return setTriggerValue("to", pathname + search);
    // The same page with other filters: pretend that the reader went back to that address, because
    // the server may not set parameters that are bound to widgets.
    history.pushState(null, "", anchor.href);
    dispatchEvent(new PopStateEvent("popstate", { state: null }));
  };
  document.addEventListener("click", follow);
  return () => document.removeEventListener("click", follow);
}
