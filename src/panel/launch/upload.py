"""A data file of the reader's own, kept where runs can read it, in whatever format it came."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from src import files, paths
from src.config import RunConfig
from src.format import as_sentence, counted, cut, full_stop
from src.panel.launch import form
from src.panel.ui import folds, guarded, html
from src.training import data_formats, data_import
from src.training.data_files import DataError, read_path
from src.training.data_loaders import COLUMNS

MAX_MIB = 50
ROWS_SHOWN = 10
MAX_LETTERS = 160  # of a cell, as shown
_STATE = ("upload kept", "upload read", "upload asks", "upload problem")


@dataclass(frozen=True)
class _Read:
    """The questions and answers of a file that was uploaded."""

    path: str  # as data.path
    told: str
    rows: Sequence[Mapping[str, Any]]  # the first ones
    notes: Sequence[str] = field(default_factory=list)
    system_prompt: str | None = None


def draw(base: RunConfig) -> None:
    """Draw the uploader; what a run can read of a file is set as data.path."""
    st.html(
        '<p class="quiet">Questions and answers as JSON, JSON Lines, CSV, TSV, Excel or Parquet, '
        "chats (messages, ShareGPT, Alpaca), or a list of misspellings such as "
        "<code>recieve-&gt;receive</code>. Without a column <code>split</code> they are cut "
        "80/10/10 by word.</p>"
    )
    guarded.file_uploader(
        "Data file",
        type=list(data_import.ENDINGS),
        max_upload_size=MAX_MIB,
        key="upload",
        on_change=_keep,
        args=(base,),
    )
    state = st.session_state
    if asks := state.get("upload asks"):
        _choose_columns(base, asks)
    elif problem := state.get("upload problem"):
        html.draw_problem(full_stop(problem))
    elif read := state.get("upload read"):
        _draw_read(read)


def _keep(base: RunConfig) -> None:
    """Keep the file that was uploaded, and use it; none of an earlier one is used any more."""
    earlier = st.session_state.get("upload read")
    if earlier and st.query_params.get("data.path") == earlier.path:
        form.reset("data.path")
    for key in _STATE:
        st.session_state.pop(key, None)
    given = st.session_state["upload"]
    if given is not None:
        kept = files.keep(given.getvalue(), paths.home() / "data", given.name)
        st.session_state["upload kept"] = kept, given.name
        use(base, kept, given.name)


def use(base: RunConfig, kept: Path, name: str, mapping: dict[str, str] | None = None) -> None:
    """Set a kept file as data.path: itself if a run can read it, else what is imported of it."""
    state = st.session_state
    found = _as_it_is(kept) if mapping is None else None
    try:
        found = found or _imported(kept, mapping)
    except data_import.UnknownColumns as error:
        if len(error.columns) > 1:
            state["upload asks"] = error
            return
        state["upload problem"] = (
            f"{name} has one column only ({error.columns[0]}), and a question and its answer need "
            "one each"
        )
    except DataError as error:
        state["upload problem"] = str(error).replace(str(kept), name)
    else:
        state["upload read"] = found
        state.pop("upload asks", None)
        form.use_own_data(base, found.path)


def _as_it_is(kept: Path) -> _Read | None:
    """A file that a run can read without an import, else None."""
    with suppress(DataError):  # another format, or a fault that the import tells
        tables = read_path(kept)
        if tables and all({*COLUMNS} <= {*table.columns} for table in tables.values()):
            rows = pd.concat(list(tables.values()))
            return _Read(
                str(kept),
                f"{counted(len(rows), 'row')} with questions and answers.",
                rows[list(COLUMNS)].head(ROWS_SHOWN).to_dict("records"),
            )
    return None


def _imported(kept: Path, mapping: dict[str, str] | None) -> _Read:
    imported = data_import.import_data(kept, mapping=mapping)
    return _Read(
        str(data_import.save(imported, kept.stem)),
        f"{counted(len(imported.rows), 'row')}, read as {imported.format}.",
        imported.rows[:ROWS_SHOWN],
        imported.notes,
        imported.system_prompt,
    )


def _choose_columns(base: RunConfig, asks: data_import.UnknownColumns) -> None:
    """Draw the choice of the columns that hold question and answer, above the first rows."""
    likely = data_formats.likely_columns(asks.columns, asks.first)
    st.write("Which column holds the question, and which the right answer?")
    chosen = [
        place.selectbox(
            role.capitalize(), asks.columns, asks.columns.index(one), key=f"upload {role}"
        )
        for place, role, one in zip(st.columns(2), COLUMNS, likely, strict=True)
    ]

    def take() -> None:
        kept, name = st.session_state["upload kept"]
        use(base, kept, name, dict(zip(COLUMNS, chosen, strict=True)))

    st.html('<p class="note">Until then a launch takes the data below, not this file.</p>')
    same = chosen[0] == chosen[1]
    guarded.button("Use these columns", on_click=take, disabled=same)
    if same:
        html.draw_problem("Question and answer are the same column; choose two.")
    cells = ([_cell(row.get(name)) for name in asks.columns] for row in asks.first[:ROWS_SHOWN])
    st.html(html.table(dict.fromkeys(asks.columns, "fit"), cells))


def _draw_read(read: _Read) -> None:
    """Draw what was found in the file: counts, what was left out, the first rows."""
    st.html(f'<p class="title">{escape(read.told)}</p>')
    for note in read.notes:
        folds.draw("note", escape(as_sentence(note)))
    if read.system_prompt:
        st.html(
            '<p class="quiet">All rows have one system message. With <code>data.template</code> '
            "chat, set it as <code>data.system_prompt</code>:</p>"
        )
        st.code(read.system_prompt, language=None)
    st.html(
        html.table(
            {"Question": "", "Answer": ""}, ([_cell(row[n]) for n in COLUMNS] for row in read.rows)
        )
    )


def _cell(value: Any) -> str:
    """HTML of a value of the file, cut to one line or a few."""
    text = "" if value is None or value != value else str(value)
    return html.printable(cut(text, MAX_LETTERS))
