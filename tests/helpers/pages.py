"""Runs a page of the panel in this process and reads what it drew."""

from collections.abc import Sequence

from streamlit.testing.v1 import AppTest

from src.panel.ui.navigation import PAGES


def show(page: str, /, **query: str | Sequence[str]) -> AppTest:
    """The page at this address after one run, which must not raise."""
    test = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value if isinstance(value, str) else list(value)
    test.run()
    assert not test.exception, test.exception[0].message
    return test


def html(test: AppTest) -> str:
    """What the page drew as HTML."""
    return "\n".join(element.proto.body for element in test.get("html"))
