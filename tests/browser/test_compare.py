"""The verdict of Compare, taken away, and its charts that are pointed at together, in Chromium."""

from typing import Any

import pytest

from src import store
from src.store.tables import Status
from tests.helpers.browser import inaccessible, reading, still, wait_for
from tests.helpers.store import MISSPELLED, end, fill_run, training_run

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]


def configs() -> list[str]:
    """Three seeds each of two configs, of which one spells ten words more."""
    right = [(question, expected, expected) for question, expected, _ in MISSPELLED]
    return [
        fill_run(name=f"rank {rank}", lora__r=rank, training__seed=seed, words=words)
        for rank, words in ((4, MISSPELLED), (32, [*MISSPELLED[:2], *right[2:]]))
        for seed in (1, 2, 3)
    ]


def many_configs(count: int) -> list[str]:
    """A run each of so many configs, of which each spells better than those before."""
    return [
        fill_run(
            name=f"many {number}", lora__r=2 + number,
            words=[(f"q{i}", "made", "made" if i < number else "mad") for i in range(400)],
        ) for number in range(count)
    ]  # fmt: skip


STANDS = """config => [...document.querySelectorAll('.plot')].map((plot) => plot._fullData
  .filter((trace) => plot.querySelector(`.trace${trace.uid}`).classList.contains('out'))
  .map((trace) => trace.legendgroup).join()).every((found) => found === config)"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_of_many_curves_the_leader_stands_out_or_what_is_pointed_at_or_picked(
    browser: Any, panel: str, module_home: Any, width: int, scheme: str
) -> None:
    query = "&".join(f"run={run}" for run in many_configs(12))
    with reading(browser, width=width, scheme=scheme) as page:
        page.goto(f"{panel}/compare?{query}")
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 5")
        still(page)
        page.wait_for_function(STANDS, arg="11")
        legend = page.get_by_role("group", name="Configs")
        names = legend.locator("button[data-config]:visible")
        assert names.count() == 8 and names.first.inner_text() == "many 11"
        values = page.locator(".chart .last span")
        assert all(text.startswith("many 11 ") for text in values.all_inner_texts())
        faint = page.evaluate("getComputedStyle(document.querySelector('.trace.muted')).opacity")
        assert float(faint) < 0.5
        # What is pointed at stands out, by a pointer or by the keyboard; a press keeps it so.
        legend.get_by_role("button", name="many 9").focus()
        page.wait_for_function(STANDS, arg="9")
        page.keyboard.press("Enter")
        assert legend.get_by_role("button", name="many 9", pressed=True).count() == 1
        legend.get_by_role("button", name="4 more").click()
        page.mouse.move(5, 5)  # a name may lie there now
        assert names.count() == 12
        page.wait_for_function(STANDS, arg="9")
        assert values.first.inner_text().startswith("many 9 ")
        legend.get_by_role("button", name="many 9").press("Enter")
        legend.get_by_role("button", name="fewer").click()
        page.mouse.move(5, 5)
        page.wait_for_function(STANDS, arg="11")
        assert page.evaluate(
            "[...document.querySelectorAll('.stMain, .wide')]"
            ".every((e) => e.scrollWidth <= e.clientWidth)"
        )
        assert not inaccessible(page, ".stMainBlockContainer")


def test_configs_that_tie_stand_out_together(page: Any, panel: str, module_home: Any) -> None:
    same = [("q", "made", "mad")]
    runs = [*many_configs(4), *(
        fill_run(name=f"tied {rank}", lora__r=rank, words=same) for rank in (40, 50)
    )]  # fmt: skip
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in runs)}")
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 5")
    page.wait_for_function(STANDS, arg="4,5")
    page.get_by_text("The best 2, which tie, stand out").wait_for()


def test_a_config_stays_picked_until_its_runs_are_removed(
    page: Any, panel: str, module_home: Any
) -> None:
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in many_configs(7))}")
    page.wait_for_function(STANDS, arg="6")
    still(page)
    picked = page.get_by_role("group", name="Configs").get_by_role("button", name="many 2")
    picked.press("Enter")
    page.mouse.move(5, 5)

    def remove(name: str, *, left: int) -> None:
        page.locator(f'[data-tag] [aria-label^="Remove {name}"]').click(timeout=20_000)
        page.mouse.move(5, 5)
        page.wait_for_function(
            "left => document.querySelectorAll('.config-legend [data-config]').length === left",
            arg=left,
        )
        # What is out of view is drawn later.
        page.locator(".plot").last.scroll_into_view_if_needed()

    remove("many 0", left=6)  # the others have other numbers then
    page.wait_for_function(STANDS, arg="1")
    assert picked.get_attribute("aria-pressed") == "true"
    remove("many 2", left=5)
    page.wait_for_function(STANDS, arg="4")
    assert not page.locator(".plot.asked, .config-legend [aria-pressed=true]").count()


def test_a_curve_that_is_pointed_at_stands_out_in_all_charts(
    page: Any, panel: str, module_home: Any
) -> None:
    runs = many_configs(6)
    with store.writing() as session:  # the fourth is where no other curve is
        last = store.find(session, runs[3]).step + 20
        ends = [("val/exact_match", 0.1), ("val/loss", 3.0), ("train/loss", 3.0)]
        store.record_metrics(session, runs[3], 1, [(last, *end, 1e9) for end in ends])
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in runs)}")
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 5")
    still(page)
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    x, y = plot.evaluate("""(plot) => {
      const {x, y} = plot._fullData[3], {xaxis, yaxis} = plot._fullLayout;
      const box = plot.getBoundingClientRect();
      const at = x.length - 1;
      return [box.x + xaxis._offset + xaxis.d2p(x[at]), box.y + yaxis._offset + yaxis.d2p(y[at])];
    }""")
    page.mouse.move(x, y - 3)
    page.mouse.move(x, y)
    page.wait_for_function(STANDS, arg="3")
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('.hoverlayer text'))"
    )
    page.mouse.move(5, 5)
    page.wait_for_function(STANDS, arg="5")


def test_the_table_of_runs_follows_them_and_waits_for_who_edits_it(
    page: Any, panel: str, module_home: Any
) -> None:
    going, lock = training_run(name="going")
    row = page.locator("table.opens tr", has_text="going")
    runs = f"run={going}&run={fill_run(name='other')}"

    def report(step: int, loss: float) -> None:
        with store.writing() as session:
            store.record_metrics(session, going, 1, [(step, "val/loss", loss, 1e9)])

    def note() -> bool:
        """True once a note that takes longer to type than the page to refresh is in the store."""
        place = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
        page.mouse.click(place["x"] + place["width"] - 60, place["y"] + 52)
        page.keyboard.type("more than once", delay=300)
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        with store.reading() as session:
            return store.find(session, going).notes == "more than once"

    try:
        page.goto(f"{panel}/compare?{runs}&view=Runs&order=val/loss")
        row.first.wait_for()
        report(60, 7.125)
        row.filter(has_text="7.125").wait_for()
        editor = page.get_by_text("Edit tags and notes")
        editor.click()
        page.locator("[data-testid=stDataFrame] [role=gridcell]").first.wait_for(state="attached")
        still(page)
        report(80, 0.001)  # by which it would move below the other one
        wait_for(note, "the note is in the store")
        editor.click()
        report(100, 9.375)
        row.filter(has_text="9.375").wait_for()
    finally:
        end(going, Status.STOPPED)
        lock.release()


def test_a_picture_that_cannot_be_drawn_is_said(page: Any, panel: str, module_home: Any) -> None:
    page.add_init_script("Image.prototype.decode = () => Promise.reject(new Error('no'))")
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in configs())}")
    png = page.get_by_role("button", name="Copy the verdict as PNG")
    png.click()
    told = page.locator(".share [role=status]")
    told.filter(has_text="cannot make a PNG of the picture. Copy it as SVG.").wait_for()
    # What is too large for a canvas comes back as nothing.
    page.evaluate("() => { Image.prototype.decode = () => Promise.resolve(); }")
    page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (made) => made(null); }")
    told.evaluate("status => { status.textContent = '' }")
    png.click()
    told.filter(has_text="Copy it as SVG.").wait_for()


def test_a_verdict_is_copied_in_words_and_as_a_picture(
    page: Any, panel: str, module_home: Any
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{panel}/compare?{'&'.join(f'run={run}' for run in configs())}")
    claim = page.locator(".verdict .claim")
    claim.filter(has_text="spells 2.5 points better").wait_for()
    still(page)
    # Each run's chip has the colour of its curves.
    colours = page.evaluate(
        "[...document.querySelectorAll('[data-tag]')].slice(0, 6)"
        ".map((chip) => getComputedStyle(chip).backgroundColor)"
    )
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1 and colours[0] != colours[3]
    # What the claim rests on is read without a pointer, on a phone too.
    page.set_viewport_size({"width": 420, "height": 900})
    still(page)
    numbers = page.locator(".verdict small", has_text="95% CI")
    assert numbers.is_visible() and ", p " in numbers.inner_text()
    assert numbers.bounding_box()["x"] + numbers.bounding_box()["width"] <= 420
    page.set_viewport_size({"width": 1280, "height": 900})
    for kind in ("Markdown", "SVG", "PNG"):
        page.get_by_role("button", name=f"Copy the verdict as {kind}").click()
        page.get_by_text(f"copied as {kind}").wait_for()
        if kind == "PNG":
            types = page.evaluate("navigator.clipboard.read().then((all) => all[0].types)")
            assert types == ["image/png"]
            continue
        copied = page.evaluate("navigator.clipboard.readText()")
        assert claim.inner_text().rstrip(".") in copied
        assert {"Markdown": "| rank 32 | ", "SVG": "<circle"}[kind] in copied
    # What is pointed at in one chart is told in all.
    plots = page.locator(".plot:has(.main-svg)")
    plots.first.scroll_into_view_if_needed()
    plots.first.hover()
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((p) => p.querySelector('.hoverlayer text'))"
    )
    page.mouse.move(5, 5)
    page.wait_for_function("!document.querySelector('.plot .hoverlayer text')")
    assert not inaccessible(page, ".stMainBlockContainer")
