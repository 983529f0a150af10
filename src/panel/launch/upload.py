"""A data file of the reader's own, kept where runs can read it, in whatever format it came."""

from pathlib import Path

import streamlit as st

from src import files, paths
from src.format import counted, full_stop
from src.training import data_import
from src.training.data_files import DataError, read_path
from src.training.data_loaders import COLUMNS

MAX_MIB = 50
ROWS_SHOWN = 10


def draw() -> None:
    """Draw the uploader; what a run can read of a file is set as data.path."""
    st.write(
        "Questions and answers as JSON, JSON Lines, CSV, TSV, Excel or Parquet, chats (messages, "
        "ShareGPT, Alpaca), or a list of misspellings such as `recieve->receive`. Without a column "
        "`split` they are cut 80/10/10 by word."
    )
    st.file_uploader(
        "Data file",
        type=list(data_import.ENDINGS),
        max_upload_size=MAX_MIB,
        key="upload",
        on_change=_keep,
    )
    state = st.session_state
    if columns := state.get("upload columns"):
        _choose_columns(columns)
    elif problem := state.get("upload problem"):
        st.error(full_stop(problem))
    elif imported := state.get("upload imported"):
        _draw_rows(imported)


def _keep() -> None:
    """Keep the file that was uploaded, and use it."""
    for key in ("upload columns", "upload problem", "upload imported", "upload kept"):
        st.session_state.pop(key, None)
    given = st.session_state["upload"]
    if given is not None:
        kept = files.keep(given.getvalue(), paths.home() / "data", given.name)
        st.session_state["upload kept"] = kept
        use(kept)


def use(kept: Path, mapping: dict[str, str] | None = None) -> None:
    """Set a kept file as data.path: itself if a run can read it, else what is imported of it."""
    state = st.session_state
    try:
        tables = read_path(kept) if mapping is None else {}
        if tables and all({*COLUMNS} <= {*table.columns} for table in tables.values()):
            st.query_params["data.path"] = str(kept)
            return
    except DataError:
        pass  # another format, or a fault that the import below tells
    try:
        imported = data_import.import_data(kept, mapping=mapping)
    except data_import.UnknownColumns as error:
        state["upload columns"] = error.columns
    except DataError as error:
        state["upload problem"] = str(error)
    else:
        state["upload imported"] = imported
        state.pop("upload columns", None)
        st.query_params["data.path"] = str(data_import.save(imported, kept.stem))


def _choose_columns(columns: list[str]) -> None:
    """Draw the choice of the columns that hold question and answer."""
    st.write("Which column holds the question, and which the right answer?")
    left, right = st.columns(2)
    question = left.selectbox("Question", columns, key="upload question")
    answer = right.selectbox("Answer", columns, index=min(1, len(columns) - 1), key="upload answer")

    def chosen() -> None:
        use(st.session_state["upload kept"], {"question": question, "answer": answer})

    st.button("Use these columns", on_click=chosen, disabled=question == answer)


def _draw_rows(imported: data_import.Imported) -> None:
    """Draw what was found in the file: counts, what was left out, the first rows."""
    st.write(f"{counted(len(imported.rows), 'row')}, read as `{imported.format}`.")
    for note in imported.notes:
        st.caption(full_stop(f"{note[0].upper()}{note[1:]}"))
    if imported.system_prompt:
        st.caption(
            "All rows have one system message; with data.template chat it is data.system_prompt:"
        )
        st.code(imported.system_prompt, language=None)
    with st.expander(f"First {min(ROWS_SHOWN, len(imported.rows))} rows"):
        st.table([{n: row[n] for n in COLUMNS} for row in imported.rows[:ROWS_SHOWN]])
