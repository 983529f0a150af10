"""Logins at an identity provider, in a real browser: a small provider on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import free_port, log_out, reading, serving
from tests.helpers.identity_provider import ALLOWED, providing, set_up

pytest.importorskip("authlib")
pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def panel(module_home: Path, ended: str) -> Iterator[str]:
    port = free_port()
    with providing() as provider:
        set_up(module_home, provider, port)
        extra = {"SPELLTUNE_LOGIN": "token", "HOME": str(module_home)}
        with serving(module_home, port=port, **extra) as address:
            yield address


def log_in(page: Any, panel: str, who: str) -> None:
    page.goto(panel)
    page.get_by_role("link", name="Log in at 127.0.0.1").click()
    page.get_by_role("link", name=who, exact=True).click()


@pytest.mark.parametrize(("who", "reads"), [("ann", False), ("bob", True)])
def test_who_is_listed_comes_in_with_his_role_and_is_out_when_struck_off(
    browser: Any, panel: str, module_home: Path, who: str, reads: bool
) -> None:
    with reading(browser) as page:
        log_in(page, panel, who)
        page.get_by_role("heading", name="Runs").wait_for()
        assert page.get_by_text("read-only", exact=True).count() == int(reads)
        names = {cookie["name"] for cookie in page.context.cookies()}
        # Streamlit's own cookie would let its holder in for 30 days, whatever we know.
        assert not {name for name in names if name.startswith("_streamlit_user")}
        allowed = module_home / "access" / "allowed.yaml"
        allowed.write_text("someone@else.org: read\n")
        page.get_by_label("Token").wait_for()  # the open page asks by itself
        allowed.write_text(ALLOWED)
        page.goto(panel)
        log_out(page)
        page.get_by_role("link", name="Log in at 127.0.0.1").wait_for()
        page.goto(f"{panel}/errors")
        page.get_by_label("Token").wait_for()


def test_a_login_that_ends_while_its_page_is_loaded_is_told_too(
    browser: Any, panel: str, module_home: Path
) -> None:
    allowed = module_home / "access" / "allowed.yaml"
    with reading(browser) as page:
        held: list[Any] = []
        # What draws our own scripts, and comes with the first of them.
        page.route("**/static/js/BidiComponent*", lambda route: held.append(route))
        log_in(page, panel, "ann")
        page.get_by_role("heading", name="Runs").wait_for()
        allowed.write_text("someone@else.org: read\n")
        while not held:
            page.wait_for_timeout(50)
        (late,) = held
        late.continue_()
        page.get_by_label("Token").wait_for()
    allowed.write_text(ALLOWED)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("eve", "eve@else.org may not open this panel"),
        ("unverified", "has not verified that your e-mail address is yours"),
        ("silent", "has not verified that your e-mail address is yours"),
        ("nameless", "has not verified that your e-mail address is yours"),
        ("forged", "The provider did not log you in"),
    ],
)
def test_nobody_else_comes_in(browser: Any, panel: str, who: str, why: str) -> None:
    with reading(browser) as page:
        log_in(page, panel, who)
        page.get_by_text(why).wait_for()
        page.goto(f"{panel}/errors")
        page.get_by_label("Token").wait_for()


def test_a_way_back_from_the_provider_is_good_for_its_browser_and_once(
    browser: Any, panel: str
) -> None:
    with reading(browser) as page:
        backs: list[str] = []
        page.on("request", lambda r: backs.append(r.url) if "/oauth2callback?" in r.url else None)
        log_in(page, panel, "ann")
        page.get_by_role("heading", name="Runs").wait_for()
    with reading(browser) as other:
        for address in (
            backs[0],
            f"{panel}/oauth2callback?code=x&state=y",
            f"{panel}/oauth2callback",
        ):
            other.goto(address)
            other.get_by_text("The provider did not log you in").wait_for()
        other.goto(panel)
        other.get_by_label("Token").wait_for()
        # A login elsewhere that is not ours is told, and the page of the provider never opened.
        other.goto(f"{panel}/auth/login?provider=x")
        other.get_by_label("Token").wait_for()
