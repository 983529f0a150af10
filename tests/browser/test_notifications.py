"""Told in the panel: a test of the services, the tab, the browser, and an idle machine."""

import json
import re
from typing import Any

import pytest

from src import store
from src.config import change_machine
from src.runs import idle, notifications
from src.store.outcome import EndReason, Outcome
from src.store.tables import Status
from tests.helpers.browser import MAIN, inaccessible, reading, serving, still, wait_for
from tests.helpers.live import kill_all
from tests.helpers.receiver import Receiver, receiving, takes
from tests.helpers.store import end, training_run

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

CANARY = "canary-c01d8e5f"
PAGE = "machine"
# What the browser is asked to show; it is shown all the same.
RECORD = """
  window.shown = [];
  const Shown = window.Notification;
  window.Notification = class extends Shown {
    constructor(title, options) { super(title, options); window.shown.push([title, options.tag]); }
  };
"""


@pytest.fixture(scope="module")
def services(module_home: Any) -> Any:
    with receiving(takes) as good, receiving(lambda _: 500) as bad:
        notifications.add(f"webhook+http://me:{CANARY}@{good.host}/{CANARY}")
        notifications.add(f"json://{bad.host}/{CANARY}")
        yield good


def test_a_test_is_sent_and_each_service_has_its_sentence(
    page: Any, panel: str, services: Receiver
) -> None:
    page.goto(f"{panel}/{PAGE}")
    page.get_by_role("cell", name=f"webhook to {services.host}").wait_for()
    page.get_by_role("button", name="Send a test").click()
    page.get_by_text(f"webhook to {services.host}: the test is sent, and was taken.").wait_for()
    page.get_by_text("JSON: it answered 500.").wait_for()
    assert [one["event"] for one in services.taken] == ["test"]
    assert CANARY not in page.content()


@pytest.mark.parametrize("width", [1280, 420])
def test_it_fits_and_is_accessible(browser: Any, panel: str, services: Receiver, width: int):
    with reading(browser, width=width) as page:
        page.goto(f"{panel}/{PAGE}")
        page.get_by_role("button", name="Tell me in this browser").wait_for()
        still(page)
        over = page.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]');"
            " return m.scrollWidth - m.clientWidth; }"
        )
        assert over <= 1
        assert not inaccessible(page, MAIN)


# It knows what had ended when it looked first.
LOOKED = "(window.spelltuneDesktop ?? {last: null}).last !== null"


def test_the_tab_tells_the_state_and_the_browser_the_end(browser: Any, panel: str) -> None:
    run_id, lock = training_run(name="watched")
    with reading(browser) as page:
        page.context.grant_permissions(["notifications"], origin=panel)
        page.add_init_script(RECORD)
        page.goto(f"{panel}/{PAGE}")
        page.get_by_role("button", name="Tell me in this browser").click()
        page.get_by_role("button", name="Stop telling me in this browser").wait_for()
        wait_for(lambda: page.evaluate(LOOKED), "no first look")
        page.goto(f"{panel}/monitor?run={run_id}")
        title = "watched · seed 42, running · Monitor · Spelltune"
        wait_for(lambda title=title: page.title() == title, "the title")
        wait_for(lambda: dot(page) == "#ffb020", "the dot of a run that trains")
        wait_for(lambda: page.evaluate(LOOKED), "no first look")
        with store.writing() as session:
            run = store.find(session, run_id)
            assert store.end(session, run, Outcome(EndReason.ERROR, "it broke", 40))
        lock.release()
        shown = wait_for(lambda: page.evaluate("window.shown"), "no notification")
        assert [title for title, _ in shown] == ["watched failed"]
        title = "watched · seed 42, failed · Monitor · Spelltune"
        wait_for(lambda title=title: page.title() == title, "the title")
        wait_for(lambda: dot(page) == "#e5484d", "the dot of a run that failed")
        # Asked to stop, it says no more.
        page.goto(f"{panel}/{PAGE}")
        page.get_by_role("button", name="Stop telling me in this browser").click()
        page.get_by_role("button", name="Tell me in this browser").wait_for()
        assert page.evaluate("localStorage.getItem('spelltune.desktop')") == "no"


def test_the_countdown_of_an_idle_machine_is_shown_and_stopped_on_any_page(
    browser: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path))
    # A page is in front of a reader for a moment only, so that a countdown can begin.
    short = {"standby": 0, "page": 0.2, "countdown": 600, "reconcile": 0.5}
    monkeypatch.setenv("SPELLTUNE_TIMEOUTS", json.dumps(short))
    command = "echo '<b>ran</b>' >> ran"
    change_machine({"when_idle.after_minutes": "0.02", "when_idle.command": command})
    with serving(tmp_path) as address, reading(browser, width=420) as page:
        page.goto(f"{address}/launch")
        shown = page.get_by_role("alert").filter(has_text="The machine is idle")
        shown.wait_for()
        assert "echo '<b>ran</b>' >> ran runs" in shown.inner_text()
        wait_for(lambda: re.search(r"in \d.* s\.", shown.inner_text()), "the seconds")
        assert not inaccessible(page, ".idle-banner")
        assert page.evaluate("document.querySelector('.idle-banner').scrollWidth") <= 420
        shown.get_by_role("button", name="Keep it on").press("Enter")
        shown.wait_for(state="detached")
        wait_for(lambda: idle.countdown() is None, "the countdown goes on")
    kill_all(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_overview_counts_what_is_under_way_in_the_tab(page: Any, panel: str) -> None:
    run_id, lock = training_run(name="under way")
    page.goto(panel)
    wait_for(lambda: page.title().startswith("1 running · Overview"), "the title")
    end(run_id, Status.STOPPED)
    lock.release()
    wait_for(lambda: page.title() == "Overview · Spelltune", "the title")
    assert dot(page) is None


def dot(page: Any) -> str | None:
    """The colour of the dot in the tab's icon."""
    return page.evaluate(
        """() => {
          const svg = atob(document.querySelector("link[rel*='icon']").href.split(",")[1] ?? "");
          return /<circle[^>]*fill="([^"]+)"/.exec(svg)?.[1] ?? null;
        }"""
    )
