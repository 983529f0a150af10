"""The settings of the machine as a form, which writes them into machine.yaml."""

import streamlit as st

from src.config import ConfigError, MachineSettings, change_machine, get, settings, to_text
from src.errors import explain
from src.panel.ui import guarded, html

LABELS = {"price_per_hour": "Price per hour", "currency": "Currency", "budget": "Budget"}
REFUSED = "refused machine settings"


def draw(kept: MachineSettings) -> None:
    """Draw a field for each setting, and the button that writes all of them."""
    st.html("<h2>Settings</h2>")
    known = {setting.name: setting for setting in settings(MachineSettings)}
    with st.form("machine settings", border=False):
        with st.container(horizontal=True, gap="small"):
            for name, label in LABELS.items():
                st.text_input(
                    label, to_text(known[name], get(kept, name)), key=f"machine {name}",
                    help=known[name].help, width=216,
                )  # fmt: skip
        guarded.form_submit_button("Save", on_click=_save)
    if refused := st.session_state.pop(REFUSED, None):
        html.draw_problem(refused)


def _save() -> None:
    texts = {name: st.session_state[f"machine {name}"] for name in LABELS}
    try:
        change_machine(texts)
    except (ConfigError, OSError) as error:
        st.session_state[REFUSED] = explain(error)
        return
    st.toast("Saved.")
