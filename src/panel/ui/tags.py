"""Tags and notes of runs, as edited in a table."""

from collections.abc import Sequence

import streamlit as st

from src import store
from src.runs import snapshots


def save_edits(key: str, ids: Sequence[str]) -> None:
    """Store the edits of a data editor: `key` is its widget key, `ids` its runs by row."""
    for row, values in st.session_state[key]["edited_rows"].items():
        run_id = ids[int(row)]
        with store.writing() as session:
            run = store.find(session, run_id)
            tags = values.get("tags", run.tags) or []
            tags = list(dict.fromkeys(str(tag).strip() for tag in tags if str(tag).strip()))
            store.set_notes(session, run_id, tags=tags, notes=values.get("notes", run.notes))
        snapshots.write_run(run_id)
