"""The words that an adapter misspells, by kind, and what another one fixed and broke."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from src import store
from src.analysis import exports, misspellings, paired
from src.format import number, percent
from src.panel.errors import charts, filters, table, word_history
from src.panel.ui import html, navigation
from src.store.tables import Evaluation, Run

ROWS_A_PAGE = 100
Draw = Callable[[], None]
BOUND = {"bind": "query-params"}
NOTHING = "nothing"
MAPS = ["Kinds and places", "Letters and lengths"]


def page() -> None:
    st.html('<h1 class="unseen">Misspelled words</h1>')
    tell_run_from_step()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        run = navigation.pick_run()
        if run is None:
            return
        split = st.segmented_control(
            "Split", ["validation", "test"], default="validation", required=True,
            key="split", label_visibility="collapsed", **BOUND,
        )  # fmt: skip
        with store.reading() as session:
            known = store.list_evaluations(session, run.id, split=split)
        if not known:
            nothing_yet(run, split)
            return
        steps = [str(e.step) for e in known]
        step = st.selectbox("Step", ["best", *steps], width=110, key="step", **BOUND)
        with store.reading() as session:
            name = run.id if step == "best" else f"{run.id}@{step}"
            _, evaluation, _ = store.scored(session, name, split=split)
            other = beside(session, run, evaluation, known, split)
        st.html(navigation.link("monitor", "Curves and log", {"run": run.id}), width="content")
    try:
        frame = misspellings.read(evaluation.path)
        second = misspellings.read(other[1].path) if other else None
    except OSError as error:
        html.draw_empty("The predictions are gone", escape(str(error)))
        return
    word = partial(word_history.draw, run, known, other[0] if other else None)
    if other and second is not None:
        two(run, evaluation, *other, paired.pair_answers(frame, second), word)
    else:
        one(run, evaluation, frame, word)


def tell_run_from_step() -> None:
    """`?run=RUN@STEP`, as a checkpoint is named everywhere, becomes `?run=RUN&step=STEP`."""
    run, at, step = st.query_params.get("run", "").rpartition("@")
    if at and step.isdigit():
        navigation.go("errors", st.query_params.to_dict() | {"run": run, "step": step})


def nothing_yet(run: Run, split: str) -> None:
    text = f"This run is {run.status.lower()} and has not been scored on its {split} words."
    hint = navigation.link("monitor", "Follow it", {"run": run.id})
    html.draw_empty("No scored words", f"{escape(text)}<br>{hint}")


def beside(
    session: store.Session, run: Run, shown: Evaluation, known: Sequence[Evaluation], split: str
) -> tuple[Run, Evaluation] | None:
    """The run or checkpoint that the reader puts beside the first one: `?vs=RUN` or RUN@STEP."""
    asked = st.query_params.get("vs", "")
    others = [i for i in store.run_ids(session, limit=navigation.MAX_CHOICES) if i != run.id]
    names = [f"{run.id}@{e.step}" for e in known if e.step != shown.step] + others
    try:
        found = store.scored(session, asked, split=split) if asked else None
    except store.UnknownRun:
        found = None
    if found:
        # The other steps of a run that was chosen are a choice away.
        names += [f"{found[0].id}@{e.step}" for e in found[2]] + [asked]
    name = st.selectbox("Beside", [NOTHING, *dict.fromkeys(names)], key="vs", **BOUND)
    if name == NOTHING:
        return None
    try:
        other = store.scored(session, name, split=split)
    except store.UnknownRun as error:
        st.html(f'<p class="problem" role="alert">{escape(str(error))}</p>')
        return None
    return other[0], other[1]


# --- one adapter ----------------------------------------------------------------------------------


def one(run: Run, evaluation: Evaluation, frame: pd.DataFrame, word: Draw) -> None:
    changes = misspellings.read_edits(evaluation.path)
    wrong = frame.loc[~frame["correct"], "edit_distance"]
    st.html(
        html.facts(
            [
                ("exact match", percent(evaluation.correct / max(evaluation.rows, 1))),
                ("misspelled words", f"{len(wrong):,} of {evaluation.rows:,}"),
                ("one edit away", counted(int((wrong == 1).sum()))),
                ("edit distance, median", number(wrong.median(), "g")),
                ("scored at step", f"{evaluation.step:,}"),
            ]
        )
    )
    asked, order = draw_filters(frame)
    tests = filters.tests(frame, changes, asked)
    kept = filters.ordered(filters.passing(tests, frame), order)
    draw_maps(frame, changes, tests)
    word()
    if kept.empty:
        nothing_found("No word is wrong." if wrong.empty else "No word fits these filters.")
        return
    links = filters.FilterLinks()
    head = {"Question": "", "Expected": "word", "Predicted": "word", "Kind": "",
            "Edit distance": "num"}  # fmt: skip
    rows = (
        [
            question(links, r.question),
            *table.marked(r.expected, r.predicted),
            r.kind,
            str(r.edit_distance),
        ]
        for r in on_page(kept, f"{run.id}-{evaluation.step}-{evaluation.split}").itertuples()
    )
    st.html(html.table(head, rows, name="words"))


def draw_maps(frame: pd.DataFrame, changes: pd.DataFrame, tests: dict[str, pd.Series]) -> None:
    """One row of charts; each shows the words that pass all filters but its own."""
    links = filters.FilterLinks()

    def without(*names: str) -> pd.DataFrame:
        return filters.passing(tests, frame, but=names)

    def of(kept: pd.DataFrame) -> pd.DataFrame:
        return changes[changes.index.isin(kept.index)]

    shown = st.segmented_control(
        "Charts", MAPS, default=MAPS[0], required=True, key="map", label_visibility="collapsed",
        **BOUND,
    )  # fmt: skip
    every = filters.OF_ERRORS  # a share needs the right words too
    if shown == MAPS[0]:
        cards = [
            charts.kinds(links, misspellings.counts(without("kind"))),
            charts.positions(links, without(*every, "length"), of(without("at", "length"))),
        ]
    else:
        by_letter = misspellings.accuracy_by_letter(without(*every, "letter"))
        by_length = misspellings.accuracy_by(without(*every, "length"), "length")
        shares = [
            charts.accuracy(links, "Accuracy by letter, most frequent first", "letter", by_letter),
            charts.accuracy(links, "Accuracy by length, letters", "length", by_length),
        ]
        if "answer_tokens" in frame:
            by_tokens = misspellings.accuracy_by(without(*every, "tokens"), "answer_tokens")
            shares.append(charts.accuracy(links, "Accuracy by length, tokens", "tokens", by_tokens))
        if frame["task"].nunique() > 1:
            by_task = misspellings.accuracy_by(without(*every, "task"), "task")
            shares.append(charts.accuracy(links, "Accuracy by task", "task", by_task))
        cards = [charts.confusions(links, of(without("letters"))), charts.stack(shares)]
    st.html(charts.grid(cards))


# --- two beside each other ------------------------------------------------------------------------


def two(
    a: Run, first: Evaluation, b: Run, second: Evaluation, both: pd.DataFrame, word: Draw
) -> None:
    if both.empty:
        html.draw_empty("Nothing in common", "These two were scored on different questions.")
        return
    names = {"_a": f"{a.name} @{first.step:,}", "_b": f"{b.name} @{second.step:,}"}
    n = paired.balance(both)
    st.html(
        html.facts(
            [
                ("exact match, before", percent(n["exact_match_a"])),
                ("exact match, after", percent(n["exact_match_b"])),
                ("fixed", counted(n["fixed"])),
                ("broken", counted(n["broken"])),
                ("still wrong", counted(n["still_wrong"])),
                ("of them the same mistake", counted(n["same_mistake"])),
            ]
        )
    )
    left = paired.unpaired(first.rows, second.rows, both)
    out = f" {left:,} questions that only one of them was asked are left out." if left else ""
    more, points = n["fixed"] - n["broken"], n["difference"] * 100
    sums = f"= {more:+,} of {n['questions']:,} questions, {points:+.1f} points".replace("-", "−")
    st.html(
        f'<p class="quiet">From {escape(names["_a"])} to {escape(names["_b"])}: '
        f"{n['fixed']:,} fixed − {n['broken']:,} broken {sums}.{out}</p>"
    )
    sides = {end: side(both, end) for end in names}
    changes = pd.concat([misspellings.edit_table(own) for own in sides.values()])
    asked, order = draw_filters(both)
    tests = filters.tests(both, changes, asked)
    ranks = {outcome: place for place, outcome in enumerate(paired.OUTCOMES)}
    kept = filters.ordered(filters.passing(tests, both), order)
    kept = kept.sort_values("outcome", key=lambda c: c.map(ranks), kind="stable")
    rest = filters.passing(tests, both, but=("kind",))
    counts = [misspellings.counts(own.loc[rest.index]) for own in sides.values()]
    found = filters.passing(tests, both, but=("outcome", "wrong"))
    links = filters.FilterLinks()
    st.html(charts.grid([charts.outcomes(links, found), charts.kinds_beside(links, *counts)]))
    word()
    if kept.empty:
        nothing_found("No word fits these filters.")
        return
    head = {"Question": "", "Expected": "word", f"Before: {names['_a']}": "word",
            f"After: {names['_b']}": "word", "": "fit"}  # fmt: skip
    rows = (
        [question(links, r.question), html.printable(r.expected),
         answered(r.expected, r.predicted_a, r.kind_a),
         answered(r.expected, r.predicted_b, r.kind_b), escape(r.outcome)]
        for r in on_page(kept, f"{a.id}-{first.step}-{b.id}-{second.step}").itertuples()
    )  # fmt: skip
    st.html(html.table(head, rows, name="words"))


def side(both: pd.DataFrame, end: str) -> pd.DataFrame:
    """One of two models as `errors` knows it."""
    own = both[[f"correct{end}", f"kind{end}", f"edits{end}"]]
    return own.rename(columns=lambda name: name.removesuffix(end))


def answered(expected: str, predicted: str, kind: str) -> str:
    return table.marked(expected, predicted)[1] + f"<small>{escape(kind or 'right')}</small>"


# --- filters and rows -----------------------------------------------------------------------------


def draw_filters(frame: pd.DataFrame) -> tuple[dict[str, str], str]:
    """The filters that are on, all of which stand in the address, and the order."""
    asked: dict[str, str] = {}

    def choose(label: str, name: str, options: Iterable[Any], width: int) -> None:
        found = st.selectbox(label, ["any", *map(str, options)], width=width, key=name, **BOUND)
        if found != "any":
            asked[name] = found

    with st.container(horizontal=True, vertical_alignment="bottom"):
        find = st.text_input("Find", placeholder="some letters", width=130, key="find", **BOUND)
        if find.strip():
            asked["find"] = find
        if "outcome" in frame:
            choose("Became", "outcome", paired.OUTCOMES, 150)
        if frame["task"].nunique() > 1:
            choose("Task", "task", sorted(frame["task"].unique()), 120)
        choose("Kind", "kind", misspellings.KINDS, 160)
        choose("Length", "length", sorted(frame["length"].unique()), 85)
        if "answer_tokens" in frame:
            choose("Tokens", "tokens", sorted(frame["answer_tokens"].unique()), 85)
        choose("Edit distance", "distance", list(filters.DISTANCES)[1:], 110)
        order = st.selectbox("Order", list(filters.ORDERS), width=150, key="order", **BOUND)
        every = st.toggle("Right words too", key="every", **BOUND)
        if not every and asked.get("outcome") != paired.OUTCOMES[-1]:
            asked["wrong"] = ""
    for name, form in filters.FROM_CHARTS.items():
        value = st.query_params.get(name, "")
        if form.fullmatch(value):
            asked[name] = value
    chips(asked)
    return asked, order


def chips(asked: dict[str, str]) -> None:
    """What a click on a chart asked for, each with a way back."""
    links = filters.FilterLinks()
    told = {"at": "place {}", "letters": "letters {}", "letter": "with the letter {}"}
    on = {name: value for name, value in asked.items() if name != "wrong"}
    shown = [
        links.link(f"{html.printable(form.format(on[name]))} ×", "Take this filter off",
                  {name: on[name]}, "chip")
        for name, form in told.items() if name in on
    ]  # fmt: skip
    if on:
        shown.append(links.link("Show all", "Take all filters off", dict.fromkeys(on)))
        st.html(f'<p class="chips">{" ".join(shown)}</p>')


def counted(count: int) -> str:
    return f"{count:,} word{'s' * (count != 1)}"


def nothing_found(text: str) -> None:
    html.draw_empty(text, "Turn on “Right words too” to see the others.")


def question(links: filters.FilterLinks, text: str) -> str:
    return links.link(html.printable(text), "How this word went over checkpoints and runs",
                     {"word": text})  # fmt: skip


def on_page(kept: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the page that is shown, after its head: how many there are, and as files."""
    pages = -(-len(kept) // ROWS_A_PAGE)
    number = 1
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{counted(len(kept))}. Underlined letters differ.</p>')
        if pages > 1:
            number = st.number_input(
                f"Page of {pages}", 1, pages, width=150, key="page", bind="query-params"
            )
        for ending, (kind, mime, write) in exports.FORMATS.items():
            # Written when it is asked for, not at each key stroke.
            file = f"{name}.{ending}"
            st.download_button(kind, partial(write, kept), file, mime, on_click="ignore")
    return kept.iloc[(number - 1) * ROWS_A_PAGE : number * ROWS_A_PAGE]


page()
