"""Tags and notes of runs, as edited in a table."""

from collections.abc import Iterable, Sequence

import streamlit as st

from src import store
from src.runs import snapshots

# A list column would keep a tag to itself until its cell is left, and lose it with the page.
COLUMN = st.column_config.TextColumn("tags ✎", help="Tags, with commas between.", max_chars=500)


def joined(tags: Iterable[str] | None) -> str:
    """Tags as one edits them: with commas between."""
    return ", ".join(tags or [])


def split(text: str | None) -> list[str]:
    """The tags of a text with commas between, each once."""
    found = (tag.strip() for tag in (text or "").split(","))
    return list(dict.fromkeys(tag for tag in found if tag))


def save_edits(key: str, ids: Sequence[str]) -> None:
    """Store the edits of a data editor: `key` is its widget key, `ids` its runs by row."""
    for row, values in st.session_state[key]["edited_rows"].items():
        run_id = ids[int(row)]
        with store.writing() as session:
            run = store.find(session, run_id)
            tags = split(values["tags"]) if "tags" in values else run.tags or []
            store.set_notes(session, run_id, tags=tags, notes=values.get("notes", run.notes))
        snapshots.write_run(run_id)
