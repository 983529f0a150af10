"""The data of a config before its launch: checked beside the page, shown, and uploaded."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from src import paths
from src.config import ConfigError, RunConfig
from src.panel.ui import html, navigation
from src.runs import checks
from src.training.data_loaders import READERS, preview_notes

UPLOAD_MIB = 50
POLL_SECONDS = 0.5

_pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="data-check")


# --- checking -------------------------------------------------------------------------------------


def check(config: RunConfig) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The preview of a config's data, None until it is there, and a sentence a setting that this
    machine cannot use. Never waits: a file or the hub must not hold up the page."""
    future = begun(config)
    if not future.done():
        return None, {}
    try:
        return future.result(), {}
    except ConfigError as error:
        return None, error.problems


def out_of_reach(config: RunConfig, base: RunConfig) -> dict[str, str]:
    """A sentence where data.path leaves the panel's folder: its readers may name hub ids, uploads
    and files in SPELLTUNE_HOME/data, and what the run at hand named before."""
    folder, path = paths.home() / "data", config.data.path
    if not path or path == base.data.path:
        return {}
    # Resolved: a link inside may lead outside.
    with suppress(RuntimeError, ValueError):  # nobody's home, or no path at all
        if Path(path).expanduser().resolve().is_relative_to(folder.resolve()):
            return {}
    advice = "upload the file, or launch from the command line"
    return {"data.path": f"the panel reads files under {folder} alone; {advice}"}


def begun(config: RunConfig) -> Future[dict[str, Any]]:
    """The check of what a config says of model and data, which goes on in a thread of its own."""
    looked_at = config.model_dump(include={"model", "data", "backend", "engine", "early_stopping"})
    future = _begin(json.dumps(looked_at), _state(config.data.path), config)
    last = st.session_state.get("data check")
    if last is not None and last is not future:
        last.cancel()  # typed over before it began
    st.session_state["data check"] = future
    return future


@st.cache_resource(max_entries=64, ttl=600, show_spinner=False)
def _begin(looked_at: str, state: Any, _config: RunConfig) -> Future[dict[str, Any]]:
    return _pool.submit(checks.check, _config)


def check_again() -> None:
    """Forget what was found: a file was mended, or the network is back."""
    _begin.clear()


def _state(path: str | None) -> tuple[int, int] | None:
    """Changes when the file does."""
    try:
        found = os.stat(path) if path else None
    except (OSError, ValueError):
        found = None
    return (found.st_mtime_ns, found.st_size) if found else None


def wait_beside(config: RunConfig) -> None:
    """Draw a note that the data is being read; the page runs anew when it has been."""

    def look() -> None:
        if begun(config).done():
            navigation.rerun_page()
        st.html('<p class="quiet" role="status">Reading the data …</p>')

    st.fragment(look, run_every=POLL_SECONDS)()


# --- showing --------------------------------------------------------------------------------------


def show(seen: Mapping[str, Any]) -> None:
    """Rows, token counts, leaks, and how the tokenizer cuts the first rows."""
    rows, tokens = seen["rows"], seen["tokens"]
    st.html(
        html.facts(
            [
                *((f"{split} rows", f"{count:,}") for split, count in rows.items()),
                ("tokens a row", f"{tokens['min']} to {tokens['max']}"),
                ("median", f"{tokens['median']:g} tokens"),
            ]
        )
    )
    for note in preview_notes(seen):
        st.html(f'<p class="note">{escape(note)}.</p>')
    st.html("".join(example(e) for e in seen["examples"][:3]))


def example(row: Mapping[str, Any]) -> str:
    """HTML: prompt and answer, each token in its own box."""
    boxes = "".join(f"<span>{_visible(piece)}</span>" for piece in row["pieces"])
    return f'<div class="pieces">{boxes}</div>'


def _visible(piece: str) -> str:
    return escape(piece).replace("\n", "⏎").replace(" ", "·")


# --- uploading ------------------------------------------------------------------------------------


def upload() -> None:
    """A file of the reader's own, kept under SPELLTUNE_HOME/data and set as data.path."""
    endings = ", ".join(READERS)
    st.write(
        f"A {endings} file with the columns `question` and `answer`. Without a column `split` it "
        "is cut 80/10/10 by word."
    )
    st.file_uploader(
        "Data file", type=list(READERS), max_upload_size=UPLOAD_MIB, key="upload", on_change=_keep
    )


def _keep() -> None:
    given = st.session_state["upload"]
    if given is not None:
        st.query_params["data.path"] = str(keep(given.name, given.getvalue()))


def keep(name: str, content: bytes) -> Path:
    """Write an upload where runs can read it and return its path; an older file of that name
    stays."""
    folder = paths.home() / "data"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem, ending = os.path.splitext(re.sub(r"[^\w.-]+", "-", Path(name).name).strip(".-") or "data")
    path, number = folder / f"{stem[:80]}{ending}", 1
    while path.exists() and path.read_bytes() != content:
        number += 1
        path = folder / f"{stem[:80]}-{number}{ending}"
    staged = folder / f".{secrets.token_hex(8)}"
    staged.write_bytes(content)
    staged.replace(path)
    return path
