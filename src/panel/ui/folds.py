"""Notes, hints and refusals below a field or above a table: two lines of each, the rest on demand.

Whatever is told takes the same room, so that no row moves when a note comes, goes or is read.
"""

from pathlib import Path
from typing import Literal

import streamlit as st

Kind = Literal["hint", "note", "problem"]

_folds = st.components.v2.component(
    "spelltune.folds",
    js=Path(__file__).with_name("folds.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def watch() -> None:
    """Have the browser fold, on every page, what is longer than its room (folds.js)."""
    _folds(key="folds")


def folded(kind: Kind | Literal["line"], told: str, *, field: str = "") -> str:
    """HTML of a text (HTML itself) that is cut after two lines, and after one as a "line".

    folds.js makes a cut one a disclosure: a press shows the whole of it over what stands below.
    `field` is the class of the field that it is about.
    """
    about = f' data-field="{field}"' if field else ""
    return f'<div class="fold {kind}"{about}><span>{told}</span></div>'


def draw(kind: Kind, told: str) -> None:
    """Draw a note, a hint or a refusal (HTML)."""
    st.html(folded(kind, told))
