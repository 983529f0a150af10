"""Packs a completed run as one zip that another machine can check: data, config, adapter, scores,
and a script that scores the adapter and trains it again."""

import hashlib
import platform
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import yaml

from src import store
from src.analysis import comparison, model_card, model_files
from src.analysis.misspellings import read as read_predictions
from src.config import RunConfig, stored_config
from src.errors import UserError
from src.files import sha256
from src.models.gguf.files import content_of
from src.runs import attempts
from src.store.tables import Run, Status
from src.training.data_loaders import Splits, splits_of
from src.training.packed.eligibility import files_of

FORMAT = 1
MAX_COMPARED = 20  # runs on the same data, newest first, that the verdicts include
REPLAY = Path(__file__).with_name("capsule_replay.py")
LICENCE = "The data come from the dictionary of codespell, CC BY-SA 3.0."  # of built-in tasks
# Largest allowed difference of a score. The same adapter scores the same but for rounding, worth a
# word or two; training on another device is another draw, much like another seed.
TOLERANCE = {
    "adapter": {"test/exact_match": 0.005, "test/loss": 0.01},
    "training": {"test/exact_match": 0.03, "test/loss": 0.1},
}
README = """# {run}

A capsule of Spelltune: one fine-tuning, with all that is needed to check it.

Unpack it, and in the environment of any Spelltune:

    python replay.py                  # scores the adapter, then trains it again and compares
    python replay.py --adapter-only   # only the first

capsule.json holds seed, versions, scores, tolerances and the hash of every file. {data}
"""


class CannotPack(UserError, ValueError):
    """A run that cannot become a capsule; the text says why and what to do."""


def write(run: Run, target: Path) -> Path:
    """Write the capsule of a completed run to the zip file `target`, and return `target`."""
    if run.status != Status.COMPLETED:
        raise CannotPack(
            f"{run.id} is {run.status}: only a completed run has scores to compare a replay with"
        )
    config = stored_config(run.config)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        about = _fill(root, run, config)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        about["files"] = {str(f.relative_to(root)): sha256(f) for f in files}
        _write_json(root / "capsule.json", about)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.writing")
        with zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in [*files, root / "capsule.json"]:
                packed.write(file, f"{run.id}/{file.relative_to(root)}")
        staged.replace(target)
    return target


def _fill(root: Path, run: Run, config: RunConfig) -> dict[str, Any]:
    """Write the capsule's files into a folder; returns the content of capsule.json."""
    data = config.data
    splits = splits_of(config)
    if splits.fingerprint != run.used.get("data_fingerprint"):
        raise CannotPack(f"{run.id}: its data are not those that it was trained on any more")
    write_rows(splits, root / "data")
    model_files.copy_adapter(attempts.final_adapter(run), root / "adapter", config)
    values = config.model_dump()
    values["model"]["name"] = model_card.public_name(config)
    # The replay puts the folder's own data/ there.
    values["data"] |= {"path": "data", "hub_id": None, "revision": None, "mix": None}
    values["tracking"] |= {"mode": "off"}
    values["evaluation"] |= {"suites": []}  # they are no part of what a replay repeats
    (root / "config.yaml").write_text(
        yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    with store.reading() as session:
        shown = store.show(session, run)
        scored = store.final_evaluations(session, [run])
        same = [r for r in store.list_runs(session, statuses=[Status.COMPLETED])
                if r.used.get("data_fingerprint") == splits.fingerprint]  # fmt: skip
        others = [r for r in same if r.id != run.id][: MAX_COMPARED - 1]
        found = comparison.compare(session, [run, *others], most_adapters=0)
    (root / "predictions").mkdir()
    for split in [split for split in comparison.SPLITS if (run.id, split) in scored]:
        frame = read_predictions(scored[run.id, split].path)
        frame.to_parquet(root / "predictions" / f"{split}.parquet", index=False)
    mine = next(group.name for group in found.groups if run.id in {r.id for r in group.runs})
    spoken = comparison.document(found)["verdicts"]
    _write_json(root / "verdicts.json", [v for v in spoken if mine in (v["a"], v["b"])])
    (root / "replay.py").write_text(REPLAY.read_text(encoding="utf-8"), encoding="utf-8")
    licence = LICENCE if data.built_in else ""
    (root / "README.md").write_text(README.format(run=run.id, data=licence))
    return {
        "format": FORMAT,
        "run": run.id,
        "made_at": time.time(),
        "base_model": {
            "name": model_card.public_name(config),
            "revision": config.model.revision,
            "weights_sha256": weights(config),
        },
        "seed": config.training.seed,
        "step": run.step,
        "best_step": run.best_step,
        "parent": shown["parent"],
        "lineage": shown["lineage"],
        "device": run.used.get("device"),
        "versions": run.used.get("versions"),
        "python": platform.python_version(),
        "data_fingerprint": splits.fingerprint,
        "rows": splits.rows,
        "scores": {k: v for k, v in shown["metrics"].items() if k.startswith(("val/", "test/"))},
        "tolerance": TOLERANCE,
    }


def write_rows(splits: Splits, folder: Path) -> None:
    """Write the rows as a data set of the user's own: with the task of each, where it is known,
    whose checker judges the answers."""
    folder.mkdir()
    for split in splits.rows:
        columns = [name for name in ("question", "answer", "task") if name in splits[split]]
        splits[split][columns].to_json(
            folder / f"{split}.jsonl", orient="records", lines=True, force_ascii=False
        )


def weights(config: RunConfig) -> str | None:
    """SHA-256 of the weights of a base model in a local folder, or of a GGUF file; None for a hub
    id."""
    base = files_of(config)
    if base.gguf:
        return content_of(base.gguf)
    digest = hashlib.sha256()
    files = sorted(base.folder.glob("*.safetensors")) if base.folder else []
    for file in files:
        digest.update(sha256(file).encode())
    return digest.hexdigest() if files else None


def _write_json(file: Path, document: Any) -> None:
    file.write_text(store.to_json(document) + "\n", encoding="utf-8")
