"""Write "Comparisons and mistakes" of docs/results.md: `python -m benchmarks.showcase --home DIR`.

Trains in DIR what is missing there (half an hour on one CPU core): three configs x three seeds of
the small model on both tasks, and one run that never saw an omission in training. Prints the
section; the panel shows the same with SPELLTUNE_HOME=DIR.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src import store
from src.analysis import comparison, misspellings, paired
from src.analysis.kinds import KINDS, kind_of
from src.config import load_config
from src.runs import launcher
from src.store.tables import Run, Status
from src.training.data_loaders import load_splits

LEFT_OUT = "omission"
CONFIGS: dict[str, dict[str, Any]] = {
    "as it ships": {},
    "rank 2": {"lora.r": 2, "lora.alpha": 4},
    "a tenth of the rate": {"training.learning_rate": 2e-4},
}
TASKS: dict[str, dict[str, Any]] = {
    "tiny-spell": {"training.max_steps": 200},
    "tiny-correct": {"training.max_steps": 300},
}
SHORT = {"engine": "packed", "backend": "peft", "tracking.mode": "off", "evaluation.max_rows": 200}
SEEDS = range(3)
PLANTED = "tiny-correct"  # whose training data lack a kind of misspelling once


def name_of(preset: str, config: str) -> str:
    return f"{preset}, {config}"


def wanted(home: Path, evaluations: int) -> list[tuple[str, dict[str, Any]]]:
    """(preset, settings) of every run."""
    found = []
    for preset, task in TASKS.items():
        steps = task["training.max_steps"]
        often = {
            "evaluation.eval_steps": steps // evaluations,
            "checkpointing.save_steps": steps,
        }
        for config, changes in CONFIGS.items():
            for seed in SEEDS:
                extra = {"name": name_of(preset, config), "training.seed": seed}
                found.append((preset, SHORT | task | often | changes | extra))
    assert preset == PLANTED  # the last one
    planted = {"name": f"{preset}, no {LEFT_OUT}", "data.path": str(home / "data" / "left-out")}
    found.append((preset, SHORT | task | often | planted))
    return found


def leave_out(folder: Path) -> tuple[int, int]:
    """The rows of the planted run's preset without those whose misspelling is LEFT_OUT, in training
    alone; how many were left out, of how many."""
    splits = load_splits(**load_config(preset=PLANTED).data.source)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        frame = getattr(splits, split)[["question", "answer"]]
        if split == "train":
            wrong = frame["question"].str.partition(": ")[2]
            kinds = [kind_of(a, w) for a, w in zip(frame["answer"], wrong, strict=True)]
            counts = sum(kind == LEFT_OUT for kind in kinds), len(frame)
            frame = frame[[kind != LEFT_OUT for kind in kinds]]
        frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)
    return counts


def train(home: Path, evaluations: int) -> None:
    with store.reading() as session:
        there = {(r.name, r.config["training"]["seed"]) for r in store.list_runs(session)}
    for preset, changes in wanted(home, evaluations):
        if (changes["name"], changes.get("training.seed", 42)) not in there:
            launcher.launch(load_config(preset=preset, overrides=changes))
    while True:
        with store.reading() as session:
            if all(Status(run.status).ended for run in store.list_runs(session)):
                return
        time.sleep(2)


def kinds_table(session: store.Session, runs: Sequence[Run]) -> str:
    """Markdown: errors of each kind, in percent of the questions, before and after training, as
    means over the seeds."""
    shares: dict[str, list[Counter[str]]] = {"before": [], "after": []}
    for run in runs:
        first = store.list_evaluations(session, run.id, split="validation")
        files = {"before": min(first, key=lambda e: e.step), "after": None}
        files["after"] = store.final_evaluations(session, [run])[run.id, "validation"]
        for when, evaluation in files.items():
            frame = misspellings.read(evaluation.path)
            share = {k: n / len(frame) for k, n in misspellings.counts(frame).items()}
            shares[when].append(Counter(share))
    means = {when: sum(found, Counter()) for when, found in shares.items()}
    lines = ["| kind of error | before | after |", "|---|---|---|"]
    for kind in [*KINDS, "all"]:
        cells = []
        for when in ("before", "after"):
            total = sum(means[when].values()) if kind == "all" else means[when][kind]
            cells.append(f"{total / len(runs):.1%}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(home: Path, left_out: tuple[int, int]) -> None:
    with store.reading() as session:
        every = store.list_runs(session)
        for preset in TASKS:
            names = [name_of(preset, config) for config in CONFIGS]
            runs = [run for run in every if run.name in names]
            found = comparison.compare(session, runs)
            print(
                f"\n**{preset}, {TASKS[preset]['training.max_steps']} steps.** {found.summary}.\n"
            )
            print("| config | seeds | exact match | SD |\n|---|---|---|---|")
            for group in found.groups:
                score = found.scores[group.name]
                print(f"| {group.name} | {score['seeds']} | {score['exact_match']:.1%} | "
                      f"{score['sd'] * 100:.1f} points |")  # fmt: skip
            print("\n| what may be claimed | p, corrected |\n|---|---|")
            for verdict in found.configs:
                print(f"| {verdict.claim} | {verdict.p_holm:.2g} |")
            shipped = [run for run in runs if run.name == names[0]]
            print(f"\nMistakes of {names[0]}, in percent of the validation questions:\n")
            print(kinds_table(session, shipped))
        (planted,) = (run for run in every if run.name.endswith(f"no {LEFT_OUT}"))
        whole = next(run for run in every if run.name == name_of(PLANTED, "as it ships"))
        files = store.final_evaluations(session, [whole, planted])
        frames = [misspellings.read(files[run.id, "test"].path) for run in (whole, planted)]
    both = paired.pair_answers(*frames)
    n = paired.balance(both)
    counts = [misspellings.counts(frame) for frame in frames]
    print(f"\n**A planted regression.** {left_out[0]:,} of {left_out[1]:,} training rows, the "
          f"misspellings of the kind {LEFT_OUT}, were left out. Against {whole.id} on "
          f"{n['questions']:,} test questions: {n['fixed']} fixed, {n['broken']} broken, "
          f"{n['difference'] * 100:+.1f} points.\n")  # fmt: skip
    table = pd.DataFrame(counts, index=["whole data", "left out"]).T.fillna(0).astype(int)
    table["more"] = table["left out"] - table["whole data"]
    print("| kind of error | whole data | left out | more |\n|---|---|---|---|")
    for kind, row in table.sort_values("more", ascending=False).iterrows():
        print(f"| {kind} | {row.iloc[0]} | {row.iloc[1]} | {row['more']:+d} |")
    print(json.dumps({"whole": whole.id, "left out": planted.id}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument(
        "--evaluations", type=int, default=1,
        help="of each run, on 200 words; the best one's adapter is kept",
    )  # fmt: skip
    options = parser.parse_args()
    home = options.home.absolute()
    os.environ["SPELLTUNE_HOME"] = str(home)
    left_out = leave_out(home / "data" / "left-out")
    train(home, options.evaluations)
    report(home, left_out)


if __name__ == "__main__":
    main()
