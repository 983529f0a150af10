"""The settings of the machine as a form, which writes them into machine.yaml."""

import streamlit as st

from src.config import ConfigError, MachineSettings, by_name, change_machine, get, to_text
from src.errors import explain
from src.panel.ui import guarded, html

LABELS = {
    "price_per_hour": "Price per hour ({})",
    "budget": "Budget ({})",
    "currency": "Currency",
}
EXAMPLES = {"price_per_hour": "2.50", "budget": "100", "currency": "USD"}
REFUSED = "refused machine settings"


def draw(kept: MachineSettings) -> None:
    """Draw a field for each setting, and the button that writes all of them."""
    known = by_name(MachineSettings)
    with st.form("machine settings", border=False):
        with st.container(horizontal=True, gap="small"):
            for name, label in LABELS.items():
                label = label.format(kept.currency)
                st.text_input(
                    label, to_text(known[name], get(kept, name)), key=f"machine {name}",
                    help=known[name].help, width=216, placeholder=EXAMPLES[name],
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
    guarded.tell("Saved.")
