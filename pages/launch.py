"""The form that launches a run: a preset or an earlier run, and what to change in it."""

from collections.abc import Mapping
from concurrent.futures import wait
from html import escape
from typing import Any

import streamlit as st

from src import setting_labels
from src.config import RunConfig, by_name, with_overrides
from src.format import as_sentence, whole_number
from src.panel.launch import data_check, form, measure_button, start, widgets, words
from src.panel.ui import folds, guarded, html, navigation, query_params
from src.panel.ui.problems import Problem, draw_at_button, draw_list
from src.runs import attempts, estimate, launch_notes, launcher, reach

LAUNCH = navigation.OneShotButton("launch")
SEEDS = "number of seeds"  # key of the field
LAST_DATA = "data as last read"  # in the session: of which start, and the preview
MAX_SEEDS = 20  # runs of one press


def page() -> None:
    st.html('<h1 class="unseen">Launch</h1>')
    if guarded.draw_closed("Nothing is launched here"):
        return
    if run_id := LAUNCH.pressed_twice():
        navigation.go("monitor", {"run": run_id})
    origin, base = start.read()
    if base is None:
        return
    texts = form.edited(base)
    config, problems = form.read(base, texts)
    preview = None
    outside: dict[str, str] = {}  # problems that lie in files, the hub or the machine
    if config:
        problems = start.fork_problems(config) | reach.out_of_reach(config, base)
    if config and not problems:
        preview, outside = data_check.check(config)
        problems = outside or estimate.memory_problems(config)
    notes = launch_notes.setting_notes(config) if config else {}
    if config and preview:
        notes |= launch_notes.size_notes(config, preview)
    fields = widgets.Form(base, texts, problems, notes, start.hints(texts), config)
    left, right = st.columns([2.1, 1], gap="large")
    with right, st.container(key="summary"):
        # On a narrow window, where the form comes first, a bar at the bottom edge (panel.css).
        with st.container(key="launch-bar", gap=None):
            draw_at_button(in_order(problems, fields), in_order(notes, fields))
            draw_launch_button(config, problems)
        draw_seeds(config)
        measure_button.draw(config, many=seeds(), held=bool(outside))
        draw_sizes(config, preview)
        for text in widgets.notes_beside(fields):
            folds.draw("note", escape(as_sentence(text)))
        form.draw_changes(start.called(origin), base, texts)
        if config:
            form.draw_copies(config, origin)
        # Last, so that it moves nothing when it comes: how many there are stands at the button.
        draw_list(in_order(problems, fields))
        if outside:
            guarded.button("Check again", on_click=data_check.check_again)
    with left:
        start.draw(origin, base)
        widgets.draw_first(fields)
        draw_data(config if not problems else None, preview, origin)
        widgets.draw_rest(fields)


def draw_data(config: RunConfig | None, preview: Mapping[str, Any] | None, origin: str) -> None:
    """Draw what is known of the data. Where nothing can be read now, or not yet, what was read last
    stays, so that what stands below it does not jump."""
    if preview:
        st.session_state[LAST_DATA] = (origin, preview)
    of, last = st.session_state.get(LAST_DATA, (None, None))
    last = preview or (last if of == origin else None)
    if not (config or last):
        return
    is_old = last and not preview
    st.html(f"<h2>Data{' <small>as last read</small>' if is_old else ''}</h2>")
    if config and not preview:
        data_check.wait_beside(config)
    if last:
        data_check.draw_preview(last)


def in_order(found: Mapping[str, str], fields: widgets.Form) -> list[Problem]:
    """Problems or notes with what their fields are called, in the order of the form."""
    known = by_name()
    order = list(dict.fromkeys([*words.first(), *known]))
    return [
        Problem(
            setting_labels.label(name) if name in known else name,
            found[name],
            f"set {name}" if name in known and widgets.has_field(fields, name) else None,
        )
        for name in sorted(found, key=lambda n: order.index(n) if n in order else -1)
    ]


def draw_launch_button(config: RunConfig | None, problems: Mapping[str, str]) -> None:
    """Draw the button; a press waits for the data check, launches and goes to the monitor."""
    label = "Fork" if start.fork_of() else "Launch"
    many = seeds()
    label = label if many == 1 else f"{label} {many} runs"
    press = LAUNCH.draw(label, disabled=config is None or bool(problems))
    if press is None or config is None:
        return
    with st.spinner("Reading the data first"):
        wait([data_check.begun(config)])
    if data_check.check(config)[1]:
        st.rerun()  # the problems now stand at their fields
    try:
        run_id = press.submit(lambda: launch(config, many))
    except attempts.CannotResume as error:
        html.draw_problem(str(error))
        return
    if many == 1:
        navigation.go("monitor", {"run": run_id})
    first = config.training.seed
    navigation.go("overview", said=f"{many} runs, seeds {first} to {first + many - 1}.")


def seeds() -> int:
    """The number of runs that a press launches, which differ in their seed; of a fork one."""
    if start.fork_of():
        return 1
    asked = whole_number(st.query_params.get("seeds", "1")) or 1
    return min(asked, MAX_SEEDS)


def draw_seeds(config: RunConfig | None) -> None:
    """Draw the choice of that number."""
    if start.fork_of():
        return
    many = seeds()
    if st.session_state.get(SEEDS) != many:
        st.session_state[SEEDS] = many

    def write() -> None:
        now = st.session_state[SEEDS]
        query_params.write("seeds", str(now) if now > 1 else None)

    st.number_input(
        "Runs with different seeds", 1, MAX_SEEDS, many, key=SEEDS, on_change=write,
        help="Three seeds of each config, or more, let Compare say which one is better. They count "
        "up from the seed of the form.",
    )  # fmt: skip
    if config and many > 1:
        first = config.training.seed
        folds.draw("hint", f"Seeds {first} to {first + many - 1}.")


def launch(config: RunConfig, many: int) -> str:
    """Launch so many runs, or fork the one that the address names; return the first one's id."""
    if forked := start.fork_of():
        parent, step = forked
        return attempts.fork(parent, config, step=step)
    if many == 1:
        return launcher.launch(config)
    first = config.training.seed
    return launcher.launch_all(
        [
            with_overrides(config.model_dump(), {"training.seed": first + number})
            for number in range(many)
        ]
    )[0]


def draw_sizes(config: RunConfig | None, preview: Mapping[str, Any] | None) -> None:
    """Draw the sizes that follow from the settings and from the data; a dash where those are
    refused, or not read yet."""
    per_step, tokens, per_epoch, epochs = ["–"] * 4
    if config:
        rows = config.rows_per_step
        per_step = f"{rows:,}"
        if preview:
            epoch = config.steps_per_epoch(preview["rows"]["train"])
            tokens = f"≈ {rows * preview['tokens']['median']:,.0f}"
            per_epoch, epochs = f"{epoch:,}", f"{config.training.max_steps / epoch:.3g}"
    pairs = [("examples per step", per_step), ("tokens per step", tokens)]
    st.html(html.facts([*pairs, ("steps per epoch", per_epoch), ("epochs", epochs)]))


page()
