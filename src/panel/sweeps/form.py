"""SweepConfig as a form: it starts from a sweep file; the address holds what differs from it.

An edited sweep is saved as a file before its launch, so that it can be read and repeated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from src import paths, setting_labels
from src.config import (
    DEFAULT_PRESET,
    ConfigError,
    RunConfig,
    Setting,
    by_name,
    dump_yaml,
    from_text,
    load_config,
    parse_yaml,
    presets,
    read_text,
    to_text,
)
from src.errors import explain_os_error
from src.format import capital, full_stop
from src.panel.launch import form as run_form
from src.panel.launch import measure_button, widgets, words
from src.panel.sweeps import common, notes, picture, space
from src.panel.sweeps.space import SPACE, flow, unflow
from src.panel.ui import folds, guarded, html, navigation, query_params
from src.panel.ui.problems import Problem, draw_at, draw_at_button, draw_list
from src.sweeps import control, estimate, reach
from src.sweeps.estimate import SweepEstimate
from src.sweeps.file import SweepConfig, base_config
from src.training.data_files import DataError

FIRST_FILE = "tiny"  # runs on two CPU cores in minutes
FIRST = ("name", "base.preset", "method", "pruner", "metric", "seeds", "budget")
TITLES = {
    "name": "Name of the sweep",
    "base.preset": "Preset",
    "budget": "Budget (trials or time)",
    "at_once": "Trials at a time",
    "seed": "Seed of the search",
    "duplicates": "Equal cells of a grid",
    "retries": "Retries of a failed trial",
    "executor": "Who trains",
    "seeds": "Seeds per setting",
}
HINTS = {
    "name": "Trials are numbered under it.",
    "base.preset": "What all trials share.",
    "method": "grid tries all, random draws, tpe learns from what came out.",
    "pruner": "What ends trials that fall behind.",
    "metric": "What ranks the trials.",
    "seeds": "Trials of each setting. Its score is their mean.",
    "budget": "24 trials, or 30 minutes.",
    "duplicates": "What becomes of cells that train the same.",
    "executor": "This machine, or all of a Ray cluster.",
}
LAUNCH = navigation.OneShotButton("launch the sweep")

# --- the fields -----------------------------------------------------------------------------------


def fields() -> dict[str, Setting]:
    """{name: setting} of a sweep file, except the search space, which has its own fields, and
    `mode`, which follows from the metric."""
    known = dict(by_name(SweepConfig))
    known["base.preset"] = replace(known["base.preset"], annotation=Literal[tuple(presets())])
    return {name: one for name, one in known.items() if name not in ("space", "mode")}


def texts_of(document: Mapping[str, Any]) -> dict[str, str]:
    """{field: text} of a sweep file, as the form shows it."""
    base, tried = section(document, "base"), section(document, "space")
    plain = {
        "base.preset": base.get("preset") or DEFAULT_PRESET,
        "base.overrides": base.get("overrides"),
    }
    found = {}
    for name, one in fields().items():
        given = plain.get(name, document.get(name, default_of(name)))
        found[name] = flow(given or {}) if name == "base.overrides" else to_text(one, given)
    return found | {SPACE + name: flow(values) for name, values in tried.items()}


def section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping of the file; empty if it is something else, which validation refuses."""
    found = document.get(name)
    return dict(found) if isinstance(found, dict) else {}


def default_of(name: str) -> Any:
    """The default of a field of a sweep file, None if it has none."""
    field = SweepConfig.model_fields.get(name)
    return None if field is None or field.is_required() else field.default


def edited(before: Mapping[str, str]) -> dict[str, str]:
    """{field: text} of what the address changes; an empty text removes a searched setting."""
    known = by_name()
    return {
        name: text
        for name, text in st.query_params.items()
        if text != before.get(name, "")
        and (name in before or name.removeprefix(SPACE) in known and name.startswith(SPACE))
    }


def with_edits(document: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The sweep file with these fields changed."""
    known = fields()
    changed = dict(document)
    base, tried = section(document, "base"), section(document, "space")
    for name, text in texts.items():
        if name.startswith(SPACE):
            tried.pop(name.removeprefix(SPACE), None)
            if text.strip():
                tried[name.removeprefix(SPACE)] = unflow(text)
        elif name == "base.overrides":
            base["overrides"] = unflow(text) if text.strip() else {}
        elif name == "base.preset":
            base["preset"] = text
        else:
            changed[name] = from_text(known[name], text)
            if name == "metric":  # whether less of it is better is known of each
                changed.pop("mode", None)
    return changed | {"base": base, "space": tried}


# --- the form -------------------------------------------------------------------------------------


def draw() -> None:
    """Draw the fields, what the sweep would take, and the button that launches it."""
    if sweep_id := LAUNCH.pressed_twice():
        show(sweep_id)
    left, right = st.columns([2.1, 1], gap="large")
    with left:
        chosen = pick()
    if chosen is None:
        return
    try:
        document = parse_yaml(original := read_text(chosen), chosen)
    except ConfigError as error:
        html.draw_problem(str(error))
        return
    before = texts_of(document)
    texts = edited(before)
    text = original
    if texts:
        text = dump_yaml(with_edits(document, texts))
    sweep, plan, problems = None, None, {}
    try:
        sweep, plan = control.read_and_estimate(text, chosen.name)
        problems = reach.out_of_reach(sweep) if texts else {}
    except ConfigError as error:
        problems = error.problems
    with left:
        draw_fields(FIRST, before, texts, problems)
        base = base_config(sweep) if sweep else load_config()
        space.draw(base, before, texts, problems, steps=is_grid(before, texts))
        common.draw(before, texts, problems)
        rest = [name for name in fields() if name not in (*FIRST, "base.overrides")]
        wrong = any(name.startswith(tuple(rest)) for name in problems)
        changed = sum(name in texts for name in rest)
        title = "All other fields" + (f" · {changed} changed" if changed else "")
        with st.expander(title, expanded=wrong, key=f"rest {wrong}"):
            draw_fields(rest, before, texts, problems)
    with right, st.container(key="summary"):
        held = sweep is None or bool(problems)
        known = {} if held or sweep is None else notes.found(sweep, base)
        refused = _listed(problems, dict(before) | texts)
        with st.container(key="launch-bar", gap=None):
            draw_at_button(refused, notes.listed(known, dict(before) | texts))
            pressed = LAUNCH.draw("Launch the sweep", disabled=held)
        draw_list(refused)
        if not problems and sweep and plan:
            draw_plan(sweep, plan, base, text, known.values())
        if texts:
            reset = tuple(texts)
            guarded.button("Undo all changes", on_click=run_form.reset, args=reset, type="tertiary")
        # Opens with the first problem; under an unchanged key it would stay closed.
        with st.expander("As a file", expanded=bool(problems), key=f"as a file {bool(problems)}"):
            st.code(text, language="yaml")
    if pressed and sweep and not held:
        try:
            launch(saved(sweep.name, text) if texts else chosen, pressed)
        except OSError as error:
            html.draw_problem(f"the sweep could not be saved: {explain_os_error(error)}")


def draw_plan(
    sweep: SweepConfig, plan: SweepEstimate, base: RunConfig, text: str, noted: Iterable[str]
) -> None:
    """Draw what the sweep tries and takes, and what is noted of its trials."""
    st.html(f'<p class="claim">{picture.sum_line(sweep, plan)}</p>{picture.strips(sweep)}')
    lines = [*plan.lines()[1:], *picture.guess(base, plan)]
    said = " ".join(full_stop(capital(line)) for line in lines)
    st.html(f'<p class="quiet">{html.with_code(said)}</p>')
    offer_measure(sweep, text)
    notes.draw(noted, sweep, base)


def pick() -> Path | None:
    """Draw the choice of the file to start from."""
    files = files_known()
    shown = st.selectbox(
        "Start from", list(files), key="file", bind="query-params", width=260,
        help="The files in `configs/sweeps`, and what was launched "
        "from here. `docs/settings.md` lists at its end what may stand in them.",
    )  # fmt: skip
    return files.get(shown) if shown else None


def files_known() -> dict[str, Path]:
    """{name: file} of the sweeps to start from: shipped ones and those saved by this form."""
    shipped = sorted(paths.SWEEPS.glob("*.yaml"), key=lambda path: (path.stem != FIRST_FILE, path))
    own = sorted(paths.own_sweeps().glob("*.yaml"))
    return {path.stem: path for path in shipped} | {f"{path.stem} (own)": path for path in own}


def name_of(file: Path) -> str | None:
    """The name of a file in that choice; None if it is not among them."""
    return next((name for name, path in files_known().items() if path == file), None)


def draw_fields(
    names: Iterable[str],
    before: Mapping[str, str],
    texts: Mapping[str, str],
    problems: Mapping[str, str],
) -> None:
    known = fields()
    names = list(names)
    with st.container(horizontal=True, key=f"fields of a sweep {names[0]}"):
        for name in names:
            with st.container(width=216, gap=None):
                title = TITLES.get(name)
                widgets.draw_field(known[name], before[name], texts.get(name, before[name]), title)
                if not draw_problems(name, problems):
                    hint = HINTS.get(name) or words.first_sentence(known[name])[0]
                    folds.draw("hint", html.with_code(hint))


def is_grid(before: Mapping[str, str], texts: Mapping[str, str]) -> bool:
    """True if all values are tried, so that a range of fractions needs a step."""
    return texts.get("method", before["method"]) == "grid"


def draw_problems(name: str, problems: Mapping[str, str]) -> bool:
    """Draw why the value of a field is refused; return whether it is."""
    found = [
        text for where, text in problems.items() if where == name or where.startswith(f"{name}.")
    ]
    for text in found:
        draw_at(f"set {name}", text)
    return bool(found)


def _listed(problems: Mapping[str, str], texts: Mapping[str, str]) -> list[Problem]:
    """The problems with what their fields are called, and where they are."""
    own, known = fields(), by_name()
    found = []
    for name, text in problems.items():
        shared = name.removeprefix(f"{common.NAME}.")
        rows = (place for place in texts if place.startswith(SPACE))
        row = next((place for place in rows if f"{name}.".startswith(f"{place}.")), "")
        tried = known.get(row.removeprefix(SPACE))
        if name in own and name != common.NAME:
            called = TITLES.get(name) or setting_labels.label(name)
            found.append(Problem(called, text, f"set {name}"))
        elif shared != name and shared in known:
            found.append(Problem(setting_labels.label(shared), text, f"common {shared}"))
        elif tried:
            called = setting_labels.label(tried.name)
            found.append(Problem(called, text, space.key_of(tried, texts[row])))
        else:
            found.append(Problem(name, text))
    return found


def offer_measure(sweep: SweepConfig, text: str) -> None:
    """Draw a button that measures, if no measurement of this sweep is kept."""
    if estimate.missing_measurements(sweep):
        measure_button.offer(f"sweep {hash(text)}", measure_button.MEASURE, {"sweep": text})


# --- launch ---------------------------------------------------------------------------------------


def saved(name: str, text: str) -> Path:
    """Save an edited sweep; beside a file of that name with other content it gets a number."""
    folder = paths.own_sweeps()
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        file = folder / f"{name}{'' if number == 1 else f'-{number}'}.yaml"
        try:
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
        except FileExistsError:
            if file.read_text(encoding="utf-8") != text:
                number += 1
                continue
        return file


def launch(file: Path, press: navigation.Press) -> None:
    """Launch the sweep and show it, or draw why it cannot be launched."""
    told: list[str] = []
    try:
        with st.spinner("Reading the data first"):
            sweep_id = press.submit(lambda: control.launch(file, tell=told.append))
    except (ConfigError, DataError) as error:
        html.draw_problem(str(error))
        return
    notes.keep(sweep_id, told)
    show(sweep_id)


def show(sweep_id: str) -> None:
    """Rerun the page for this sweep."""
    query_params.write_all({"sweep": sweep_id})  # and none of the edits
    st.rerun()
