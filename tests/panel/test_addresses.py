"""Addresses that somebody else wrote: whatever stands in them, a page shows something."""

import ast
import re
from collections.abc import Iterable

import pytest

from src.config import settings
from src.panel.sweeps import form as sweep_form
from src.panel.ui.navigation import PAGES
from src.paths import ROOT
from tests.helpers.pages import html, show
from tests.helpers.store import fill_run, fill_sweep, two_runs
from tests.helpers.sweeps import TINY

SETTINGS = [setting.name for setting in settings()]
FORM = [*sweep_form.fields(), *(f"space.{name}" for name in SETTINGS)]

# Page -> the parameters that it reads.
PARAMETERS = {
    "overview": ["find", "sort", "columns", "page", "group", "open", "pick", "all", "drop"],
    "launch": ["from", "fork", "preset", "open", "seeds", *SETTINGS],
    "monitor": ["run", "view"],
    "compare": ["run", "view", "axis", "smoothing", "metrics", "band", "find", "columns", "order",
                "ascending", "adapters"],
    "errors": ["run", "split", "step", "vs", "word", "page", "map", "find", "outcome", "task",
               "kind", "length", "tokens", "distance", "order", "every", "at", "letters", "letter"],
    "sweeps": ["sweep", "view", "find", "file", "shared", "common", *FORM],
    "try": ["run", "word", "base"],
}  # fmt: skip

# Functions that draw a choice whose key stands in the address.
DRAWN = ("navigation.segments", "choices.one", "choices.segment", "choices.several")

HOSTILE = {
    "nothing": "",
    "no word": "zzzz",
    "a digit that is none": "²",
    "a huge number": "9" * 400,
    "beyond a table's numbers": "9223372036854775808",
    "an exponent": "-1e999",
    "brackets": "[" * 900,
    "braces": "{a: {b: " * 300,
    "control characters": "a\x00\x1b[31m\r\n\u202e",
    "a template": "${7*7}{{7*7}}%s{0}",
    "markup": "</p><script>alert(1)</script>",
    "a path": "../../../../etc/passwd",
    "a regular expression": "(a+)+$[",
    "an address": "run@1@²",
    "conditions": "score > 1e999 val/loss < -. run > 3 tags > 2 a >= ...",
    "budgets": "99999999999999999999999999 trials",
    "a bomb": "&a [*a, *a]",
    "aliases": "*nothing",
    "a long text": "x" * 20_000,
}


def test_all_parameters_that_pages_read_are_tried() -> None:
    """Keys that are bound to the address, and those that are read by name."""
    found: set[str] = set()
    for file in [*(ROOT / "src" / "panel").rglob("*.py"), *PAGES.glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            names = {word.arg: word.value for word in node.keywords}
            bound = "bind" in names or any(
                word.arg is None and getattr(word.value, "id", "").lower() in ("bound",)
                for word in node.keywords
            )
            bound = bound or ast.unparse(node.func) in DRAWN
            if bound and isinstance(names.get("key"), ast.Constant):
                found.add(str(names["key"].value))
            read = ast.unparse(node.func)
            if re.fullmatch(r"st\.query_params\.get(_all)?", read):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    assert found <= {name for names in PARAMETERS.values() for name in names}
    assert {"find", "fork", "run", "pick"} <= found


@pytest.fixture
def known(launched: list[str]) -> dict[str, dict[str, str | list[str]]]:
    """Page -> an address that leads to all of its parts."""
    before, after = two_runs()
    fill_run(name="third")
    sweep_id = fill_sweep(TINY)
    return {
        "overview": {}, "launch": {"from": before}, "monitor": {"run": before},
        "compare": {"run": [before, after]}, "errors": {"run": before},
        "sweeps": {"sweep": sweep_id}, "try": {"run": before, "word": "tea"},
    }  # fmt: skip


def try_texts(page: str, known: dict[str, str | list[str]], firsts: Iterable[int]) -> None:
    """Show a page with an odd text in each parameter, every time another one in each."""
    texts = list(HOSTILE.values())
    for first in firsts:
        mixed = {name: texts[(place + first) % len(texts)]
                 for place, name in enumerate(PARAMETERS[page])}  # fmt: skip
        show(page, **mixed | known)  # raises for an exception on the page


def alone_and_with(known: dict[str, str | list[str]]) -> list[dict[str, str | list[str]]]:
    """What an address says beside the odd texts: nothing, and what leads to all parts of a page."""
    return [{}, known] if known else [{}]


@pytest.mark.parametrize("page", PARAMETERS)
def test_each_parameter_takes_an_odd_text(
    page: str, known: dict[str, dict[str, str | list[str]]]
) -> None:
    for leading in alone_and_with(known[page]):
        try_texts(page, leading, [0])


@pytest.mark.slow
@pytest.mark.parametrize("page", PARAMETERS)
def test_each_parameter_takes_every_odd_text(
    page: str, known: dict[str, dict[str, str | list[str]]]
) -> None:
    for leading in alone_and_with(known[page]):
        try_texts(page, leading, range(1, len(HOSTILE)))


@pytest.mark.slow
@pytest.mark.parametrize("view", ["Runs", "Settings", "Parallel coordinates"])
def test_each_view_of_compare_takes_odd_texts(
    view: str, known: dict[str, dict[str, str | list[str]]]
) -> None:
    try_texts("compare", known["compare"] | {"view": view}, range(0, len(HOSTILE), 3))


ODD: list[tuple[str, dict[str, str], str]] = [
    ("compare", {"view": "Runs", "find": "zzzz"}, "No run fits"),
    ("compare", {"view": ""}, "A line is the mean"),
    ("launch", {"fork": "²"}, "All settings are those of"),
    ("launch", {"fork": "9" * 400}, "All settings are those of"),
    ("sweeps", {"sweep": "", "budget": "9" * 400 + " trials"}, "the budget is too large"),
    ("sweeps", {"sweep": "", "space.lora.r": "[" * 900}, "takes a list of values"),
    ("sweeps", {"view": "Trials", "find": "tags > 3"}, "0 of 24 trials"),
    ("errors", {"run": "nobody@²"}, "No such run"),
]


@pytest.mark.parametrize(("page", "query", "seen"), ODD)
def test_an_odd_address_is_told_in_words(
    page: str, query: dict[str, str], seen: str, known: dict[str, dict[str, str | list[str]]]
) -> None:
    assert seen in html(show(page, **known[page] | query))


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", FORM)
def test_each_field_of_a_sweep_takes_any_text(name: str) -> None:
    """Alone, so that no other wrong field hides it."""
    for text in HOSTILE.values():
        document = sweep_form.parse_yaml(TINY.read_text(), TINY)
        changed = sweep_form.dump_yaml(sweep_form.with_edits(document, {name: text}))
        try:
            sweep_form.control.read_and_estimate(changed, "tiny")
        except sweep_form.ConfigError as error:
            assert error.problems
