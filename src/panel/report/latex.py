"""The scores of a report as a LaTeX table, for the package booktabs."""

from collections.abc import Sequence
from operator import attrgetter

from src import setting_labels
from src.format import as_sentence, capital, points, setting_value
from src.models.metrics import METRICS, PARTIAL, metric_label, value_text
from src.panel.compare import table
from src.panel.report.content import Content
from src.panel.report.sweep import MAX_SETTINGS
from src.sweeps import ranking

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "–": "--", "—": "---", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≈": r"$\approx$",
    "…": r"\dots{}", "·": r"$\cdot$",
}  # fmt: skip


def escaped(text: str) -> str:
    """The text as LaTeX shows it; characters that cannot be printed become `?`."""
    return "".join(SPECIAL.get(c, c if c.isprintable() else "?") for c in text)


def document(content: Content) -> str:
    """A table of the report's scores."""
    if content.sweep:
        head, rows, caption = _of_sweep(content)
    elif content.is_one_run:
        head, rows, caption = _of_run(content)
    else:
        head, rows, caption = _of_configs(content)
    columns = "l" + "r" * (len(head) - 1)
    lines = [
        "% Written by Spelltune. In the preamble: \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(head),
        r"\midrule",
        *(map(_row, rows)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


Table = tuple[list[str], list[list[str]], str]


def _of_run(content: Content) -> Table:
    """The scores of a run on both splits."""
    (run,), rows = content.runs, []
    values = content.latest[run.id]
    for name, metric in METRICS.items():
        scores = [values.get(f"{split}/{name}") for split in ("val", "test")]
        if name in PARTIAL and scores == [None, None]:
            continue
        rows.append([metric.title, *(value_text(f"val/{name}", s) for s in scores)])
    return ["", "validation", "test"], rows, f"Scores of {run.label}."


def _of_configs(content: Content) -> Table:
    """A row for each config: its settings, seeds and score, and the first test that decides it."""
    found = content.found
    differ = table.settings_that_differ(found)
    labels = {name: setting_labels.inline(name) for name in differ}
    rows = []
    for group in found.groups:
        score = found.scores[group.name]
        mean, sd = score["exact_match"], score["sd"]
        spread = f" ± {points(sd)}" if sd is not None else ""
        told = "–" if mean is None else f"{points(mean)}{spread}"
        own = [setting_value(values[group.runs[0].id], ".3g") for values in differ.values()]
        rows.append([group.name, *own, str(score["seeds"]), told])
    splits = dict.fromkeys(s["split"] for s in found.scores.values() if s["seeds"])
    scored = f" on the {' and '.join(splits)} questions" if splits else ""
    accuracy = capital(METRICS["exact_match"].title)
    caption = f"{accuracy} in percent{scored}, mean ± standard deviation over seeds."
    tested = [v for v in found.configs if v.p_value is not None]
    first = sorted(tested, key=attrgetter("p_value"))[:1]
    caption = " ".join([caption, *(as_sentence(v.claim, (v.a, v.b)) for v in first)])
    return ["config", *labels.values(), "seeds", "accuracy"], rows, caption


def _of_sweep(content: Content) -> Table:
    """A row for each of the best settings."""
    assert content.sweep
    found = content.sweep.found
    rows = [
        [
            str(place),
            *(
                setting_value(row[name], ".3g") if ranking.is_searched(row[name]) else ""
                for name in found.sweep.space
            ),
            str(int(row["seeds"])),
            value_text(found.sweep.metric, row["score"]),
        ]
        for place, (_, row) in enumerate(found.settings.head(MAX_SETTINGS).iterrows(), start=1)
    ]
    names = [setting_labels.inline(name) for name in found.sweep.space]
    metric = metric_label(found.sweep.metric)
    caption = f"The best of {len(found.settings)} settings of the sweep {found.row.name}."
    return ["place", *names, "seeds", metric], rows, caption
