"""The Streamlit script of the panel: navigation, styles and banners, then the chosen page."""

from html import escape
from pathlib import Path

import streamlit as st

from src import store
from src.access import ReadOnlyAccess
from src.panel import memory
from src.panel.access import guard
from src.panel.access.login import LOG_OUT
from src.panel.server import standby_keeper
from src.panel.ui import desktop, folds, guarded, idle, navigation, query_params, tab
from src.panel.ui.html import draw_problem
from src.panel.ui.navigation import PAGES
from src.runs import lease
from src.runs.locks import LocksUnavailable

HERE = Path(__file__).parent

memory.set_modules_aside()
if guarded.may_edit():
    standby_keeper.use()

st.set_page_config(layout="wide")
st.html(HERE / "panel.css")
st.logo(HERE / "icon.svg", size="small")

pages = {
    "": st.Page(PAGES / "overview.py", title="Overview", default=True),
    "launch": st.Page(PAGES / "launch.py", title="Launch"),
    "monitor": st.Page(PAGES / "monitor.py", title="Monitor"),
    "compare": st.Page(PAGES / "compare.py", title="Compare"),
    "errors": st.Page(PAGES / "errors.py", title="Errors"),
    "try": st.Page(PAGES / "try.py", title="Try"),
    "sweeps": st.Page(PAGES / "sweeps.py", title="Sweeps"),
    "machine": st.Page(PAGES / "machine.py", title="Machine"),
}
page = st.navigation(list(pages.values()), position="top")
if guard.login_key():
    reads = "" if guarded.may_edit() else '<span class="badge">read-only</span> '
    st.html(f'<p class="login">{reads}<a class="log-out" href="{LOG_OUT}">Log out</a></p>')

tab.show(page.title)
navigation.draw_links()
desktop.watch()
folds.watch()
idle.watch()
query_params.settle(page.url_path)

if why := store.why_not_wal():
    text = f"The run table keeps its journal in the slower DELETE mode: {escape(why)}."
    st.html(f'<p class="banner" role="status">{text}</p>')

if other := lease.other_host():
    text = f"These runs are trained on {escape(other)}. Here they can be read; launch others there."
    st.html(f'<p class="banner" role="status">{text}</p>')

guarded.draw_told()
try:
    page.run()
except (store.DatabaseUnavailable, lease.HomeInUse, LocksUnavailable, ReadOnlyAccess) as error:
    draw_problem(str(error))
