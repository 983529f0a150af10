"""Check a capsule on this machine: `python replay.py [--adapter-only] [--model PATH]`.

A copy of it is in every capsule. Needs an installed Spelltune. Exit code 0 if every score is within
the tolerance of capsule.json, 1 if one is not, 2 if it could not be tried.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a capsule of Spelltune on this machine.")
    parser.add_argument("--adapter-only", action="store_true", help="do not train again")
    parser.add_argument(
        "--model", help="folder or GGUF file of the base model, where its name is not known here"
    )
    asked = parser.parse_args()
    capsule = json.loads((HERE / "capsule.json").read_text())
    for name, known in capsule["files"].items():
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != known:
            print(f"{name} is not as it was packed", file=sys.stderr)
            return 2
    model = asked.model or capsule["base_model"]["name"]
    changes = {"data.path": str(HERE / "data"), "model.name": model}
    good = agrees("adapter", scored(changes, capsule), capsule)
    if capsule["parent"]:
        print("not trained again: it began from a checkpoint of another run")
    elif not asked.adapter_only:
        again = trained(changes)
        if again["used"]["data_fingerprint"] != capsule["data_fingerprint"]:
            print("it was trained on other data", file=sys.stderr)
            return 2
        good = agrees("training", again["metrics"], capsule) and good
    return 0 if good else 1


def scored(changes: dict[str, str], capsule: dict[str, Any]) -> dict[str, float]:
    """The scores of the capsule's adapter on its test questions."""
    from src.analysis.capsule import weights
    from src.config import load_config
    from src.training.evaluate import evaluate

    config = load_config(HERE / "config.yaml", overrides=changes)
    known = capsule["base_model"]["weights_sha256"]
    if known and weights(config) != known:
        print(f"{config.model.name} is not the base model of the capsule", file=sys.stderr)
        sys.exit(2)
    test = HERE / "data" / "test.jsonl"
    values, _ = evaluate(config, HERE / "adapter", test, progress=lambda done: None)
    return {f"test/{name}": value for name, value in values.items()}


def trained(changes: dict[str, str]) -> dict[str, Any]:
    """The `spelltune show --json` document of a new training with the same settings."""
    sets = [f"--set={name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "src.cli", "launch", str(HERE / "config.yaml"), *sets]
    done = subprocess.run([*command, "--wait", "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(2)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def agrees(what: str, values: dict[str, float], capsule: dict[str, Any]) -> bool:
    """True if every score is within its tolerance of the capsule's; prints each."""
    good = True
    for name, most in capsule["tolerance"][what].items():
        then, now = capsule["scores"][name], values[name]
        within = abs(now - then) <= most
        good = good and within
        said = "agrees" if within else "DIFFERS"
        print(f"{what} {name}: {then:.6f} then, {now:.6f} now, {said} within {most:g}")
    return good


if __name__ == "__main__":
    sys.exit(main())
