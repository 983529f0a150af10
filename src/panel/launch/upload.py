"""A data file of the reader's own, kept where runs can read it."""

import os
import re
import secrets
from pathlib import Path

import streamlit as st

from src import paths
from src.training.data_files import READERS

MAX_MIB = 50


def draw() -> None:
    """Draw the uploader; a file is kept under SPELLTUNE_HOME/data and set as data.path."""
    endings = ", ".join(READERS)
    st.write(
        f"A {endings} file with the columns `question` and `answer`. Without a column `split` it "
        "is cut 80/10/10 by word."
    )
    st.file_uploader(
        "Data file", type=list(READERS), max_upload_size=MAX_MIB, key="upload", on_change=_keep
    )


def _keep() -> None:
    given = st.session_state["upload"]
    if given is not None:
        st.query_params["data.path"] = str(keep(given.name, given.getvalue()))


def keep(name: str, content: bytes) -> Path:
    """Write an upload under SPELLTUNE_HOME/data and return its path.

    A file of that name with other content stays: the new one gets a number.
    """
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
