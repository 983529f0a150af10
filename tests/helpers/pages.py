"""Runs a page of the panel in this process and reads what it drew."""

import json
import time
from collections.abc import Sequence

from streamlit.testing.v1 import AppTest

from src.panel.ui.navigation import PAGES


def show(page: str, /, **query: str | Sequence[str]) -> AppTest:
    """The page at this address after one run, which must not raise."""
    test = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=300)
    for name, value in query.items():
        test.query_params[name] = value if isinstance(value, str) else list(value)
    test.run()
    assert not test.exception, test.exception[0].message
    return test


def html(test: AppTest) -> str:
    """What the page drew as HTML."""
    return "\n".join(element.proto.body for element in test.get("html"))


SEEN = {
    "rows": {"train": 320, "validation": 40, "test": 40},
    "rows_by_task": {},
    "multi_token_words": {},
    "corrections": {},
    "leaks": {"train/test": 3},
    "duplicates": 2,
    "cut_by": None,
    "labels": 0,
    "unseen_labels": {},
    "not_composed": 0,
    "lost": {"count": 0, "examples": []},
    "tokens": {"min": 20, "median": 25.0, "max": 40},
    "max_length": 96,
    "too_long": 0,
    "examples": [
        {"question": "q", "answer": "a", "kind": None, "pieces": ["<human>", ":\n", " a"]}
    ],
}


def settled(test: AppTest) -> AppTest:
    """The page once its data check is there."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if "Reading the data" not in html(test):
            return test
        time.sleep(0.05)
        test.run()
    raise AssertionError("the data check never ended")


def figures_of(test: AppTest) -> dict:
    return {title: json.loads(text) for title, text in charts_of(test)["figures"].items()}


def charts_of(test: AppTest) -> dict:
    """What the page sends to its first grid of charts."""
    sent = [json.loads(element.proto.json) for element in test.get("bidi_component")]
    return next(one for one in sent if "figures" in one)


def log_of(test: AppTest) -> str:
    """HTML of the lines of the log that the page drew."""
    sent = [json.loads(element.proto.json) for element in test.get("bidi_component")]
    return next(one["html"] for one in sent if list(one) == ["html"])
