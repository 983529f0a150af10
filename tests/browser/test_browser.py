"""Journeys through the panel in real headless Chromium, on a server of their own."""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src import paths, store
from src.store.tables import Status
from tests.helpers.speed import slowness
from tests.helpers.store import HOSTILE, add_points, end, fill_run, fill_sweep, hold

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
MAIN = ".stMainBlockContainer"


# --- servers and browsers -------------------------------------------------------------------------


@contextlib.contextmanager
def serving(home: Path, *, uvicorn: bool = False, **extra: str) -> Iterator[str]:
    """A panel of its own on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        wait_for(lambda: healthy(port), "the panel did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(300)


def healthy(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health").status == 200
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} within {seconds} s")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that all journeys of this module share, in this process too."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        yield home


@pytest.fixture(scope="module")
def panel(module_home: Path) -> Iterator[str]:
    with serving(module_home) as address:
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with reading(browser) as shown:
        yield shown


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
    assert not wrong


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


@pytest.fixture(scope="module")
def watched(module_home: Path) -> Iterator[str]:
    """A run that is training as far as anybody can tell."""
    run_id = fill_run(
        status=Status.RUNNING, steps=5000, every=1, training__max_steps=100_000, name="watched"
    )
    lock = hold(run_id)
    yield run_id
    end(run_id, Status.STOPPED)
    lock.release()


@pytest.fixture(scope="module")
def ended(module_home: Path) -> str:
    return fill_run(name=HOSTILE)


def plot(page: Any, script: str) -> Any:
    """A value of the loss chart, `p` in the script."""
    card = '.chart[data-title="Loss"] .plot'
    page.wait_for_selector(f"{card} .main-svg")
    return page.evaluate(
        f"() => {{ const p = document.querySelector('{card}'); return {script}; }}"
    )


# --- journeys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("uvicorn", [False, True])
def test_a_deep_link_opens_on_a_fresh_server(browser, module_home, ended, uvicorn):
    with serving(module_home, uvicorn=uvicorn) as address, reading(browser) as page:
        page.goto(f"{address}/errors?run={ended}&find=rhythm")
        words = page.locator("table.words tbody tr")
        words.get_by_text("rythm", exact=True).wait_for()
        assert words.count() == 1
        found = page.get_by_label("Find")
        wait_for(lambda: found.input_value() == "rhythm", "the filter is shown")


@pytest.mark.timed
def test_pages_follow_each_other_without_a_reload_within_a_second(page, panel, ended):
    page.goto(panel)
    page.evaluate("window.stayed = true")
    link = page.get_by_role("link", name=HOSTILE, exact=True)
    link.click()
    page.wait_for_selector(".run-head")
    assert page.evaluate("window.stayed") and f"run={ended}" in page.url
    took: dict[str, list[float]] = {}
    # The machine may be busy with other things for a moment: each page has a few tries.
    for name, sign in [("Errors", "text=Underlined letters"), ("Monitor", ".run-head"),
                       ("Launch", "text=Start from"), ("Overview", "table.rows")] * 4:  # fmt: skip
        start = time.monotonic()
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_selector(f"{MAIN} >> {sign}")
        took.setdefault(name, []).append(time.monotonic() - start)
    assert max(min(tries) for tries in took.values()) <= slowness(), took


@pytest.mark.timed
def test_the_first_paint_takes_a_second_and_a_half(browser, panel, ended):
    took: list[float] = []
    # Warm, hence not the first; and the machine may be busy for a moment, hence some tries.
    while len(took) < 2 or (min(took[1:]) > 1.5 and len(took) < 10):
        with reading(browser) as page:
            start = time.monotonic()
            page.goto(panel)
            page.wait_for_selector("table.rows")
            took.append(time.monotonic() - start)
    assert min(took[1:]) <= 1.5 * slowness(), took


def test_zoom_outlives_three_refreshes_and_only_grows_the_curve(page, panel, watched):
    page.goto(f"{panel}/monitor?run={watched}")
    box = plot(page, "p.querySelector('.nsewdrag').getBoundingClientRect().toJSON()")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
    page.mouse.up()
    zoomed = plot(page, "p.layout.xaxis.range")
    assert 1000 < zoomed[0] < zoomed[1] < 4000
    top = page.evaluate("document.querySelector('.charts').getBoundingClientRect().top")
    page.evaluate("window.card = document.querySelector('.chart')")
    with store.reading() as session:
        reached = store.find(session, watched).step
    for last in range(reached + 50, reached + 200, 50):
        add_points(watched, last - 49, last)
        page.get_by_text(f"step {last:,} of").wait_for()
        drawn = partial(plot, page, f"p._fullData[0].x.at(-1) === {last}")
        wait_for(drawn, "the curve grows")
        assert plot(page, "p.layout.xaxis.range") == zoomed
    assert page.evaluate("window.card.isConnected"), "the chart was drawn anew, not updated"
    assert page.evaluate("document.querySelector('.charts').getBoundingClientRect().top") == top
    assert plot(page, "p._fullData[0].x.length") <= 1000


@pytest.mark.timed
def test_a_refresh_of_5000_points_costs_at_most_100_ms_of_the_main_thread(page, panel, watched):
    page.goto(f"{panel}/monitor?run={watched}")
    plot(page, "1")
    page.wait_for_timeout(4000)
    session = page.context.new_cdp_session(page)
    # Time on the processor, not on the clock: this machine does other things too.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    with store.reading() as reader:
        last = store.find(reader, watched).step
    costs: list[int] = []
    # On a processor that is shared, the same work takes longer: the better half of some tries.
    while len(costs) < 6 or (sorted(costs)[2] > 100 and len(costs) < 15):
        before = busy()
        add_points(watched, last + 1, last + 20)
        last += 20
        page.wait_for_timeout(2000)  # one refresh
        costs.append(round((busy() - before) * 1000))
    print(f"a refresh costs {costs} ms of the main thread")
    assert sorted(costs)[2] <= 100 * slowness(), costs


def test_all_charts_show_the_same_best_step(page, panel, watched):
    """Though a refresh draws them in turns."""
    page.goto(f"{panel}/monitor?run={watched}")
    plot(page, "1")
    # As on a machine where one chart takes all the time that a refresh has.
    page.evaluate("const now = performance.now.bind(performance); let late = 0;"
                  "performance.now = () => now() + 100 * late++")  # fmt: skip
    marked = "[...document.querySelectorAll('.plot')].map((p) => p.layout?.shapes?.[0]?.x0)"
    for best in (600, 700):
        with store.writing() as session:
            store.find(session, watched).best_step = best
        last = store_step(watched)
        add_points(watched, last + 1, last + 50)  # so that all charts have something to draw
        wait_for(lambda best=best: best in page.evaluate(marked), "the best step moves")
        # With the refresh that moved it in the first chart, and no later one.
        shown = page.evaluate(
            "async () => { const grid = document.querySelector('.charts');"
            " const { figures } = grid.shown;"
            f" const marked = () => {marked};"
            " while (new Set(marked()).size > 1 && grid.shown.figures === figures)"
            " await new Promise(requestAnimationFrame);"
            " return marked(); }"
        )
        assert len(shown) > 4 and set(shown) == {best}, shown


def store_step(run_id: str) -> int:
    with store.reading() as session:
        return store.find(session, run_id).step


def test_a_run_that_is_stopped_says_so_and_the_refresh_ends(page, panel, module_home, watched):
    run_id = fill_run(status=Status.RUNNING, steps=100, name="to stop")
    lock = hold(run_id)
    page.goto(f"{panel}/monitor?run={run_id}")
    page.locator(MAIN).get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop this run").click()
    wait_for(partial(stop_is_asked, run_id), "the stop is asked for")
    end(run_id, Status.STOPPED, "stopped at step 100 because someone asked")
    lock.release()
    page.get_by_text("stopped at step 100").wait_for()
    page.get_by_role("button", name="Delete").wait_for()
    # The open question about stopping must not turn into one about deleting.
    assert page.get_by_role("button", name="Delete this run").count() == 0
    assert page.locator(MAIN).get_by_role("button", name="Stop").count() == 0


def stop_is_asked(run_id: str) -> bool:
    """A run that is still queued is cancelled at once, and asked for nothing."""
    with store.reading() as session:
        cancelled = store.find(session, run_id).status == Status.CANCELLED
        return cancelled or store.stop_requested(session, run_id)


def test_errors_are_filtered_marked_and_downloaded(page, panel, ended):
    page.goto(f"{panel}/errors?run={ended}")
    words = page.locator("table.words tbody tr")
    words.nth(11).wait_for()
    page.get_by_label("Find").fill("weird")
    page.keyboard.press("Enter")
    wait_for(lambda: words.count() == 1, "one word is left")
    assert words.get_by_role("cell", name="wierd").count() == 1
    assert "find=weird" in page.url
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [(r["question"], r["predicted"]) for r in rows] == [("wierd", "wired")]
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    assert json.loads(Path(download.value.path()).read_text())[0]["expected"] == "weird"
    line = page.locator("td mark").first.evaluate("m => getComputedStyle(m).textDecorationLine")
    assert line == "underline"


def asked(page: Any) -> str:
    return str(page.evaluate("location.search"))


def test_what_got_worse_between_two_checkpoints_is_found_in_three_clicks(page, panel, ended):
    doubled = [
        (wrong, right, wrong)
        for wrong, right in (("ocur", "occur"), ("adress", "address"), ("imediate", "immediate"))
    ]
    after = fill_run(name="after", words=[("wierd", "weird", "wierd"), *doubled])
    before = fill_run(name="before", words=[(q, right, right) for q, right, _ in doubled])
    page.goto(f"{panel}/errors?run={before}")
    page.get_by_role("combobox", name="Beside").click()
    page.get_by_role("option", name=after, exact=True).click()
    page.get_by_text("fixed −").wait_for()
    # The kind that grew most stands first.
    page.locator("a.row.two").first.click()
    wait_for(lambda: "kind=" in asked(page), "the filter stands in the address")
    page.get_by_role("cell", name="ocur", exact=True).first.wait_for()
    page.go_back()
    wait_for(lambda: "kind=" not in asked(page), "the way back takes the filter off")


def test_a_click_on_a_chart_filters_the_table_and_one_more_takes_it_off(page, panel, ended):
    page.goto(f"{panel}/errors?run={ended}@600")
    wait_for(lambda: "step=600" in asked(page), "run and step are told")
    page.get_by_role("link", name="vowel swap: 2").click()
    wait_for(lambda: page.locator("table.words tbody tr").count() == 2, "two words are left")
    assert page.get_by_role("combobox", name="Kind").input_value() == "vowel swap"
    page.get_by_role("link", name="vowel swap: 2").click()
    wait_for(lambda: page.locator("table.words tbody tr").count() == 12, "all words are back")
    with page.expect_download() as download:
        page.get_by_role("button", name="Excel").click()
    assert download.value.suggested_filename.endswith(".xlsx")


def test_a_note_and_tags_are_written_in_the_table_of_compare_and_outlive_the_page(
    page, panel, ended
):
    other = fill_run(name="noted", training__seed=7)
    address = f"{panel}/compare?run={other}&run={ended}&view=Runs"
    page.goto(address)
    cells = page.locator("[data-testid=stDataFrame] [role=gridcell]")
    cells.first.wait_for(state="attached")
    canvas = page.locator("[data-testid=stDataFrame] canvas").first

    def typed(text: str, *keys: str) -> Any:
        """The run after a text is typed into its note, or where the keys lead from there."""
        # The last column of the first row; what is typed replaces the cell.
        place = canvas.bounding_box()
        page.mouse.click(place["x"] + place["width"] - 60, place["y"] + place["height"] / 2)
        for key in keys:
            page.keyboard.press(key)
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        with store.reading() as session:
            return store.find(session, other)

    # Until the page stands still the table moves away from under the pointer.
    wait_for(lambda: typed("ship this").notes == "ship this", "the note is in the store")
    kept = ["baseline", "keep"]
    wait_for(lambda: typed("baseline, keep", "ArrowLeft").tags == kept, "the tags are in the store")
    page.goto(address)
    cells.filter(has_text="ship this").wait_for(state="attached")
    cells.filter(has_text="baseline, keep").wait_for(state="attached")


def test_times_are_the_readers(page, panel, ended):
    with store.reading() as session:
        at = store.find(session, ended).created_at
    page.goto(panel)
    tokyo = time.strftime("%H:%M", time.gmtime(at + 9 * 3600))
    page.get_by_role("row", name=HOSTILE).get_by_text(tokyo).wait_for()


RULES = ["color-contrast", "label", "button-name", "link-name", "image-alt", "aria-required-attr"]


def test_faint_words_would_be_found(page, panel):
    import axe_core_python

    page.goto(panel)
    page.wait_for_selector(f"{MAIN} >> :is(table.rows, .empty)")
    faint = '<p style="color:#bbb">faint words</p>'
    page.evaluate(f"document.querySelector('{MAIN}').insertAdjacentHTML('beforeend', '{faint}')")
    page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate(
        "axe.run(document, {runOnly: {type: 'rule', values: ['color-contrast']}})"
    )
    assert [n["html"] for v in found["violations"] for n in v["nodes"]] == [faint]


def test_contrast_and_names_hold_on_every_page_in_both_themes(browser, panel, ended, watched):
    import axe_core_python

    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
    broken = []
    other = fill_run(name="other", words=[("recieve", "receive", "receve")])
    sweep = fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml")
    for address in (
        "/",
        f"/monitor?run={ended}",
        f"/monitor?run={watched}&view=Settings",
        f"/errors?run={ended}",
        f"/errors?run={ended}&map=Letters+and+lengths&word=recieve&kind=omission",
        f"/errors?run={ended}&vs={other}",
        f"/compare?run={ended}&run={other}",
        "/launch?lora.r=0",
        "/launch?lora.r=8",
        "/sweeps?space.lora.r=0",
        f"/sweeps?sweep={sweep}",
    ):
        with reading(browser, scheme="light") as page:
            page.goto(panel + address)
            page.wait_for_selector(f"{MAIN} >> :is(table.rows, .run-head, .stNumberInput)")
            still(page)
            page.evaluate(axe)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.wait_for_function(
                    "scheme => getComputedStyle(document.querySelector('.stApp')).colorScheme"
                    " === scheme",
                    arg=scheme,
                )
                still(page)  # the charts follow
                found = page.evaluate(
                    "rules => axe.run(document, {runOnly: {type: 'rule', values: rules}})", RULES
                )
                # A rule that broke off on the page has found nothing, and says so only here.
                wrong = [r for r in found["incomplete"] if "error" in r]
                broken += [(address, scheme, r["id"], r["error"]) for r in wrong]
                for rule in found["violations"]:
                    for node in rule["nodes"]:
                        told = (rule["id"], node["html"][:200], node["failureSummary"])
                        broken.append((address, scheme, *told))
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize("width", [800, 400])
def test_a_narrow_window_is_usable(browser, panel, ended, width):
    compared = f"/compare?run={ended}&run={fill_run(name='other', lora__r=8)}"
    for address in ("/", f"/monitor?run={ended}", f"/errors?run={ended}", "/launch", compared):
        with reading(browser, width=width) as page:
            page.goto(panel + address)
            page.wait_for_selector(f"{MAIN} >> :is(table.rows, .run-head, .stNumberInput)")
            still(page)
            over = page.evaluate(
                "() => { const m = document.querySelector('[data-testid=stMain]');"
                " return m.scrollWidth - m.clientWidth; }"
            )
            assert over <= 1, (address, over)
            # A column of names holds words, not single letters: the table scrolls in its own box.
            narrowest = page.evaluate(
                "() => Math.min(160, ...[...document.querySelectorAll("
                "'table.rows td:not(.num, .fit)')].map(cell => cell.offsetWidth))"
            )
            assert narrowest >= 135, (address, narrowest)


def test_back_returns_to_the_view_that_was_left(page, panel, ended):
    form = f"{panel}/launch?preset=tiny-spell&training.max_steps=7"
    page.goto(form)
    page.get_by_text("was 600").wait_for()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name=f"Select {HOSTILE}").first.click()
    page.get_by_text("Compare 1 run").wait_for()
    picked = page.url
    page.get_by_role("link", name="Words").first.click()
    page.get_by_text("Underlined letters").wait_for()
    page.go_back()
    page.get_by_text("Compare 1 run").wait_for()
    assert page.url == picked
    still(page)
    page.go_back()
    page.wait_for_url(f"{panel}/")
    still(page)
    page.go_back()
    page.get_by_text("was 600").wait_for()
    assert page.url == form


def test_a_run_is_deleted_from_any_tab(page, panel, module_home):
    unwanted = fill_run(name="unwanted")
    page.goto(f"{panel}/monitor?run={unwanted}&view=Checkpoints")
    title = "unwanted, completed · Monitor · Spelltune"
    wait_for(lambda: page.title() == title, "the tab names the run")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete this run").click()
    page.get_by_text("Deleted unwanted.").wait_for()
    assert page.url == f"{panel}/"
    with store.reading() as session:
        assert unwanted not in store.run_ids(session, limit=1000)


def test_charts_keep_their_order_whichever_metric_comes_first(page, panel, module_home):
    run_id = fill_run(status=Status.RUNNING, steps=0, curves=False, name="slow to start")
    lock = hold(run_id)
    with store.writing() as session:
        store.record_metrics(session, run_id, 1, [(0, "cpu/memory_gib", 0.7, time.time())])
    page.goto(f"{panel}/monitor?run={run_id}")
    titles = "() => [...document.querySelectorAll('.chart')].map((card) => card.dataset.title)"
    wait_for(lambda: page.evaluate(titles) == ["Memory"], "the first chart is drawn")
    add_points(run_id, 1, 20)
    shown = wait_for(lambda: len(found := page.evaluate(titles)) > 1 and found, "the others")
    end(run_id, Status.STOPPED)
    lock.release()
    assert (shown[0], shown[-1]) == ("Loss", "Memory")


def test_the_menu_of_a_narrow_window_closes_behind_a_choice(browser, panel, ended):
    with reading(browser, width=420) as page:
        page.goto(panel)
        page.wait_for_selector("table.rows")
        page.get_by_test_id("stExpandSidebarButton").click()
        choice = page.get_by_test_id("stSidebarNavLink").filter(has_text="Compare")
        choice.click()
        page.get_by_text("Nothing chosen yet").wait_for()
        # It moves out of the window.
        wait_for(lambda: choice.bounding_box()["x"] < 0, "the menu closes")


def test_no_buttons_lie_on_a_chart_where_nothing_hovers(browser, panel, ended):
    context = browser.new_context(has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{panel}/monitor?run={ended}")
    page.wait_for_selector(".plot .main-svg")
    page.wait_for_timeout(500)
    assert page.locator(".modebar-btn").count() == 0
    context.close()


def test_behind_a_proxy_on_another_name(browser, module_home, ended):
    """As a hosting service opens it: another host name, which the proxy rewrites or keeps."""
    with serving(module_home, SPELLTUNE_ALLOWED_HOSTS="panel.test") as address:
        port = int(address.rpartition(":")[2])
        for keep_host in (True, False):
            with proxying(port, keep_host) as outside:
                chromium = browser.browser_type.launch(
                    executable_path=shutil.which("chromium"),
                    args=[*FLAGS, "--host-resolver-rules=MAP *.test 127.0.0.1"],
                )
                with reading(chromium) as page:
                    page.goto(f"http://panel.test:{outside}/errors?run={ended}")
                    page.get_by_role("cell", name="rythm", exact=True).wait_for()
                with reading(chromium) as page:
                    refused = page.goto(f"http://127.0.0.1:{outside}/", wait_until="commit")
                    assert refused.status == 200
                chromium.close()
        for headers in ({"Host": "evil.test"}, {"Origin": "http://evil.test"}):
            request = urllib.request.Request(address, headers=headers)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request)


@contextlib.contextmanager
def proxying(port: int, keep_host: bool) -> Iterator[int]:
    """A reverse proxy, WebSockets included: it copies bytes and may rewrite the Host header."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        inner = socket.create_connection(("127.0.0.1", port))
        head = b""
        while b"\r\n\r\n" not in head:
            block = client.recv(65536)
            if not block:
                return
            head += block
        lines, _, body = head.partition(b"\r\n\r\n")
        kept = [h for h in lines.split(b"\r\n") if keep_host or not h.lower().startswith(b"host:")]
        if not keep_host:
            kept.insert(1, b"Host: 127.0.0.1:%d" % port)
        if not any(h.lower().startswith(b"upgrade:") for h in kept):
            kept = [h for h in kept if not h.lower().startswith(b"connection:")]
            kept.append(b"Connection: close")  # one request a connection: only heads are rewritten
        inner.sendall(b"\r\n".join(kept) + b"\r\n\r\n" + body)
        threading.Thread(target=pump, args=(client, inner), daemon=True).start()
        pump(inner, client)
        client.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


# --- real runs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with random weights, made in a process of its own: torch stays out of here."""
    folder = tmp_path_factory.mktemp("base")
    code = "import sys; from pathlib import Path; from tests.helpers.tiny import save_model; "
    code += "save_model(Path(sys.argv[1]), 'gpt2')"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, cwd=paths.ROOT, capture_output=True
    )
    return folder


def own_words(folder: Path, column: str = "answer") -> Path:
    words = [f"{a}{b}{c}" for a in "bdgl" for b in "aeiou" for c in ("n", "rt", "mp")]
    path = folder / "own.csv"
    path.write_text(f"question,{column}\n" + "".join(f"Spell {w}.,{' '.join(w)}\n" for w in words))
    return path


def test_from_the_form_by_keyboard_to_the_words_and_back(browser, tmp_path, base_model):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    data = own_words(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        patch.setenv("WANDB_MODE", "disabled")
        with serving(home) as address, reading(browser) as page:
            start = f"{address}/launch?model.name={base_model}&data.path={data}&tracking.mode=off"
            page.goto(f"{start}&evaluation.eval_steps=200&training.logging_steps=2")
            page.get_by_text("steps per epoch").wait_for()
            by_keyboard(page, "Max steps")
            page.keyboard.press("ControlOrMeta+A")
            page.keyboard.type("400")
            page.keyboard.press("Tab")
            page.get_by_text("was 600").wait_for()
            by_keyboard(page, "Launch", "BUTTON")
            page.keyboard.press("Enter")
            page.wait_for_selector(".run-head")
            first = wait_for(partial(points, page), "the curve begins", 300)
            wait_for(lambda: points(page) > first, "the curve grows")
            page.locator(".badge.completed").wait_for(timeout=300_000)
            assert "step 400 of 400" in page.locator(".run-head").inner_text()
            page.get_by_role("link", name="Misspelled words").click()
            page.get_by_text("Underlined letters").wait_for()
            assert page.get_by_role("row").count() >= 2
            page.get_by_role("link", name="Curves and log").click()
            page.get_by_role("link", name="Launch again with edits").click()
            page.wait_for_selector(".stNumberInput")
            wait_for(
                lambda: page.get_by_role("spinbutton", name="Max steps").input_value() == "400",
                "its steps",
            )
            with store.reading() as session:
                assert [r.status for r in store.list_runs(session)] == [Status.COMPLETED]


def by_keyboard(page: Any, name: str, tag: str = "INPUT") -> None:
    """Press Tab until what is called so has the focus.

    Waits first until the page is still: what Streamlit draws anew meanwhile takes the focus away.
    """
    still(page)
    passed = []
    for _ in range(150):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "() => { const e = document.activeElement;"
            " return [e.tagName, e.getAttribute('aria-label') || e.innerText || '']; }"
        )
        if here[0] == tag and here[1].startswith(name):
            return
        passed.append(here)
    raise AssertionError(f"Tab never reached {name}, only {passed}")


def points(page: Any) -> int:
    """How many points of the first curve are drawn."""
    card = '.chart[data-title="Loss"] .plot'
    return page.evaluate(f"() => document.querySelector('{card}')?._fullData?.[0].x.length ?? 0")


def test_an_upload_is_shown_and_one_without_a_column_asks_which_holds_the_answer(
    page, panel, module_home, base_model, tmp_path
):
    page.goto(f"{panel}/launch?model.name={base_model}")
    page.get_by_text("Use my own data").click()
    page.locator("input[type=file]").set_input_files(own_words(tmp_path))
    page.get_by_text("train rows").wait_for()
    page.get_by_text("data.path").first.wait_for()
    assert (module_home / "data" / "own.csv").is_file()
    bad = tmp_path / "bad"
    bad.mkdir()
    page.goto(f"{panel}/launch?model.name={base_model}")
    page.get_by_text("Use my own data").click()
    page.locator("input[type=file]").set_input_files(own_words(bad, "anser"))
    page.get_by_text("Which column holds the question").wait_for()
    page.get_by_role("button", name="Use these columns").click()
    page.get_by_text("read as columns").wait_for()
    page.get_by_text("train rows").wait_for()
    assert "anser" not in (module_home / "data" / "own-2.jsonl").read_text()


def test_two_clicks_make_one_run(browser, tmp_path, base_model):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    data = own_words(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        with serving(home) as address, reading(browser) as page:
            page.goto(
                f"{address}/launch?model.name={base_model}&data.path={data}&tracking.mode=off"
            )
            page.get_by_text("steps per epoch").wait_for()
            page.get_by_role("button", name="Launch", exact=True).dblclick()
            page.wait_for_selector(".run-head")
            page.wait_for_timeout(1500)
            with store.reading() as session:
                (run,) = store.list_runs(session)
            page.locator(MAIN).get_by_role("button", name="Stop").click()
            page.get_by_role("button", name="Stop this run").click()
            wait_for(partial(stop_is_asked, run.id), "the stop is asked for")
            page.locator(":is(.badge.stopped, .badge.cancelled)").wait_for(timeout=300_000)
            end_processes(run.id)


# In the server: a refresh of the page whose end takes until a button is pressed, and a page whose
# buttons come a second after its script began for that press.
SLOW_END = """
import os, threading, time
from streamlit.runtime.state.safe_session_state import SafeSessionState as State
home, pressed = os.environ["SPELLTUNE_HOME"], threading.Event()
begin, end = State.on_script_will_rerun, State.on_script_finished

def on_script_will_rerun(self, states, **more):
    begin(self, states, **more)
    if any(state.trigger_value for state in (states.widgets if states else [])):
        pressed.set()
        time.sleep(1)

def on_script_finished(self, *ids, **more):
    if os.path.exists(os.path.join(home, "hold")):
        open(os.path.join(home, "ending"), "w").close()
        pressed.wait(5)
    end(self, *ids, **more)

State.on_script_will_rerun, State.on_script_finished = on_script_will_rerun, on_script_finished
"""


def test_a_button_counts_that_is_pressed_as_a_refresh_ends(browser, tmp_path):
    """Streamlit resets the buttons at the end of a script; that press would be one of them."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_END)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(tmp_path))
        run_id = fill_run(status=Status.RUNNING, steps=100)
        lock = hold(run_id)
        own = {"PYTHONPATH": str(tmp_path)}
        with serving(tmp_path, **own) as address, reading(browser) as page:
            page.goto(f"{address}/monitor?run={run_id}")
            page.locator(MAIN).get_by_role("button", name="Stop").click()
            button = page.get_by_role("button", name="Stop this run")
            button.wait_for()
            (tmp_path / "hold").touch()
            wait_for((tmp_path / "ending").exists, "a refresh ends")
            button.click()
            wait_for(partial(stop_is_asked, run_id), "the stop is asked for", 60)
            lock.release()


def end_processes(run_id: str) -> None:
    """The journey stopped its run; make sure that nothing of it is left."""
    with store.reading() as session:
        run = store.find(session, run_id)
    for pid in (run.trainer_pid, run.supervisor_pid):
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
