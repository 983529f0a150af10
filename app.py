"""The panel's ASGI application: `streamlit run app.py`, `spelltune panel` or `uvicorn app:app`."""

import streamlit as st

from src.panel.server import lifespan, middleware, routes
from src.panel.ui.guarded import tell_refusal
from src.paths import ROOT

app = st.App(
    ROOT / "src" / "panel" / "main.py",
    middleware=middleware(),
    routes=routes(),
    lifespan=lifespan,
    on_script_error=tell_refusal,
)
