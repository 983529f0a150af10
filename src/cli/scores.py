"""Scores of an adapter or a base model on a file of questions or on a suite."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from src.cli.lookup import find_checkpoint
from src.cli.options import AsJson
from src.cli.output import err, note, out, print_json, print_table
from src.cli.results import print_words, records
from src.config import RunConfig, load_config, stored_config, with_absolute_paths
from src.format import counted, number, percent
from src.runs.attempts import adapter_folder

if TYPE_CHECKING:
    import pandas as pd

    from src.models.decoding import Decoding
    from src.training.suites import Suite


Checkpoint = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN[@STEP]", help="A run (its final adapter), or one of its checkpoints."
    ),
]
Data = Annotated[Path | None, typer.Option(help="A file with the columns question and answer.")]
SuiteName = Annotated[
    str | None, typer.Option(metavar="NAME", help="A suite instead (see `spelltune suite list`).")
]
Base = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Score this base model, without an adapter.")
]
Baseline = Annotated[
    bool, typer.Option(help="Ask the adapter's base model too, which takes as long again.")
]
Examples = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="K",
        help="Ask the base model also with K answered questions in its prompt (few-shot).",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Sample the answers at this temperature, such as 0.7; 0, the default, is greedy.",
        show_default=False,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample from the most likely tokens that together have this probability.",
    ),
]
TopK = Annotated[
    int | None, typer.Option(metavar="K", help="Sample from so many of the most likely tokens.")
]
NumSamples = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Sample so many answers to each question; scores are means over them."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed that draws the K examples and samples the answers.")
]
Seen = Annotated[
    bool,
    typer.Option("--seen", help="Ask also rows of a suite whose words the run was trained on."),
]


def evaluate(
    checkpoint: Checkpoint = None,
    *,
    data: Data = None,
    suite: SuiteName = None,
    base: Base = None,
    baseline: Baseline = True,
    examples: Examples = 0,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    num_samples: NumSamples = None,
    seed: Seed = 0,
    seen: Seen = False,
    as_json: AsJson = False,
) -> None:
    """Score an adapter or a base model on a file of questions and answers, or on a suite.

    Rows of a file whose answers the run was trained on are counted and scored apart; those of a
    suite are left out. Beside the adapter stand its base model, with --examples also after K
    answered questions, and, on corrections, the dictionary word with the fewest edits.

    Answers are greedy, as in training. With --temperature, --top-p, --top-k or --num-samples they
    are sampled, at a temperature of 1 unless another one is given.
    """
    if (checkpoint is None) == (base is None):
        raise typer.BadParameter("name either a run or, with --base, a base model")
    if (data is None) == (suite is None):
        raise typer.BadParameter("name either a file with --data or a suite with --suite")
    if checkpoint and examples and not baseline:
        raise typer.BadParameter("--examples are for the base model: leave out --no-baseline")
    from src.models.decoding import Decoding
    from src.training.suites import Suite, few_shot

    decoding = Decoding.of(temperature, top_p, top_k, num_samples, seed=seed)
    config, about = model_of(checkpoint, base)
    asked: Path | Suite | None = data
    shots: list[tuple[str, str]] = []
    if suite is not None or examples:
        asked = suite_of(suite, data, config if checkpoint else None, seen=seen)
        shots, asked = few_shot(asked, examples, seed=seed) if examples else ([], asked)
    assert asked is not None
    values, frame = scored(
        config, about["adapter"], asked, baseline=baseline, examples=shots, decoding=decoding
    )
    about |= {
        "data": str(data) if data else None,
        "suite": suite,
        "left_out": asked.seen if isinstance(asked, Suite) else 0,
        "examples": examples,
    }
    trained = config if checkpoint and data else None
    print_evaluation(about, decoding, trained, values, frame, as_json=as_json)


def model_of(checkpoint: str | None, base: str | None) -> tuple[RunConfig, dict[str, Any]]:
    """The config to score under, and the ids of what is scored: an adapter or a base model."""
    if checkpoint is None:
        config = base_alone(str(base))
        return config, {"id": None, "adapter": None, "model": config.model.name}
    row, step = find_checkpoint(checkpoint)
    config, adapter = stored_config(row.config), adapter_folder(row, step)
    return config, {"id": row.id, "adapter": str(adapter), "model": config.model.name}


def scored(
    config: RunConfig,
    adapter: str | None,
    asked: "Path | Suite",
    *,
    baseline: bool,
    examples: list[tuple[str, str]],
    decoding: "Decoding",
) -> tuple[dict[str, float], "pd.DataFrame"]:
    """`training.evaluate.evaluate`, with its progress on the terminal."""
    from src.training.evaluate import evaluate as score

    with err.status("loading the model") as status:
        return score(
            config,
            Path(adapter) if adapter else None,
            asked,
            progress=lambda done: status.update(f"{done:,} words scored"),
            with_base=baseline,
            examples=examples,
            decoding=decoding,
        )


def print_evaluation(
    about: dict[str, Any],
    decoding: "Decoding",
    trained: RunConfig | None,
    values: dict[str, float],
    frame: "pd.DataFrame",
    *,
    as_json: bool,
) -> None:
    """Print the metrics and predictions of an evaluation; `trained` is the config of its run."""
    from src.analysis import evaluation, misspellings
    from src.training.suite_scores import BITS

    seen, why = evaluation.unseen_or_note(trained, frame) if trained else (None, None)
    scores = evaluation.scores(frame, seen)
    frame = misspellings.with_kinds(frame)
    wrong, kinds = frame[~frame["correct"]], misspellings.counts(frame)
    if as_json:
        rows = len(frame) // decoding.num_samples
        scored = {"decoding": decoding.document(), "rows": rows, "answers": len(frame)}
        scored |= {"metrics": values, "scores": scores, "kinds": kinds}
        notes = [why] if why else []
        return print_json(about | scored | {"notes": notes, "errors": records(wrong)})
    out.print(f"decoding: {decoding}", highlight=False)
    for name, value in values.items():
        out.print(f"{name} {number(value)}", highlight=False)
    print_words(wrong)
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    out.print(f"{len(wrong):,} of {len(frame):,} wrong{': ' if told else ''}{told}")
    if BITS not in values:
        print_scores(scores)
    if left_out := about["left_out"]:
        note(f"left out: {counted(left_out, 'row')} whose words the run was trained on (--seen)")
    if why:
        note(why)
    return None


def suite_of(
    name: str | None, data: Path | None, trained: RunConfig | None, *, seen: bool
) -> "Suite":
    """The suite to score: of a run without the rows whose words it was trained on, unless `seen`.
    A file is one too, with all its rows."""
    from src.training.data_loaders import load_rows, splits_of
    from src.training.suites import Suite, load

    if name is None:
        return Suite(str(data), load_rows(data or Path()))
    settings = trained or load_config()
    suite = load(name)
    if trained is not None:
        suite = suite.marked(splits_of(trained).train["word"], keep=seen)
    return suite.limited(settings.evaluation.suite_rows)


def base_alone(name: str) -> RunConfig:
    """The config under which a base model is scored: the default prompt, rows of any length."""
    own = {"model.name": name, "model.load_in_4bit": False, "model.max_length": 131_072}
    return with_absolute_paths(load_config(overrides=own))


def print_scores(scores: dict[str, dict[str, Any]]) -> None:
    """Print the shares of right answers of `evaluation.scores`, with their 95% intervals."""
    names = {"all": "all rows", "seen": "answers seen in training", "unseen": "other answers"}
    who = {
        "model": "model",
        "base": "base model",
        "few_shot": "base model after examples",
        "dictionary": "dictionary word",
    }
    rows = [
        (
            who[name],
            names[group],
            f"{share['rows']:,}",
            percent(share["exact_match"] if share["rows"] else None),
            f"{share['ci_low']:.1%} to {share['ci_high']:.1%}" if share["rows"] else "",
        )
        for name, of in scores.items()
        for group, share in of.items()
    ]
    print_table(["by", "of", "rows", "right", "95% interval"], rows)
