"""Before a launch: what a run takes, which runs share a process, and that neither is a guess."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from src.cli import app
from src.config import ConfigError, RunConfig, load_config
from src.paths import ROOT, home
from src.runs import estimate, launcher, machine, packing
from src.store.tables import Status
from tests.helpers.live import command, ended, row, training, wait

pytestmark = pytest.mark.skipif(bool(machine.gpus()), reason="the bounds here are those of a CPU")


@pytest.fixture
def packed(small: dict[str, Any]) -> dict[str, Any]:
    return small | {"engine": "packed", "lora.dropout": 0.0, "training.max_steps": 40,
                    "evaluation.eval_steps": 20}  # fmt: skip


def config_with(settings: dict[str, Any], **changes: Any) -> RunConfig:
    own = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(overrides=settings | own)


def written(file: Path, config: RunConfig) -> str:
    file.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    return str(file)


def known(config: RunConfig, adapters: int, by: str, step: float) -> None:
    """As if that had been measured on this machine: 10 s to start, 0.1 s a batch to score."""
    file = estimate.measurement_file(config, adapters)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows, gib = {"validation": 4, "test": 4}, 1 + adapters / 10
    found = estimate.Measurement(True, adapters, by, gib, 16.0, rows, 10.0, step, 0.1)
    file.write_text(json.dumps(asdict(found)))


def limited(gib: float, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a process that may have so much memory."""
    bound = ["prlimit", f"--data={int(gib * 2**30)}", sys.executable, "-m", "src.cli"]
    return subprocess.run([*bound, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def long_rows(home: Path) -> Iterator[Path]:
    file = home / "long.jsonl"
    # As long as the shipped base can read, and each with an answer of its own.
    rows = [{"question": f"Spell {i:04} " + "q" * 90, "answer": f"{i:x}"} for i in range(400)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    yield file


@pytest.mark.slow
def test_what_was_measured_is_kept_for_configs_that_take_the_same(
    small: dict[str, Any],
) -> None:
    config = config_with(small, training__max_steps=30, evaluation__eval_steps=10)
    assert estimate.load(config) is None
    found = estimate.measure(config)
    assert found.fits and found.engine == "packed" and 0.1 < found.peak_gib < found.room_gib
    assert found.step_seconds and found.step_seconds > 0
    assert estimate.load(config_with(small, training__learning_rate=1e-5)) == found
    assert estimate.load(config_with(small, training__per_device_train_batch_size=2)) is None
    longer = config_with(small, training__max_steps=60, evaluation__eval_steps=20)
    steps = 30 * found.step_seconds
    assert found.seconds(longer) == pytest.approx(found.seconds(config) + steps)
    assert "s per step" in found.sentence(config)
    # The launch shows it.
    file = written(home() / "known.yaml", config)
    told = command("launch", file, "--json")
    assert found.sentence(config) in " ".join(told.stderr.split())
    assert wait(json.loads(told.stdout)["id"], ended).status == Status.COMPLETED


@pytest.mark.slow
def test_a_launch_that_does_not_fit_is_refused_with_what_fits(
    small: dict[str, Any], long_rows: Path
) -> None:
    own = {"data.path": str(long_rows), "model.name": "spelltune-tiny", "model.max_length": 128,
           "engine": "trl", "training.per_device_train_batch_size": 128}  # fmt: skip
    sets = [f"--set={name}={value}" for name, value in (small | own).items()]
    told = limited(3.0, "preflight", *sets, "--json")
    assert told.returncode == 1, told.stderr
    found = json.loads(told.stdout)
    assert not found["fits"] and found["room_gib"] <= 3.0
    rows = found["largest"]["training.per_device_train_batch_size"]
    times = found["largest"]["training.gradient_accumulation_steps"]
    assert rows < 128 and rows * times == 128
    with pytest.raises(ConfigError, match=f"what fits.*size {rows}"):
        launcher.launch(config_with(small | own))


@pytest.mark.slow
def test_nothing_is_measured_beside_a_run_and_nothing_that_cannot_train(
    small: dict[str, Any],
) -> None:
    run_id = launcher.launch(config_with(small))
    wait(run_id, training)
    with pytest.raises(estimate.CannotMeasure, match="a run is training"):
        estimate.measure(config_with(small))
    # One that was asked to stop is waited for.
    launcher.stop(run_id)
    assert estimate.measure(config_with(small)).fits
    assert row(run_id).status == Status.STOPPED
    with pytest.raises(estimate.CannotMeasure, match="no file /nowhere.csv"):
        estimate.measure(config_with(small, data__path="/nowhere.csv"))


def test_the_same_steps_in_other_micro_batches_are_duplicates(small: dict[str, Any]) -> None:
    small = small | {"lora.dropout": 0.0}
    size, times = "training__per_device_train_batch_size", "training__gradient_accumulation_steps"
    configs = [
        config_with(small, **{size: 4, times: 8}),
        config_with(small, **{size: 32, times: 1}, name="another name"),
        config_with(small, **{size: 32, times: 1}, training__seed=1),
        config_with(small, **{size: 4, times: 8}, lora__dropout=0.1),
        config_with(small, **{size: 32, times: 1}, lora__dropout=0.1),
        config_with(small, **{size: 16, times: 1}),
    ]
    assert packing.duplicates(configs) == {1: 0}


@pytest.mark.parametrize(
    ("few_step", "max_steps", "engine", "size"),
    [
        (0.12, 2000, "packed", 8),  # three more cost as much as one: a GPU
        (0.44, 2000, "packed", 1),  # each more costs more than one alone
        (0.44, 40, "packed", 2),  # and yet what they share, the start, is worth it
        (0.90, 2000, "trl", 1),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_pack_is_planned_only_where_it_pays(
    packed: dict[str, Any], few_step: float, max_steps: int, engine: str, size: int
) -> None:
    changes = {"training.max_steps": max_steps, "training.per_device_train_batch_size": 4}
    configs = [config_with(packed | changes, training__seed=seed) for seed in range(8)]
    one = 0.1 if engine == "packed" else 0.2
    known(configs[0].model_copy(update={"engine": "auto"}), 1, "trl", 0.15)
    known(configs[0], 1, "packed", one)
    known(configs[0], packing.FEW_ADAPTERS, "packed", few_step)
    (pack,) = packing.plan(configs).packs
    assert (pack.size, pack.engine) == (size, "auto" if engine == "trl" else engine), pack
    steps = 8 * max_steps * (0.1 if engine == "packed" else 0.15)
    assert pack.seconds_one_by_one == pytest.approx(8 * 10 + steps, rel=0.2)


@pytest.fixture
def five(packed: dict[str, Any]) -> list[RunConfig]:
    """Three that may share a process, one that takes the steps of the first, and one for TRL."""
    changes: list[dict[str, Any]] = [
        {"lora.r": 2},
        {"lora.r": 8, "training.learning_rate": 1e-3},
        {"lora.r": 8, "training.max_steps": 20},
        {"lora.r": 2, "training.per_device_train_batch_size": 16,
         "training.gradient_accumulation_steps": 2},
        {"lora.r": 4, "engine": "trl"},
    ]  # fmt: skip
    return [load_config(overrides=packed | own | {"name": f"run {n}"})
            for n, own in enumerate(changes)]  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_tells_which_runs_share_a_process(home: Path, five: list[RunConfig]) -> None:
    # Known, not measured: which plan is the best one must not hang on what this machine does.
    heaviest = five[1]
    known(heaviest.model_copy(update={"engine": "auto"}), 1, "trl", 0.2)
    known(heaviest, 1, "packed", 0.1)
    known(heaviest, 3, "packed", 0.12)
    known(heaviest, packing.FEW_ADAPTERS, "packed", 0.13)
    known(five[4], 1, "trl", 0.2)
    files = [written(home / f"{n}.yaml", config) for n, config in enumerate(five)]
    # A dry run changes nothing; a config is left out only where that was asked for.
    plan = json.loads(command("launch", *files, "--dry-run", "--json").stdout)
    assert plan["duplicates"] == {"3": 0} and plan["launched"] == []
    assert sorted(place for pack in plan["packs"] for place in pack["members"]) == [0, 1, 2, 3, 4]
    plan = json.loads(command("launch", *files, "--dry-run", "--once", "--json").stdout)
    assert plan["duplicates"] == {"3": 0} and json.loads(command("runs", "--json").stdout) == []
    by_members = {tuple(pack["members"]): pack for pack in plan["packs"]}
    assert set(by_members) == {(0, 1, 2), (4,)}
    pack, alone = by_members[0, 1, 2], by_members[(4,)]
    assert (pack["engine"], pack["size"]) == ("packed", 3)
    assert pack["seconds"] < pack["seconds_one_by_one"]
    assert (alone["engine"], alone["size"]) == ("trl", 1)
    # What is launched then is what was planned.
    told = command("launch", *files, "--once", "--wait", "--json")
    assert "3.yaml takes the same steps as" in " ".join(told.stderr.split())
    runs = [row(run["id"]) for run in json.loads(told.stdout)]
    assert [run.name for run in runs] == ["run 0", "run 1", "run 2", "run 4"]
    assert {run.status for run in runs} == {Status.COMPLETED}
    assert [run.trainer_pid == runs[0].trainer_pid for run in runs] == [True] * 3 + [False]


def test_a_dry_run_prints_the_command_that_trains_as_planned(
    home: Path, packed: dict[str, Any]
) -> None:
    long = {"training.max_steps": 2000, "training.per_device_train_batch_size": 4}
    configs = [config_with(packed | long, engine="auto", training__seed=n) for n in range(3)]
    known(configs[0], 1, "trl", 0.2)
    for adapters, step in ((1, 0.1), (3, 0.12)):
        engine = {"engine": "packed"}
        known(configs[0].model_copy(update=engine), adapters, "packed", step)
    files = [written(home / f"{n}.yaml", config) for n, config in enumerate(configs)]
    told = CliRunner().invoke(app, ["launch", *files, "--dry-run"])
    planned = f"spelltune launch {' '.join(files)} --set engine=packed --set pack_size=3"
    assert planned in told.stdout.splitlines(), told.output
    # That one is planned as it is.
    asked = ["--set", "engine=packed", "--set", "pack_size=3"]
    told = CliRunner().invoke(app, ["launch", *files, "--dry-run", *asked])
    assert told.exit_code == 0 and "spelltune launch" not in told.stdout


@pytest.mark.timed
def test_packs_and_runs_take_no_longer_than_was_measured(five: list[RunConfig]) -> None:
    for pack in packing.plan(five).packs:
        changes = {"engine": pack.engine, "pack_size": pack.size}
        configs = [five[place].model_copy(update=changes) for place in pack.members]
        runs = [wait(run_id, ended) for run_id in launcher.launch_all(configs)]
        assert {run.status for run in runs} == {Status.COMPLETED}
        took = max(run.ended_at or 0 for run in runs) - min(run.started_at or 0 for run in runs)
        # But for a machine that others use meanwhile.
        assert took < 3 * pack.seconds + 10, (took, pack)
