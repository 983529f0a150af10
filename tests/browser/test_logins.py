"""A panel with a login in a real browser: in by the link, and out; and a reader who only looks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest

from src.access import Role
from src.panel.access import tokens
from src.panel.ui.navigation import PAGES
from tests.helpers.browser import MAIN, RULES, inaccessible, log_out, reading, serving, still

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(900)]

BASE = "deep/base"


@pytest.fixture(scope="module")
def links(module_home: Path, ended: str) -> Iterator[dict[str, str]]:
    """The links of an owner and of a reader, to a panel under a base path."""
    made = {
        "owner": tokens.make("owner", Role.EDIT), "reader": tokens.make("reader", Role.READ)
    }  # fmt: skip
    extra = {"SPELLTUNE_LOGIN": "token", "STREAMLIT_SERVER_BASE_URL_PATH": BASE}
    with serving(module_home, **extra) as address:
        yield {name: f"{address}/{BASE}/?token={secret}" for name, secret in made.items()}


def at(link: str, page: str) -> str:
    return link.partition("?")[0] + page


def test_an_owner_comes_in_by_the_link_uses_the_panel_and_leaves(
    browser: Any, links: dict[str, str], ended: str
) -> None:
    with reading(browser) as page:
        page.set_default_timeout(60_000)
        page.goto(links["owner"])
        page.get_by_role("heading", name="Runs").wait_for()
        assert page.url == at(links["owner"], "")
        (cookie,) = [c for c in page.context.cookies() if c["name"].startswith("spelltune-")]
        assert cookie["httpOnly"] and cookie["sameSite"] == "Lax" and cookie["path"] == f"/{BASE}"
        assert "read-only" not in page.content()
        page.goto(at(links["owner"], f"monitor?run={ended}"))
        page.wait_for_selector(".chart .main-svg")  # plotly.js came too
        page.get_by_role("button", name="Delete", exact=True).click()
        assert page.get_by_role("button", name="Delete this run").is_enabled()
        page.keyboard.press("Escape")

        other = page.context.new_page()
        other.goto(at(links["owner"], f"errors?run={ended}"))
        other.get_by_role("cell", name="rythm", exact=True).wait_for()
        log_out(page)
        page.get_by_label("Token").wait_for()
        # The tab beside it asks too, by itself, and goes on where it was.
        other.get_by_label("Token").wait_for(timeout=60_000)
        assert other.url == at(links["owner"], f"errors?run={ended}")
        assert [c for c in page.context.cookies() if c["name"].startswith("spelltune-")] == []
        other.get_by_label("Token").fill("wrong")
        other.keyboard.press("Enter")
        assert "no token of this panel" in other.get_by_role("alert").inner_text()
        other.get_by_label("Token").fill(links["owner"])
        other.get_by_role("button", name="Open the panel").click()
        other.get_by_role("cell", name="rythm", exact=True).wait_for()
        assert other.url == at(links["owner"], f"errors?run={ended}")


@pytest.mark.parametrize("width", [1280, 420])
def test_a_reader_sees_all_and_finds_no_button_to_press(
    browser: Any, links: dict[str, str], ended: str, width: int
) -> None:
    with reading(browser, width=width) as page:
        page.set_default_timeout(60_000)
        page.goto(links["reader"])
        page.get_by_text("read-only", exact=True).wait_for()
        for name in sorted(file.stem for file in PAGES.glob("*.py")):
            page.goto(at(links["reader"], f"{'' if name == 'overview' else name}?run={ended}"))
            page.get_by_text("read-only", exact=True).wait_for()
            still(page)
            assert page.locator("[data-testid=stException]").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        page.goto(at(links["reader"], f"monitor?run={ended}"))
        page.wait_for_selector(".chart .main-svg")
        page.get_by_role("button", name="Delete", exact=True).click()
        button = page.get_by_role("button", name="Delete this run")
        button.wait_for()
        assert button.is_disabled()
        if width > 420:
            button.locator("..").hover()
            page.get_by_text("This link is read-only: it shows everything").wait_for()
        page.keyboard.press("Escape")
        page.goto(at(links["reader"], "launch"))
        page.get_by_role("heading", name="Nothing is launched here").wait_for()
        assert inaccessible(page, MAIN) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_of_the_login_is_whole_and_accessible(
    browser: Any, links: dict[str, str], width: int, scheme: str
) -> None:
    with reading(browser, width=width, scheme=scheme) as page:
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(at(links["owner"], "errors?run=x"))
        # The field gets the focus by itself, a moment after the page is there.
        page.wait_for_function("document.activeElement.matches('input')")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        assert {re.sub(r"\?.*", "", url) for url in asked} == {at(links["owner"], "errors")}
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
        found = page.evaluate(
            "rules => axe.run('html', {runOnly: {type: 'rule', values: rules}})", RULES
        )
        assert found["violations"] == []
