"""Runs at each visit: the panel's navigation and what all pages share."""

from html import escape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import streamlit as st

from src import store
from src.panel.parts import PAGES

HERE = Path(__file__).parent

st.set_page_config(page_title="Spelltune", page_icon=HERE / "icon.svg", layout="wide")
st.html(HERE / "panel.css")
st.logo(HERE / "icon.svg", size="small")

pages = {
    "": st.Page(PAGES / "overview.py", title="Overview", default=True),
    "launch": st.Page(PAGES / "launch.py", title="Launch"),
    "monitor": st.Page(PAGES / "monitor.py", title="Monitor"),
    "compare": st.Page(PAGES / "compare.py", title="Compare"),
    "errors": st.Page(PAGES / "errors.py", title="Errors"),
    "sweeps": st.Page(PAGES / "sweeps.py", title="Sweeps"),
}
page = st.navigation(list(pages.values()), position="top")

# Links in our HTML are real ones, to be copied or opened in a tab; a plain click need not load the
# panel anew.
links = st.components.v2.component(
    "spelltune.links", js=(HERE / "links.js").read_text(encoding="utf-8"), isolate_styles=False
)
if clicked := links(key="links", on_to_change=lambda: None).to:
    address = urlsplit(clicked)
    target = pages.get(address.path.rpartition("/")[2], pages[""])
    st.switch_page(target, query_params=parse_qs(address.query))

if why := store.why_not_wal():
    text = f"The run table keeps its journal in the slower DELETE mode: {escape(why)}."
    st.html(f'<p class="banner" role="status">{text}</p>')

try:
    page.run()
except store.TakesNoWrites as error:
    st.html(f'<p class="problem" role="alert">{escape(str(error))}</p>')
