"""The command of an idle machine: when it runs, and what keeps it from running."""

from html import escape

import streamlit as st

from src.format import duration, full_stop
from src.panel.ui import html
from src.runs import idle
from src.runs.idle import Stage

UNSET = (
    "No command runs when the machine is idle. `spelltune machine set when_idle.command "
    "'sudo shutdown -h now'` in a terminal sets one; "
    "no page can, as whoever reaches the panel could run anything then."
)


def draw() -> None:
    """Draw the section, which refreshes with the page."""
    st.html("<h2>When it is idle</h2>")
    if (kept := idle.settings()) is None:
        st.html(f'<p class="quiet">{html.with_code(UNSET)}</p>')
        return
    found = idle.read()
    ran = found is not None and found.stage == Stage.RAN
    if found is not None and ran:
        text = f"It ran, and {found.problem or 'ended well'}"
    elif found is not None and found.stage == Stage.COUNTDOWN:
        text = "The countdown goes on"
    else:
        text = f"Now {idle.busy() or 'nothing goes on'}"
    st.html(
        f"<p><code>{escape(kept.command or '')}</code> runs once nothing was queued or trained and "
        f"no page was in front of a reader for {duration(kept.after_minutes * 60)}. "
        f'<span class="quiet" role="status">{html.with_code(full_stop(text))}</span></p>'
    )
