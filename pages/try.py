"""Answers of adapters to typed words and prompts, side by side with their base model."""

import streamlit as st

from src.errors import UserError
from src.panel.tries import ask, choose, draw
from src.panel.ui import guarded, html, navigation
from src.training import questions

HOW = (
    "Type a word or a prompt, or paste a list. Each adapter answers beside its base model, as it "
    "was trained to be asked."
)
OTHER = "Choose another adapter above, or train one."


def page() -> None:
    st.html('<h1 class="unseen">Try</h1>')
    # An answer takes the machine, and may take it from a training.
    if guarded.draw_closed("Nothing is asked here"):
        return
    spellers, labels = choose.adapters()
    lines = choose.texts()
    with st.container(horizontal=True, vertical_alignment="center"):
        # Without an adapter the way to one is the button to press.
        kind = "primary" if spellers else "secondary"
        guarded.button("Ask", type=kind, on_click=ask.ask_again)
        baseline = st.toggle("Ask the base model too", True, key="base", bind="query-params")
    if not spellers:
        link = navigation.link("launch", "Launch a run", style="button")
        html.draw_empty(
            "No adapter to ask", f"{OTHER if 'run' in st.query_params else HOW}<br><br>{link}"
        )
        return
    if not lines:
        html.draw_empty("Nothing asked yet", HOW)
        return
    try:
        texts = questions.texts_of(lines)
    except UserError as error:
        html.draw_problem(str(error))
        return
    asked = questions.with_bases(spellers, baseline=baseline)
    if rows := ask.answers(asked, texts):
        draw.answers(rows, asked, texts, labels)


page()
