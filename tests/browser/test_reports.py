"""A report in a real browser: from the disk, without a network, in both themes, on a phone."""

import re
from pathlib import Path

import pytest

from src import paths
from src.panel.report import content, page
from src.store.tables import Status
from tests.helpers.browser import inaccessible
from tests.helpers.store import HOSTILE, MISSPELLED, fill_run, fill_sweep

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(300)]
ATTACK = ("<b>recieve</b>", "<script>alert(1)</script>", HOSTILE)


@pytest.fixture(scope="module")
def reports(module_home: Path) -> dict[str, Path]:
    """{what it tells of: a report on the disk}."""
    seeds = [
        fill_run(name=name, lora__r=rank, training__seed=seed, words=words, rows=60)
        for name, rank, words in ((HOSTILE, 8, [ATTACK, *MISSPELLED]), ("other", 16, MISSPELLED))
        for seed in range(3)
    ]
    failed = fill_run(name="failed", status=Status.FAILED, steps=20, reason=HOSTILE)
    sweep = fill_sweep(paths.CONFIGS / "sweeps" / "tiny.yaml", trials=30)
    asked = {"one": (seeds[:1], None), "arms": (seeds, None), "failed": ([failed], None)}
    asked["sweep"] = ([], sweep)
    found = {}
    for name, (runs, of) in asked.items():
        found[name] = module_home / f"{name}.html"
        found[name].write_text(page.page(content.read(runs, of)))
    return found


@pytest.mark.parametrize("name", ["one", "arms", "failed", "sweep"])
def test_a_report_is_legible_in_both_themes_and_asks_for_nothing(browser, reports, name):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    shown, said = context.new_page(), []
    shown.on("request", lambda request: said.append(request.url))
    shown.on("dialog", lambda dialog: said.append(dialog.message))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(reports[name].as_uri())
    assert said == [reports[name].as_uri()]
    context.close()
    # The page's own policy would keep axe out too.
    context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    shown = context.new_page()
    shown.set_default_timeout(60_000)
    shown.goto(reports[name].as_uri())
    assert not inaccessible(shown)
    for width in (420, 320):
        shown.set_viewport_size({"width": width, "height": 900})
        over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert shown.evaluate(over) == 0
    # Where it is printed, nothing is cut off at the right.
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert shown.pdf(format="A4").startswith(b"%PDF")
    context.close()


@pytest.mark.parametrize("address", ["monitor", "compare", "sweeps"])
def test_the_pages_hand_out_the_report(page, panel, reports, address):
    ids = [re.search(r"spelltune errors ([\w.-]+)", reports[n].read_text())[1]
           for n in ("one", "failed")]  # fmt: skip
    query = {"monitor": f"run={ids[0]}", "compare": "&".join(f"run={i}" for i in ids),
             "sweeps": "sweep=tiny"}  # fmt: skip
    page.goto(f"{panel}/{address}?{query[address]}")
    button = page.get_by_role("button", name="Report", exact=True)
    button.wait_for()
    with page.expect_download() as download:
        button.click()
    name = download.value.suggested_filename
    assert name.startswith("report-") and name.endswith(".html")
    text = Path(download.value.path()).read_text()
    assert "<h2>How to reproduce</h2>" in text and HOSTILE not in text
