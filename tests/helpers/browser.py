"""Panels on servers of their own, and tabs of a real headless Chromium."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from src import paths, store
from src.store.tables import Status

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

MAIN = ".stMainBlockContainer"
RULES = ["color-contrast", "label", "button-name", "link-name", "image-alt", "aria-required-attr"]


@contextlib.contextmanager
def serving(home: Path, *, uvicorn: bool = False, port: int = 0, **extra: str) -> Iterator[str]:
    """A panel of its own on a free port; yields its address."""
    port = port or free_port()
    environment = {**os.environ, "SPELLTUNE_HOME": str(home), **extra}
    streamlit = ["streamlit", "run", "app.py", "--server.port", str(port)]
    command = ["uvicorn", "app:app", "--port", str(port)] if uvicorn else streamlit
    with open(home / "panel.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=paths.ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: healthy(port) or server.poll() is not None, "the panel did not start")
        assert server.poll() is None, (home / "panel.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(300)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").status == 200
    except urllib.error.HTTPError as answer:
        return answer.code == 401  # it asks for a login
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} within {seconds} s")


def log_out(page: Any) -> None:
    """Press Log out. Until the page's own script is there, that leads to a button."""
    page.get_by_role("link", name="Log out").click()
    button = page.get_by_role("button", name="Log this browser out")
    page.get_by_label("Token").or_(button).first.wait_for()
    if button.count():
        button.click()


@contextlib.contextmanager
def reading(browser: Any, *, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """A tab that fails the test on a script error or a request to another host."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        timezone_id="Asia/Tokyo",
        accept_downloads=True,
    )
    shown, wrong = context.new_page(), []
    shown.set_default_timeout(300_000)
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on(
        "request",
        lambda r: (
            wrong.append(r.url)
            if not r.url.startswith(("http://127.0.0.1:", "http://panel.test", "data:", "blob:"))
            else None
        ),
    )
    yield shown
    context.close()
    assert not wrong, wrong


def still(page: Any) -> None:
    """Wait until nothing has changed on the page for 300 ms: all is drawn, and has faded in."""
    page.evaluate("""() => new Promise((done) => {
      let timer;
      const observer = new MutationObserver(wait);
      function wait() {
        clearTimeout(timer);
        timer = setTimeout(look, 300);
      }
      function look() {
        if (document.querySelector('[data-test-script-state=running]')
            || document.getAnimations().some((a) => a.playState === 'running')) return wait();
        observer.disconnect();
        done();
      }
      observer.observe(document, {
        subtree: true, childList: true, attributes: true, characterData: true,
      });
      wait();
    })""")


def inaccessible(page: Any, within: str = "html") -> list[tuple[str, ...]]:
    """What axe finds wrong on a page by RULES in the light and in the dark theme, and why."""
    import axe_core_python

    page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    wrong: list[tuple[str, ...]] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "scheme => getComputedStyle(document.querySelector('.stApp')).colorScheme === scheme",
            arg=scheme,
        )
        still(page)  # the charts follow
        found = page.evaluate(
            "([part, rules]) => axe.run(part, {runOnly: {type: 'rule', values: rules}})",
            [within, RULES],
        )
        # A rule that broke off on the page has found nothing, and says so only here.
        wrong += [(scheme, r["id"], r["error"]) for r in found["incomplete"] if "error" in r]
        wrong += [
            (scheme, rule["id"], node["html"][:200], node["failureSummary"])
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
    return wrong


def plot(page: Any, script: str) -> Any:
    """A value of the loss chart, `p` in the script."""
    card = '.chart[data-title="Loss"] .plot'
    page.wait_for_selector(f"{card} .main-svg")
    return page.evaluate(
        f"() => {{ const p = document.querySelector('{card}'); return {script}; }}"
    )


def store_step(run_id: str) -> int:
    with store.reading() as session:
        return store.find(session, run_id).step


def stop_is_asked(run_id: str) -> bool:
    """A run that is still queued is cancelled at once, and asked for nothing."""
    with store.reading() as session:
        cancelled = store.find(session, run_id).status == Status.CANCELLED
        return cancelled or store.stop_requested(session, run_id)


def asked(page: Any) -> str:
    return str(page.evaluate("location.search"))
