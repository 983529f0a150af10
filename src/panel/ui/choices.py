"""Choices whose options stand in the address by their keys, and on the page in words.

A widget that Streamlit binds to the address writes what it shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from src.panel.ui import query_params

Words = Callable[[str], str]  # what the page calls an option; another one for each


def one(label: str, options: Sequence[str], words: Words, *, key: str, **look: Any) -> str:
    """Draw a list to choose from, and return the chosen option: the first one where the address
    names none of them."""
    chosen, shown = _prepare_one(options, words, key)
    st.selectbox(label, options, options.index(chosen), **shown, **look)
    return chosen


def segment(label: str, options: Sequence[str], words: Words, *, key: str, **look: Any) -> str:
    """`one` with the options beside each other."""
    chosen, shown = _prepare_one(options, words, key)
    st.segmented_control(label, options, default=chosen, required=True, **shown, **look)
    return chosen


def several(
    label: str, options: Sequence[str], first: Sequence[str], words: Words, *, key: str
) -> list[str]:
    """Draw a choice of several options, and return them: `first` where the address says nothing."""
    asked = st.query_params.get_all(key)
    chosen = [o for o in dict.fromkeys(asked) if o in options] if asked else list(first)

    def write(now: list[str]) -> None:
        query_params.write(key, None if now == list(first) else now or "")

    st.multiselect(label, options, chosen, **_shown(chosen, words, key, write))
    return chosen


def noting(words: Words, key: str) -> Words:
    """`words` for the widget of a key, which notes what it calls each option.

    Streamlit knows an option by its text, and a browser may still send one that has changed since,
    such as the score of a run; `meant` then finds the option.
    """
    texts: dict[str, str] = st.session_state.setdefault(f"texts of {key}", {})

    def called(option: str) -> str:
        text = words(option)
        if text != option:
            texts[text] = option
        return text

    return called


def meant(key: str) -> Any:
    """The option, or the list of options, that the widget of a key has; its state has them too."""
    texts: dict[str, str] = st.session_state.get(f"texts of {key}", {})
    now = st.session_state[key]
    found = [texts.get(one, one) for one in now] if isinstance(now, list) else texts.get(now, now)
    if found != now:
        st.session_state[key] = found
    return found


def _prepare_one(options: Sequence[str], words: Words, key: str) -> tuple[str, dict[str, Any]]:
    """The chosen option, and the arguments of `_shown`."""
    asked = st.query_params.get(key, "")
    chosen = asked if asked in options else options[0]

    def write(now: str) -> None:
        query_params.write(key, None if now == options[0] else now)

    return chosen, _shown(chosen, words, key, write)


def _shown(
    chosen: str | list[str], words: Words, key: str, write: Callable[[Any], None]
) -> dict[str, Any]:
    """Arguments of a widget that shows the address and writes it."""
    state = f"chosen {key}"
    if st.session_state.get(state) != chosen:
        st.session_state[state] = chosen
    told = noting(words, state)
    return {"format_func": told, "key": state, "on_change": lambda: write(meant(state))}
