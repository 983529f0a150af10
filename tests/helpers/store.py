"""Fills a store with runs as the trainer would leave them, for the panel's tests and pictures."""

import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import TrialState
from rapidfuzz.distance import OSA
from sqlalchemy import update
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.runtime.scriptrunner import RerunData, get_script_run_ctx

from src import paths, store
from src.config import load_config
from src.runs import machine
from src.runs.locks import FileLock
from src.runs.machine import boot_id
from src.store.outcome import end_reason_of_sentence
from src.store.tables import MachineSample, Run, Status, Sweep, SweepStatus
from src.sweeps import search
from src.sweeps.file import base_config, load_sweep, trial_config
from src.training import checkpointing

MISSPELLED = [
    ("recieve", "receive", "recieve"),
    ("definately", "definitely", "definatly"),
    ("accomodate", "accommodate", "accomadate"),
    ("seperate", "separate", "seperate"),
    ("occured", "occurred", "occured"),
    ("neccessary", "necessary", "neccesary"),
    ("rythm", "rhythm", "rythem"),
    ("wierd", "weird", "wired"),
    ("embarass", "embarrass", "embaress"),
    ("millenium", "millennium", "milennium"),
    ("perseverence", "perseverance", "perseverence"),
    ("concious", "conscious", "consious"),
]
HOSTILE = "<img src=x onerror=alert(1)>"


def fill_run(
    preset: str = "tiny-spell",
    *,
    status: Status = Status.COMPLETED,
    steps: int | None = None,
    every: int = 10,
    created_at: float | None = None,
    words: list[tuple[str, str, str]] | None = None,
    rows: int = 400,
    reason: str | None = None,
    seconds_per_step: float = 0.15,
    curves: bool = True,
    **overrides: Any,
) -> str:
    """One run with its curves, checkpoints, predictions and log; returns its id."""
    config = load_config(
        preset=preset, overrides={k.replace("__", "."): v for k, v in overrides.items()}
    )
    created_at = time.time() - 900 if created_at is None else created_at
    last = config.training.max_steps if steps is None else steps
    ended = status.ended
    with store.writing() as session:
        run_id = store.enqueue(session, config, now=created_at).id
        if status is Status.QUEUED or status is Status.CANCELLED:
            _update(session, run_id, status=status, reason=reason)
            return run_id
        _update(
            session,
            run_id,
            status=status,
            reason=reason,
            token="t",
            slot=0,
            step=last or None,
            best_step=last if last and curves else None,
            phase=None if ended else "training" if last else "loading spelltune-tiny",
            started_at=created_at + 1,
            ended_at=created_at + 7 + last * seconds_per_step if ended else None,
            heartbeat_at=time.time(),
            boot_id=boot_id(),
            used={"backend": "peft", "backend_reason": "no NVIDIA GPU here"},
        )
        if curves and last:
            store.record_metrics(session, run_id, 1, _points(config, last, every, created_at))
            store.record_checkpoint(
                session, run_id, 1, last, _checkpoint(run_id, last), is_best=True
            )
    log = paths.log_file(run_id)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(
        "".join(f"step {s} of {config.training.max_steps}\n" for s in range(0, last, 50))
    )
    if curves and last and ended:
        fill_predictions(run_id, last, words or MISSPELLED, rows=rows)
    return run_id


def fill_usage(run_id: str, *, gpu: bool = True, slot: int = 0) -> None:
    """Samples of the meters while a run trained, with its share of time and energy: 400 W."""
    with store.writing() as session:
        run = store.find(session, run_id)
        assert run.started_at is not None
        seconds = (run.ended_at or time.time()) - run.started_at
        samples = []
        for number in range(60):
            wave = math.sin(number / 4)
            card = {
                "gpu_utilization": 0.85 + 0.1 * wave, "gpu_power_watts": 400 + 50 * wave,
                "gpu_temperature_celsius": 60 + 3 * wave, "gpu_memory_gib": 30.0,
            }  # fmt: skip
            samples.append(
                MachineSample(
                    host=machine.host(), slot=slot, at=run.started_at + seconds * number / 59,
                    cpu_utilization=0.3 - 0.1 * wave, memory_gib=9 + number / 60,
                    disk_free_gib=70 - number / 30, **(card if gpu else {}),
                )
            )  # fmt: skip
        store.record_samples(session, samples)
        energy = 400 * seconds / 3600 if gpu else None
        _update(
            session,
            run_id,
            host=machine.host(),
            slot=slot,
            machine_seconds=seconds,
            energy_wh=energy,
        )


def fill_sweep(
    file: Path, *, trials: int = 24, status: SweepStatus = SweepStatus.COMPLETED,
    states: Mapping[int, tuple[Status, str | None]] | None = None,
) -> str:  # fmt: skip
    """A sweep of which so many trials have ended, each with a score; `states` gives others by
    number: (status, reason). Returns its id."""
    sweep = load_sweep(file)
    base = base_config(sweep)
    now = time.time() - 3600
    noise = random.Random(1)
    tried: list[search.PastTrial] = []
    with store.writing() as session:
        row = Sweep(
            id=store.new_id(session, Sweep, sweep.name, now), name=sweep.name,
            file=file.read_text(), path=str(file), folder="/", status=status, seed=sweep.seed,
            most_trials=sweep.limits.trials, created_at=now, spent_seconds=trials * 40.0,
        )  # fmt: skip
        session.add(row)
        for number in range(trials):
            place, index = divmod(number, sweep.seeds)
            if index == 0:
                values = search.suggest(sweep, sweep.seed, place, tried)
                assert values is not None
                tried.append(search.PastTrial(place, values, TrialState.RUNNING))
            config = trial_config(sweep, base, values, number)
            run = store.enqueue(
                session, config, now=now + number, sweep_id=row.id, number=number,
                seed_index=index, searched=values,
            )  # fmt: skip
            ended, reason = (states or {}).get(number, (Status.COMPLETED, None))
            pruned = reason if (reason or "").startswith("pruned") else None
            at = now + 40 * (number + 1)
            _update(
                session, run.id, status=ended, reason=reason, stop_reason=pruned,
                step=config.training.max_steps, best_step=config.training.max_steps,
                started_at=at - 38, ended_at=at if ended.ended else None, boot_id=boot_id(),
                token=f"process {number // 8}",
            )  # fmt: skip
            rate = values.get("training.learning_rate", 1e-3)
            score = 0.9 - 0.15 * abs(math.log10(rate / 2e-3)) + noise.gauss(0, 0.02)
            score += 0.01 * math.log2(values.get("lora.r", 8))
            points = [(config.training.max_steps, sweep.metric, max(score, 0.0), at)]
            if ended in (Status.COMPLETED, Status.RUNNING):
                store.record_metrics(session, run.id, 1, points)
    return row.id


def press_again() -> None:
    """Inside a page's script: as if its reader pressed the same button a second time just now."""
    asked = get_script_run_ctx()
    assert asked and asked.script_requests
    states = WidgetStates(widgets=asked.session_state.get_widget_states())
    asked.script_requests.request_rerun(
        RerunData(asked.query_string, states, asked.page_script_hash)
    )


def hold(run_id: str) -> FileLock:
    """Let this process pass for the run's supervisor, so that no reconciler ends the run."""
    lock = FileLock(paths.supervisor_lock(run_id))
    assert lock.acquire()
    return lock


def training_run(**settings: Any) -> tuple[str, FileLock]:
    """A run that trains as far as anybody can tell, and the lock that makes it so."""
    run_id = fill_run(status=Status.RUNNING, steps=40, **settings)
    lock = hold(run_id)
    with store.writing() as session:  # a panel's reconciler may have been faster
        _update(session, run_id, status=Status.RUNNING, reason=None, ended_at=None)
    return run_id, lock


def end(run_id: str, status: Status, reason: str | None = None) -> None:
    with store.writing() as session:
        _update(session, run_id, status=status, reason=reason, ended_at=time.time())


def fill_predictions(
    run_id: str,
    step: int,
    words: list[tuple[str, str, str]],
    *,
    rows: int = 400,
    split: str = "validation",
    task: str | None = None,
) -> None:
    """`rows` scored questions, of which `words` (question, expected, predicted) are wrong."""
    right = [(f"wrod{i}", f"word{i}", f"word{i}") for i in range(rows - len(words))]
    frame = pd.DataFrame(words + right, columns=["question", "expected", "predicted"])
    frame.insert(0, "word", frame["expected"])
    frame["correct"] = frame["expected"] == frame["predicted"]
    frame["edit_distance"] = [
        OSA.distance(a, b) for a, b in zip(frame["expected"], frame["predicted"], strict=True)
    ]
    if task is not None:
        frame["task"] = task
    path = paths.predictions_file(run_id, step, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)
    with store.writing() as session:
        correct = int(frame["correct"].sum())
        store.record_evaluation(
            session, run_id, 1, step, split, path, rows=len(frame), correct=correct
        )


def add_points(run_id: str, first: int, last: int, *, every: int = 1) -> None:
    """What a living run reports for the steps from `first` to `last`."""
    with store.writing() as session:
        run = store.find(session, run_id)
        points = [p for p in _points(_Config(run), last, every, time.time()) if p[0] >= first]
        store.record_metrics(session, run_id, run.attempt, points)
        _update(session, run_id, step=last, heartbeat_at=time.time())


class _Config:
    def __init__(self, run: Run):
        self.training = type("training", (), run.config["training"])
        self.evaluation = type("evaluation", (), run.config["evaluation"])
        self.scheduler = type("scheduler", (), run.config["scheduler"])


def _update(session: store.Session, run_id: str, **columns: Any) -> None:
    if "status" in columns:
        pruned = columns.get("stop_reason") is not None
        columns["end_reason"] = end_reason_of_sentence(
            columns["status"], columns["reason"], pruned=pruned
        )
    session.execute(update(Run).where(Run.id == run_id).values(**columns))


def _points(
    config: Any, last: int, every: int, created_at: float
) -> list[tuple[int, str, float, float]]:
    noise = random.Random(config.training.seed)
    total, warmup = config.training.max_steps, config.scheduler.warmup_steps
    points: list[tuple[int, str, float, float]] = []
    for step in range(0, last + 1, every):
        at, share = created_at + 7 + step * 0.15, step / total
        rate = config.training.learning_rate * (
            step / warmup if step < warmup else (1 + math.cos(math.pi * share)) / 2
        )
        loss = 0.05 + 3.2 * math.exp(-6 * share)
        if step:
            points += [
                (step, "train/loss", loss * noise.uniform(0.85, 1.15), at),
                (step, "lr", rate, at),
                (step, "grad_norm", 0.4 + loss * noise.uniform(0.3, 0.6), at),
                (step, "tokens_per_second", noise.gauss(9800, 250), at),
                (step, "cpu/memory_gib", 1.21 + 0.02 * share, at),
            ]
        if step % config.evaluation.eval_steps == 0 or step == last:
            exact = 0.96 * (1 - math.exp(-5 * share))
            points += [
                (step, "val/loss", loss * 1.06, at),
                (step, "val/token_accuracy", 0.35 + 0.62 * (1 - math.exp(-6 * share)), at),
                (step, "val/exact_match", exact, at),
            ]
    return points


def checkpoint(run_id: str, step: int, *, best: bool = False) -> None:
    """A checkpoint that verifies, though nothing could be trained from it."""
    with store.writing() as session:
        store.record_checkpoint(session, run_id, 1, step, _checkpoint(run_id, step), is_best=best)


def _checkpoint(run_id: str, step: int) -> Any:
    target = checkpointing.step_dir(paths.checkpoints_dir(run_id), step)
    staging = checkpointing.stage(target.parent)
    for name in checkpointing.REQUIRED:
        (staging / name).write_bytes(b"\0" * 4096)
    about = {"step": step, "data": None, "best": {"step": None, "value": None}}
    return checkpointing.commit(staging, target, about)


def two_runs() -> tuple[str, str]:
    """Twelve words wrong, then: two of them right, one wrong in another way, a new one wrong."""
    after = [("recieve", "receive", "receve"), *MISSPELLED[3:], ("wrod20", "word20", "wrd20")]
    right = [(question, expected, expected) for question, expected, _ in MISSPELLED[1:3]]
    before = [*MISSPELLED, ("wrod20", "word20", "word20")]
    return fill_run(name="before", words=before), fill_run(name="after", words=after + right)
