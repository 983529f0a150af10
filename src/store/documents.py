"""The JSON document of a run, as `spelltune show --json` prints it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from src import paths
from src.config import usable_machine
from src.store.checkpoints import list_checkpoints, list_evaluations
from src.store.metrics import curve, latest_metrics
from src.store.runs import forks, list_events
from src.store.tables import Run


def show(session: Session, run: Run) -> dict[str, Any]:
    """The document that `spelltune show --json` prints."""
    adapter = paths.output_dir(run.id) / "final"
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "phase": run.phase,
        "attempt": run.attempt,
        "host": run.host,
        "step": run.step or 0,
        "max_steps": run.max_steps,
        "tags": run.tags or [],
        "notes": run.notes,
        "config": run.config,
        "used": run.used,
        "metrics": latest_metrics(session, [run.id])[run.id],
        "best": _best(session, run),
        "paths": {
            "output_dir": str(paths.output_dir(run.id)),
            "log": str(paths.log_file(run.id)),
            "metrics_log": str(paths.metrics_log(run.id)),
            "checkpoints_dir": str(paths.checkpoints_dir(run.id)),
            "final_adapter": str(adapter) if (adapter / "adapter_config.json").exists() else None,
        },
        "pids": {"supervisor": run.supervisor_pid, "trainer": run.trainer_pid},
        "checkpoints": [
            {"step": c.step, "path": c.path, "size_bytes": c.size_bytes, "is_best": c.is_best}
            for c in list_checkpoints(session, run.id)
        ],
        "evaluations": [
            {"step": e.step, "split": e.split, "path": e.path, "rows": e.rows, "correct": e.correct}
            for e in list_evaluations(session, run.id)
        ],
        "sweep": None
        if run.sweep_id is None
        else {"id": run.sweep_id, "number": run.number, "seed_index": run.seed_index},
        "parent": None if run.parent_id is None else {"id": run.parent_id, "step": run.parent_step},
        "forks": [child.id for child in forks(session, run.id)],
        "lineage": [
            {"at": e.at, "attempt": e.attempt, "step": e.step, "kind": e.kind, "text": e.text}
            for e in list_events(session, run.id)
        ],
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "seconds": run.seconds,
        "archived_at": run.archived_at,
        **usage_document(run.machine_seconds, run.energy_wh),
    }


def usage_document(machine_seconds: float | None, energy_wh: float | None) -> dict[str, Any]:
    """Time, energy and money that a run or a sweep took; each is null where it is not known."""
    settings = usable_machine()
    cost = settings.cost_of(machine_seconds)
    return {
        "machine_seconds": machine_seconds,
        "energy_wh": energy_wh,
        "cost": None if cost is None else {"amount": cost, "currency": settings.currency},
    }


def _best(session: Session, run: Run) -> dict[str, Any] | None:
    """Step and score of the kept adapter."""
    if run.best_step is None:
        return None
    metric = run.config["early_stopping"]["metric"]
    points = curve(session, run.id, metric, after_step=run.best_step - 1)
    scores = points.loc[points["step"] == run.best_step, "value"].tolist()
    return {"step": run.best_step, "metric": metric, "value": scores[0] if scores else None}


def to_json(document: Any) -> str:
    """Serialize to JSON; nan and infinities become null."""
    return json.dumps(_finite(document), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
