"""How a run goes on: resume from any checkpoint, fork, heal, and by itself; with real processes."""

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlmodel import col, select, update

from src import paths, store
from src.config import ConfigError, load_config, stored_config, with_overrides
from src.runs import attempts, deletion, launcher, reconciler, remedies, restore, snapshots
from src.runs.attempts import CannotResume
from src.runs.launcher import CheckpointNeeded
from src.store.outcome import EndReason, Outcome
from src.store.tables import Checkpoint, Evaluation, EventKind, Metric, Run, Status
from src.training import checkpointing
from tests.helpers import tiny
from tests.helpers.live import FEW, alive, command, ended, left_over, row, wait, words

STEPS = FEW | {
    "training.max_steps": 12,
    "evaluation.eval_steps": 4,
    "checkpointing.save_steps": 3,
    "checkpointing.keep_last": 9,
    "early_stopping.patience": None,
    "tracking.mode": "off",
}


def settings_of(base: Path, data: Path) -> dict[str, Any]:
    """Settings of a run of 12 steps of the random model."""
    return STEPS | {
        "backend": "peft",
        "model.name": str(base / "gpt2"),
        "model.max_length": 128,
        "data.path": str(data),
        "data.task": "spell_out",
        "evaluation.max_new_tokens": 4,
    }


@pytest.fixture
def own(data: Path, base: Path) -> dict[str, Any]:
    return settings_of(base, data)


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run that completed 12 steps, made once."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        run = launched(settings_of(base, words(home)))
        assert (run.status, run.step) == (Status.COMPLETED, 12), run.reason
    # Who still has the run table open takes files of it away at its end, maybe amid a copy.
    assert not left_over(home, seconds=300)
    return home


@pytest.fixture
def finished(made: Path, home: Path) -> Run:
    """The completed run, in a copy of its home that this test may spoil."""
    shutil.copytree(made, home, dirs_exist_ok=True)
    old, new = str(made), str(home)
    with store.writing() as session:
        run = store.list_runs(session)[0]
        run.config = json.loads(json.dumps(run.config).replace(old, new))
        for table in (Checkpoint, Evaluation):
            for found in session.exec(select(table)).all():
                found.path = found.path.replace(old, new)
    snapshots.write_run(run.id)
    return row(run.id)


@pytest.fixture
def stopped(finished: Run) -> Run:
    """The same, as if it had been stopped at its end with more steps to go."""
    more = stored_config(finished.config).model_dump()
    more["training"]["max_steps"] = 15
    with store.writing() as session:
        values = {"status": Status.STOPPED, "config": more, "max_steps": 15}
        session.execute(update(Run).where(col(Run.id) == finished.id).values(**values))
    return row(finished.id)


def launched(settings: dict[str, Any], **more: Any) -> Run:
    return wait(launcher.launch(load_config(overrides=settings | more)), ended)


def kinds(run_id: str) -> list[str]:
    with store.reading() as session:
        return [event.kind for event in store.list_events(session, run_id)]


def test_a_resume_from_an_earlier_step_sets_the_later_ones_aside(stopped: Run) -> None:
    folder = paths.checkpoints_dir(stopped.id)
    before = checkpointing.steps(folder)
    assert {3, 6, 9, 12} <= set(before)
    assert attempts.resume(stopped, step=3) == 3
    done = wait(stopped.id, ended)
    assert (done.status, done.attempt, done.step) == (Status.COMPLETED, 2, 15), done.reason
    assert checkpointing.steps(folder / "attempt-1") == [s for s in before if s > 3]
    with store.reading() as session:
        loss = store.curve(session, stopped.id, "train/loss")
        recorded = session.exec(
            select(Metric.step, Metric.attempt).where(
                Metric.run_id == stopped.id, Metric.name == "train/loss"
            )
        ).all()
    assert loss["step"].tolist() == list(range(1, 16))
    # Both tries of steps 4 to 12 are kept; the curve shows the second.
    assert {a for s, a in recorded if 3 < s <= 12} == {1, 2}
    assert kinds(stopped.id) == [EventKind.RESUMED]


def test_whoever_dies_in_a_resume_leaves_the_run_as_it_was(
    stopped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it queued before the later checkpoints are out of the way, it would mix two ways."""

    def dies(*_: object, **__: object) -> list[int]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpointing, "set_aside", dies)
        attempts.resume(stopped, step=3)
    left = row(stopped.id)
    assert (left.status, left.attempt, kinds(left.id)) == (Status.STOPPED, 1, [])


def test_while_a_resume_catches_up_the_curve_ends_where_it_began(stopped: Run) -> None:
    with store.writing() as session:
        assert store.requeue(session, stopped, resume_step=3, config=None)
        store.record_event(session, stopped.id, 2, EventKind.RESUMED, "resumed", step=3)
    with store.reading() as session:
        assert store.curve(session, stopped.id, "train/loss")["step"].max() == 3
        assert max(p["step"] for p in store.metric_points(session, stopped.id)) == 3


def test_a_fork_goes_on_with_other_settings_and_needs_its_parent_no_more(finished: Run) -> None:
    parent = finished
    changes = ["--set", "training.learning_rate=0.004", "--set", "training.max_steps=15"]
    child = json.loads(
        command("fork", parent.id, "--from", "6", "--wait", "--json", *changes).stdout
    )
    assert (child["status"], child["step"]) == ("COMPLETED", 15), child["reason"]
    assert child["parent"] == {"id": parent.id, "step": 6}
    assert child["used"]["resume"].startswith("warm from step-6: another config")
    rates = {p["step"]: p["value"] for p in metrics(child["id"], "lr")}
    assert min(rates) == 7  # its own steps only
    # The optimizer's state came along, and its learning rate did not.
    assert rates[7] > metrics(parent.id, "lr")[-1]["value"]
    assert [e["kind"] for e in child["lineage"]] == ["forked"]
    assert json.loads(command("show", parent.id, "--json").stdout)["forks"] == [child["id"]]
    with pytest.raises(CheckpointNeeded, match="fork"):
        launcher.delete_checkpoint(row(parent.id), 6)

    deletion.delete(parent)
    kept = json.loads(command("checkpoints", child["id"], "--json").stdout)
    assert kept[0]["step"] == 6 and all(c["verified"] for c in kept)


def metrics(run_id: str, name: str) -> list[dict[str, Any]]:
    with store.reading() as session:
        return [p for p in store.metric_points(session, run_id) if p["name"] == name]


@pytest.mark.slow
def test_a_fork_without_edits_takes_the_way_of_its_parent(finished: Run) -> None:
    child = wait(attempts.fork(finished, stored_config(finished.config), step=6), ended)
    assert child.status == Status.COMPLETED, child.reason
    after = [p for p in metrics(finished.id, "train/loss") if p["step"] > 6]
    assert metrics(child.id, "train/loss") == after
    assert str(child.used["resume"]).startswith("exact"), child.used["resume"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora.r": 4}, "lora.r: a fork keeps"),
        ({"optimizer.name": "sgd"}, "optimizer.name: a fork keeps"),
        ({"training.max_steps": 6}, "training.max_steps: a fork from step 6"),
    ],
)
def test_what_a_fork_cannot_change(finished: Run, change: dict[str, Any], words: str) -> None:
    config = with_overrides(stored_config(finished.config).model_dump(), change)
    with pytest.raises(ConfigError, match=words):
        attempts.fork(finished, config, step=6)
    with store.reading() as session:
        assert len(store.list_runs(session)) == 1


def test_what_cannot_be_resumed_and_what_to_do_instead(stopped: Run) -> None:
    run, data = stopped, Path(stopped.config["data"]["path"])
    folder = paths.checkpoints_dir(run.id)
    with pytest.raises(CannotResume, match="step-5 has no .*verified are: 3, "):
        attempts.resume(run, step=5)
    (folder / "step-12" / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(CannotResume, match=r"step-12: optimizer\.pt is not as .*are: 3, "):
        attempts.resume(run, step=12)
    text = data.read_text()
    data.write_text(text.replace("w a a t", "w a a d"))
    with pytest.raises(CannotResume, match="data changed since step 9 .*or fork it"):
        attempts.resume(run)  # the newest whole one
    data.unlink()
    with pytest.raises(CannotResume, match="cannot be read any more"):
        attempts.resume(run)
    data.write_text(text)
    answer = command("resume", "nobody", check=False)
    assert answer.returncode == 2 and "no run 'nobody'" in answer.stderr
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run.id).values(status="COMPLETED"))
    with pytest.raises(CannotResume, match="is COMPLETED: fork it with more training.max_steps"):
        attempts.resume(row(run.id))
    with store.writing() as session:
        session.execute(update(Run).where(col(Run.id) == run.id).values(status="RUNNING"))
    with pytest.raises(CannotResume, match="is RUNNING: stop it first"):
        attempts.resume(row(run.id))


def test_an_interrupted_run_resumes_by_itself_as_often_as_allowed(own: dict[str, Any]) -> None:
    settings = own | {
        "supervision.auto_resume": 1,
        "training.max_steps": 4000,
        "evaluation.eval_steps": 4000,
        "checkpointing.save_steps": 20,
    }
    run_id = launcher.launch(load_config(overrides=settings))
    step = 0
    for attempt in (1, 2):
        # The second begins with the step that the first had come to, and without a trainer.
        run = wait(run_id, lambda r, a=attempt, s=step: r.attempt == a and (r.step or 0) >= s + 25)
        step = run.step or 0
        for pid in (run.supervisor_pid, run.trainer_pid):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        # A process that is dying holds its locks until its last thread is gone.
        while not reconciler.reconcile():
            time.sleep(0.1)
    reconciler.reconcile()  # looks again, and decides nothing twice
    run = row(run_id)
    assert (run.status, run.attempt) == (Status.INTERRUPTED, 2)
    assert kinds(run_id) == [EventKind.AUTO_RESUMED, EventKind.LEFT]


def test_no_new_checkpoint_no_resume_by_itself(stopped: Run) -> None:
    run = stopped
    with store.writing() as session:
        config = run.config | {"supervision": {"auto_resume": 2, "self_heal": False}}
        values = {"status": Status.INTERRUPTED, "resume_step": 12, "config": config}
        session.execute(update(Run).where(col(Run.id) == run.id).values(**values))
    reconciler.reconcile()
    assert row(run.id).status == Status.INTERRUPTED and kinds(run.id) == [EventKind.LEFT]


def test_what_is_damaged_does_not_count_among_the_last_two(
    stopped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on by itself, too, leaves a damaged checkpoint behind: else retention would
    keep that one and delete a whole one."""
    folder = paths.checkpoints_dir(stopped.id)
    (folder / "step-12" / "optimizer.pt").write_bytes(b"x")
    with store.writing() as session:
        config = stopped.config | {"supervision": {"auto_resume": 2, "self_heal": False}}
        values = {"status": Status.INTERRUPTED, "config": config}
        session.execute(update(Run).where(col(Run.id) == stopped.id).values(**values))
    monkeypatch.setattr(launcher, "fill_slots", lambda: None)
    reconciler.reconcile()
    run = row(stopped.id)
    assert (run.status, run.attempt, run.resume_step) == (Status.QUEUED, 2, 9)
    assert 12 not in checkpointing.steps(folder)
    assert checkpointing.steps(folder / "attempt-1") == [12]
    assert (run.best_step or 0) <= 9
    with store.reading() as session:
        assert [c.step for c in store.list_checkpoints(session, run.id)] == checkpointing.steps(
            folder
        )


# Whatever the gradients and however this processor rounds, the penalty alone makes the weights grow
# without bound: the learning rate times it is above 2 (1 + momentum), also after two halvings.
DIVERGES = {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.99,
    "optimizer.weight_decay": 2.0,
    "training.learning_rate": 10.0,
    "training.max_grad_norm": 1e12,
    "training.max_steps": 60,
    "evaluation.eval_steps": 60,
}


@pytest.mark.slow
def test_a_diverged_run_heals_with_half_the_learning_rate(own: dict[str, Any]) -> None:
    settings = own | DIVERGES | {
        "supervision.self_heal": True,
        "scheduler.name": "constant_with_warmup",
        "scheduler.warmup_steps": 8,
    }  # fmt: skip
    run = wait(
        launcher.launch(load_config(overrides=settings)),
        lambda r: ended(r) and (r.attempt == 3 or r.status == Status.COMPLETED),
    )
    assert kinds(run.id) == [EventKind.HEALED] * attempts.MAX_HEALS
    document = json.loads(command("show", run.id, "--json").stdout)
    for event, change in zip(document["lineage"], ("10 -> 5", "5 -> 2.5"), strict=True):
        assert f"diverged: training.learning_rate {change}" in event["text"]
    assert document["config"]["training"]["learning_rate"] == 2.5
    assert (run.status, run.attempt, (run.reason or "")[:9]) == (Status.FAILED, 3, "diverged:")


@pytest.mark.slow
def test_a_run_without_the_setting_fails_and_is_left_alone(own: dict[str, Any]) -> None:
    run = launched(own | DIVERGES)
    assert (run.status, run.attempt, kinds(run.id)) == (Status.FAILED, 1, [])
    assert (run.reason or "").startswith("diverged: Diverged: the training loss is")
    (entry,) = yaml.safe_load(paths.summary_file().read_text())["experiments"]
    assert (entry["run"], entry["failed"], entry["reason"]) == (run.id, True, run.reason)


@pytest.mark.slow
def test_out_of_memory_heals_with_a_smaller_micro_batch(own: dict[str, Any]) -> None:
    """The address space of the run's processes is limited: a real allocation fails."""
    settings = own | {
        "engine": "trl",  # the packed engine takes a whole step at once, and heals to this one
        "supervision.self_heal": True,
        "training.per_device_train_batch_size": 4096,
        "data.path": str(many_words(Path(own["data.path"]).parent)),
        "training.max_steps": 2,
        "evaluation.eval_steps": 2,
        "evaluation.max_rows": 8,
    }
    limit = 5 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        run_id = launcher.launch(load_config(overrides=settings))
        run = wait(run_id, lambda r: r.attempt > 1 or ended(r), seconds=300)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert kinds(run_id)[:1] == [EventKind.HEALED], run.reason
    config = stored_config(run.config).training
    assert config.per_device_train_batch_size in (2048, 1024)
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 4096
    command("stop", run_id)
    wait(run_id, ended)


def many_words(home: Path) -> Path:
    file = home / "many.csv"
    rows = ["question,answer"]
    made = [f"{n:05d}" * 6 for n in range(5200)]
    rows += [f"Spell the word: {word},{' '.join(word)}" for word in made]
    file.write_text("\n".join(rows) + "\n")
    return file


def test_a_remedy_knows_what_the_trainer_wrote_after_the_claim(home: Path) -> None:
    with store.writing() as session:
        claimed = store.enqueue(session, load_config(overrides={"supervision.self_heal": True}))
    written = update(Run).values(used={"engine": "packed"}, status="FAILED")
    with store.writing() as session:
        session.execute(written.where(col(Run.id) == claimed.id))
    outcome = Outcome(EndReason.CUDA_OUT_OF_MEMORY)
    with store.writing() as session:
        assert attempts.heal(session, claimed, outcome, None)
    with store.reading() as session:
        run = store.find(session, claimed.id)
    assert run.status == "QUEUED" and run.attempt == 2 and run.config["engine"] == "trl"


def test_settings_of_a_remedy() -> None:
    def changed(
        kind: str, scoring: bool = False, by: str = "trl", **settings: Any
    ) -> dict[str, Any] | None:
        values = {k.replace("__", "."): v for k, v in settings.items()}
        config = load_config(overrides={"supervision.self_heal": True} | values)
        run = Run(id="r", name="r", status="FAILED", config=config.model_dump(), max_steps=1,
                  created_at=0, used={"engine": by})  # fmt: skip
        found = attempts.remedy(run, Outcome(EndReason(kind), scoring=scoring))
        if found and by == "packed":
            return {"engine": found[0].engine, "words": found[1]}
        return found and {
            "rows": found[0].training.per_device_train_batch_size,
            "times": found[0].training.gradient_accumulation_steps,
            "rate": found[0].training.learning_rate,
            "scored": found[0].evaluation.batch_size,
        }

    batch = "training__per_device_train_batch_size"
    like = {"rows": 32, "times": 1, "rate": 2e-3, "scored": 200}
    assert changed("cuda_oom") == like | {"rows": 16, "times": 2}
    assert changed("oom", **{batch: 15}) == like | {"rows": 5, "times": 3}
    assert changed("oom", **{batch: 3}) == like | {"rows": 1, "times": 3}
    assert changed("cuda_oom", **{batch: 1}) is None
    assert changed("cuda_oom", scoring=True) == like | {"scored": 100}
    assert changed("diverged") == like | {"rate": 1e-3}
    # The packed engine takes a whole step's rows at once: smaller micro-batches would not help it.
    other = {"engine": "trl", "words": "engine auto -> trl"}
    assert changed("cuda_oom", by="packed") == other
    assert changed("disk_full") is None
    assert changed("diverged", supervision__self_heal=False) is None


def test_less_memory_is_tried_in_ever_smaller_batches() -> None:
    config = load_config(overrides={"training.per_device_train_batch_size": 15})
    rows, times = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    smaller = [{rows: 5, times: 3}, {rows: 1, times: 15}]
    assert list(remedies.less_memory(config, engine="trl")) == smaller
    # The packed engine takes a whole step's rows at once, so another one comes first.
    other = {"engine": "trl"}
    tried = [other, *(other | changes for changes in smaller)]
    assert list(remedies.less_memory(config, engine="packed")) == tried


def test_a_checkpoint_is_deleted_unless_it_is_needed(finished: Run) -> None:
    run = finished
    folder = paths.checkpoints_dir(run.id)
    there = checkpointing.steps(folder)
    for step, why in ((run.best_step, "best"), (12, "best|last two"), (5, "no checkpoint")):
        with pytest.raises(CheckpointNeeded, match=why):
            launcher.delete_checkpoint(run, step or 0)
    # A damaged one is of no use for a resume, so it is not one of the two.
    *_, before, damaged, last = there
    (folder / f"step-{damaged}" / "optimizer.pt").write_bytes(b"x")
    for step in {before, last} - {run.best_step}:
        with pytest.raises(CheckpointNeeded, match="last two"):
            launcher.delete_checkpoint(run, step)
    unneeded = next(s for s in there if s not in (before, last, run.best_step))
    command("delete", f"{run.id}@{unneeded}", "--yes")
    assert unneeded not in checkpointing.steps(folder)


def test_a_merged_model_answers_like_base_and_adapter(finished: Run) -> None:
    run = finished
    done = json.loads(command("merge", f"{run.id}@6", "--json").stdout)

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(done["path"])
    plain = AutoModelForCausalLM.from_pretrained(run.config["model"]["name"])
    adapted = PeftModel.from_pretrained(plain, str(paths.checkpoints_dir(run.id) / "step-6"))
    ids = torch.tensor([tiny.tokenizer()("Spell the word: apple")["input_ids"]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)


def test_a_damaged_run_table_is_set_aside_and_restored(finished: Run) -> None:
    run = finished
    before = json.loads(command("show", run.id, "--json").stdout)
    points = command("metrics", run.id, "--json").stdout
    file = paths.results() / "spelltune.db"
    content = bytearray(file.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 512] = os.urandom(512)
    file.write_bytes(content)
    after = json.loads(command("show", run.id, "--json").stdout)
    assert after == before
    assert command("metrics", run.id, "--json").stdout == points
    assert list(paths.results().glob("spelltune.db.damaged-*"))
    assert restore.restore_database() is None  # nothing left to do
