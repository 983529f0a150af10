"""The check of a config's model and data before its launch, in a thread, and its preview."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future
from html import escape
from typing import Any

import streamlit as st

from src.config import ConfigError, RunConfig, names_file, subset
from src.format import as_sentence
from src.panel.access.guard import Pool
from src.panel.ui import folds, html, letters, navigation
from src.runs import checks
from src.training.data_notes import preview_counts, preview_notes

POLL_SECONDS = 0.5

_pool = Pool(max_workers=4, thread_name_prefix="data-check")


# --- checking -------------------------------------------------------------------------------------


def check(config: RunConfig) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The preview of a config's data, None while it is read, and {setting: why it cannot be used}.

    Never waits: a slow file or hub must not hold up the page.
    """
    problems = checks.setting_problems(config)
    future = begun(config)
    if not future.done():
        return None, problems
    try:
        return future.result(), problems
    except ConfigError as error:
        return None, error.problems | problems


def begun(config: RunConfig) -> Future[dict[str, Any]]:
    """The preview of a config's data, read in a thread; cancels the session's older one."""
    key = json.dumps(subset(config, checks.previewed()))
    files = [config.data.path, *filter(names_file, config.evaluation.suites)]
    future = _begin(key, [_state(file) for file in files], config)
    last = st.session_state.get("data check")
    if last is not None and last is not future:
        last.cancel()  # has an effect only if it is still in the thread pool's queue
    st.session_state["data check"] = future
    return future


@st.cache_resource(max_entries=64, ttl=600, show_spinner=False)
def _begin(key: str, state: Any, _config: RunConfig) -> Future[dict[str, Any]]:
    return _pool.submit(checks.data_preview, _config)


def check_again() -> None:
    """Drop the cached checks, for when a file was mended or the network is back."""
    _begin.clear()


def _state(path: str | None) -> tuple[int, int] | None:
    """Modification time and size: a cache key that changes with the file. None if unreadable."""
    try:
        found = os.stat(path) if path else None
    except (OSError, ValueError):
        found = None
    return (found.st_mtime_ns, found.st_size) if found else None


def wait_beside(config: RunConfig) -> None:
    """Draw a note that the data is being read, which reruns the page once it has been."""

    def look() -> None:
        if begun(config).done():
            navigation.rerun_page()
        st.html('<p class="quiet" role="status">Reading the data …</p>')

    st.fragment(look, run_every=POLL_SECONDS)()


# --- showing --------------------------------------------------------------------------------------


def draw_preview(preview: Mapping[str, Any]) -> None:
    """Draw counts of rows and tokens, warnings, and how the tokenizer cuts the first rows."""
    rows, tokens = preview["rows"], preview["tokens"]
    st.html(
        html.facts(
            [
                *((f"{split} rows", f"{count:,}") for split, count in rows.items()),
                ("tokens per row", f"{tokens['min']} to {tokens['max']}"),
                ("median", f"{tokens['median']:g} tokens"),
            ]
        )
    )
    for text in preview_counts(preview):
        st.html(f'<p class="quiet">{escape(as_sentence(text))}</p>')
    for note in preview_notes(preview):
        folds.draw("note", escape(as_sentence(note)))
    st.html("".join(_example(e) for e in preview["examples"][:3]))


def _example(row: Mapping[str, Any]) -> str:
    """HTML: prompt and answer, each token in its own box, under what kind of row it is."""
    kind = f'<p class="quiet">{escape(row["kind"])}</p>' if row["kind"] else ""
    return kind + letters.pieces(row["pieces"])
