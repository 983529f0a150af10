"""SweepConfig as a form: it starts from a sweep file; the address holds what differs from it.

An edited sweep is saved as a file before its launch, so that it can be read and repeated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from src import paths
from src.config import (
    DEFAULT_PRESET,
    ConfigError,
    RunConfig,
    Setting,
    YamlError,
    dump_flow,
    dump_yaml,
    from_text,
    get,
    load_config,
    load_flow,
    names_file,
    parse_yaml,
    presets,
    read_text,
    settings,
    to_text,
)
from src.errors import explain_os_error
from src.format import full_stop
from src.panel.launch import data_check, measure_button
from src.panel.launch import form as run_form
from src.panel.ui import guarded, html, navigation, query_params
from src.sweeps import control, estimate
from src.sweeps.file import Categorical, SweepConfig, base_config
from src.training.data_files import DataError

FIRST_FILE = "tiny"  # runs on two CPU cores in minutes
FOLDER = paths.CONFIGS / "sweeps"
FIRST = ("name", "base.preset", "method", "pruner", "metric", "seeds", "budget")
TITLES = {
    "name": "Name of the sweep",
    "base.preset": "Preset",
    "base.overrides": "Settings of all trials",
    "seeds": "Seeds per setting",
}
SPACE = "space."
LAUNCH = navigation.OneShotButton("launch the sweep")
NOTES = "notes on the launched sweep"  # in the state of the session
HOW = (
    "Values with commas between, or `low: 1e-4, high: 1e-2, log: true`. `step: 0.05` makes it a "
    "grid; `when: {optimizer.name: [sgd]}` searches it only there."
)

# --- the fields -----------------------------------------------------------------------------------


def fields() -> dict[str, Setting]:
    """{name: setting} of a sweep file, except the search space, which has its own fields, and
    `mode`, which follows from the metric."""
    known = {one.name: one for one in settings(SweepConfig)}
    preset = replace(known["base.preset"], annotation=Literal[tuple(presets())])
    known["base.preset"] = preset
    return {name: one for name, one in known.items() if name not in ("space", "mode")}


def searched(name: str) -> Setting:
    """The field for the values of a searched setting."""
    known = {one.name: one for one in settings()}
    told = f"{known[name].help}\n\n{HOW}" if name in known else HOW
    return Setting(SPACE + name, str, told)


def flow(value: Any) -> str:
    """A list or a mapping as one line of YAML without its outer brackets; other values as text."""
    return dump_flow(value) if isinstance(value, list | dict) else str(value)


def unflow(text: str) -> Any:
    """The inverse of `flow`; the text itself if it is neither list nor mapping."""
    try:
        return load_flow(text)
    except YamlError:
        return text


def texts_of(document: Mapping[str, Any]) -> dict[str, str]:
    """{field: text} of a sweep file, as the form shows it."""
    base, space = section(document, "base"), section(document, "space")
    plain = {
        "base.preset": base.get("preset") or DEFAULT_PRESET,
        "base.overrides": base.get("overrides"),
    }
    found = {}
    for name, one in fields().items():
        given = plain.get(name, document.get(name, default_of(name)))
        found[name] = flow(given or {}) if name == "base.overrides" else to_text(one, given)
    return found | {SPACE + name: flow(values) for name, values in space.items()}


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
    known = {one.name for one in settings()}
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
    base, space = section(document, "base"), section(document, "space")
    for name, text in texts.items():
        if name.startswith(SPACE):
            space.pop(name.removeprefix(SPACE), None)
            if text.strip():
                space[name.removeprefix(SPACE)] = unflow(text)
        elif name == "base.overrides":
            base["overrides"] = unflow(text) if text.strip() else {}
        elif name == "base.preset":
            base["preset"] = text
        else:
            changed[name] = from_text(known[name], text)
            if name == "metric":  # whether less of it is better is known of each
                changed.pop("mode", None)
    return changed | {"base": base, "space": space}


# --- the form -------------------------------------------------------------------------------------


def draw() -> None:
    """Draw the fields, what the sweep would take, and the button that launches it."""
    if sweep_id := LAUNCH.pressed_twice():
        show(sweep_id)
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
        problems = out_of_reach(sweep, text_is_new=bool(texts))
    except ConfigError as error:
        problems = error.problems
    left, right = st.columns([2.1, 1], gap="large")
    with left:
        draw_fields(FIRST, before, texts, problems)
        draw_space(base_config(sweep) if sweep else load_config(), before, texts, problems)
        rest = [name for name in fields() if name not in FIRST]
        wrong = any(name.startswith(tuple(rest)) for name in problems)
        changed = sum(name in texts for name in rest)
        title = "All other fields" + (f" · {changed} changed" if changed else "")
        with st.expander(title, expanded=wrong, key=f"rest {wrong}"):
            draw_fields(rest, before, texts, problems)
    with right, st.container(key="summary"):
        held = sweep is None or bool(problems)
        pressed = LAUNCH.draw("Launch the sweep", disabled=held)
        if problems:
            html.draw_problem(str(ConfigError(problems)))
        elif sweep and plan:
            said = " ".join(full_stop(line[:1].upper() + line[1:]) for line in plan.lines())
            st.html(f'<p class="quiet">{html.with_code(said)}</p>')
            offer_measure(sweep, text)
        if texts:
            reset = tuple(texts)
            guarded.button("Undo all changes", on_click=run_form.reset, args=reset, type="tertiary")
        # Opens with the first problem; under an unchanged key it would stay closed.
        with st.expander("As a file", expanded=bool(problems), key=f"as a file {bool(problems)}"):
            st.code(text, language="yaml")
    if pressed and sweep and not held:
        try:
            launch(saved(sweep.name, text) if texts else chosen)
        except OSError as error:
            html.draw_problem(f"the sweep could not be saved: {explain_os_error(error)}")


def pick() -> Path | None:
    """Draw the choice of the file to start from: shipped ones and those saved by this form."""
    shipped = sorted(FOLDER.glob("*.yaml"), key=lambda path: (path.stem != FIRST_FILE, path))
    files = {path.stem: path for path in shipped}
    files |= {f"{path.stem} (own)": path for path in sorted(paths.own_sweeps().glob("*.yaml"))}
    shown = st.selectbox(
        "Start from", list(files), key="file", bind="query-params", width=260,
        help=f"The files in `{FOLDER.relative_to(FOLDER.parents[1])}`, and what was launched "
        "from here. `docs/settings.md` lists at its end what may stand in them.",
    )  # fmt: skip
    return files.get(shown) if shown else None


def draw_fields(
    names: Iterable[str],
    before: Mapping[str, str],
    texts: Mapping[str, str],
    problems: Mapping[str, str],
) -> None:
    known = fields()
    with st.container(horizontal=True, gap="small"):
        for name in names:
            with st.container(width=448 if name in ("name", "base.overrides") else 216, gap=None):
                title = TITLES.get(name)
                run_form.field(known[name], before[name], texts.get(name, before[name]), title)
                draw_problems(name, problems)


def draw_space(
    base: RunConfig,
    before: Mapping[str, str],
    texts: Mapping[str, str],
    problems: Mapping[str, str],
) -> None:
    """Draw the searched settings with their values, and the choice of further ones."""
    known = {one.name: one for one in settings()}
    given = {name: text for name, text in before.items() if name.startswith(SPACE)} | {
        name: text for name, text in texts.items() if name.startswith(SPACE)
    }
    st.html("<h2>Searched settings</h2>")
    if "space" in problems:
        draw_problems("space", problems)
    with st.container(horizontal=True, gap="small"):
        for field, text in given.items():
            name = field.removeprefix(SPACE)
            if not text.strip():
                continue
            with st.container(width=448, gap=None):
                title = run_form.label(known[name]) if name in known else name
                run_form.field(searched(name), before.get(field, ""), text, title)
                draw_problems(field, problems)
    rest = [name for name in known if not given.get(SPACE + name, "").strip()]
    st.selectbox(
        "Search one more setting", rest, None, key="one more", on_change=add_to_space,
        args=(base,), placeholder="choose a setting", width=260,
        help="It begins with the value that it has now. Empty its field to leave it out again.",
    )  # fmt: skip


def add_to_space(base: RunConfig) -> None:
    """Search the chosen setting too, starting with its present value."""
    if name := st.session_state["one more"]:
        query_params.write(SPACE + name, flow([get(base, name)]))
        st.session_state["one more"] = None


def draw_problems(name: str, problems: Mapping[str, str]) -> None:
    for where, text in problems.items():
        if where == name or where.startswith(f"{name}."):
            html.draw_problem(text)


def out_of_reach(sweep: SweepConfig, *, text_is_new: bool) -> dict[str, str]:
    """{field: why it is refused} if edits name files outside the folders that readers may use."""
    if not text_is_new:
        return {}
    base = base_config(sweep)
    found = data_check.out_of_reach(base, load_config(preset=sweep.base.preset))
    problems = {f"base.overrides.{name}": text for name, text in found.items()}
    suites = sweep.space.get("evaluation.suites")
    tried = suites.values if isinstance(suites, Categorical) else []
    wrong = ["evaluation.suites"] if any(names_file(one) for each in tried for one in each) else []
    for name in [*wrong, *({"data.path"} & sweep.space.keys())]:
        problems[f"space.{name}"] = "is for sweeps that are launched from the command line"
    return problems


def offer_measure(sweep: SweepConfig, text: str) -> None:
    """Draw a button that measures, if no measurement of this sweep is kept."""
    if estimate.missing_measurements(sweep):
        measure_button.offer(f"sweep {hash(text)}", "Measure what it takes", {"sweep": text})


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


def launch(file: Path) -> None:
    """Launch the sweep and show it, or draw why it cannot be launched."""
    notes: list[str] = []
    try:
        with st.spinner("Reading the data first"):
            sweep_id = LAUNCH.submit(lambda: control.launch(file, tell=notes.append))
    except (ConfigError, DataError) as error:
        html.draw_problem(str(error))
        return
    if notes:  # a second press launches nothing and has none
        st.session_state[NOTES] = {sweep_id: notes}
    show(sweep_id)


def launch_notes(sweep_id: str) -> list[str]:
    """Notes on the trials and data of the sweep that was launched from here last."""
    kept: dict[str, list[str]] = st.session_state.get(NOTES, {})
    return kept.get(sweep_id, [])


def show(sweep_id: str) -> None:
    """Rerun the page for this sweep."""
    query_params.write_all({"sweep": sweep_id})  # and none of the edits
    st.rerun()
