"""Things to choose from, drawn as HTML whose buttons tell the page what was pressed.

A press arrives as that of a widget does, so that what was typed in a field just before it is kept,
which a link would take back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

_chooser = st.components.v2.component(
    "spelltune.chooser",
    js=Path(__file__).with_name("chooser.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def draw(
    content: str, *, key: str, on_choose: Callable[[str], None], find: str | None = None,
    placeholder: str = "", focus: str | None = None,
) -> None:  # fmt: skip
    """Draw HTML in which an element with `data-choose` calls `on_choose` with that value.

    With `find`, the label of a search box, it shows the elements with `data-find` that have all
    words of it, there or in their text. The widget whose key is `focus` and the chosen value gets
    the focus once the page draws it.
    """

    def chosen() -> None:
        if (value := st.session_state[key].get("chosen")) is not None:
            on_choose(str(value))

    data: dict[str, Any] = {"html": content, "find": find, "placeholder": placeholder}
    data["focus"] = focus
    _chooser(key=key, data=data, on_chosen_change=chosen)
