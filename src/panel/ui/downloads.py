"""Buttons that download a table."""

from functools import partial

import pandas as pd
import streamlit as st

from src.analysis import exports


def draw(frame: pd.DataFrame, name: str) -> None:
    """Draw a button per file format; a file is written on a click, not at each rerun."""
    for ending, (kind, mime, write) in exports.FORMATS.items():
        st.download_button(kind, partial(write, frame), f"{name}.{ending}", mime, on_click="ignore")
