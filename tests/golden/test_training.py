"""Runs of the old store that go on: they end in the same bits and leave the same files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests.golden.commands import RECORD, TRAINED, cpu, differences, document, same_keys, unpacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The same for the calls that train: the stopped runs of the old store went on to their end."""
    with unpacked(tmp_path_factory.mktemp("trained")) as home:
        yield home, {call: document(call, home) for call in TRAINED}


@pytest.mark.parametrize("call", TRAINED)
def test_a_command_that_trains_answers_with_the_same_keys_and_exit_code(trained, call):
    same_keys(call, trained[1][call])


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_stopped_run_of_the_old_store_ends_as_the_undisturbed_one(trained, engine):
    home, _ = trained
    resumed, whole = (
        load_file(
            folder(home, f"{name}-{engine}", "results/runs") / "final/adapter_model.safetensors"
        )
        for name in ("stopped", "whole")
    )
    assert resumed.keys() == whole.keys()
    # The packed engine of the old store padded its rows: the sums have another order since.
    same_bits = cpu() == RECORD["cpu"] and engine == "trl"
    for name in whole:
        if same_bits:
            assert np.array_equal(resumed[name], whole[name])
        else:
            apart = np.linalg.norm(resumed[name] - whole[name])
            assert apart <= 1e-5 * np.linalg.norm(whole[name])


def folder(home: Path, name: str, under: str) -> Path:
    return next((home / under).glob(f"{name}_*"))


FILES = (
    "results/runs/{}/**/*",
    "checkpoints/{}/**/*",
    "results/error_analysis/{}/*",
    "results/training_logs/{}.*",
    "results/metrics/{}.json",
)


def files_of(home: Path, name: str) -> set[str]:
    """Every file of a run, without its id and with steps that depend on when it was stopped as
    20."""
    run_id = folder(home, name, "results/runs").name
    found = (str(f.relative_to(home)) for glob in FILES for f in home.glob(glob.format(run_id)))
    return {re.sub(r"step-(16|21)\b", "step-20", one.replace(run_id, "RUN")) for one in found}


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_run_leaves_the_same_files(trained, old, engine):
    files = files_of(old, f"whole-{engine}") - {"checkpoints/RUN/step-20.fork"}
    new = {"results/runs/RUN/final/MANIFEST.json"}  # the kept adapter is verified too
    assert files_of(trained[0], f"stopped-{engine}") == files | new


@pytest.mark.parametrize("engine", ["trl", "packed"])
@pytest.mark.parametrize(
    "file",
    [
        "results/runs/{}/result.json",
        "results/runs/{}/run.json",
        "results/runs/{}/eval_results.yaml",
        "results/metrics/{}.json",
        "results/training_logs/{}.jsonl",
        "checkpoints/{}/step-40/MANIFEST.json",
        "checkpoints/{}/step-40/trainer_state.json",
        "checkpoints/{}/step-40/adapter_config.json",
    ],
)
def test_a_file_of_a_run_has_the_same_keys(trained, old, engine, file):
    def read(home: Path, name: str) -> Any:
        run_id = folder(home, f"{name}-{engine}", "results/runs").name
        text = (home / file.format(run_id)).read_text()
        if file.endswith(".jsonl"):
            return json.loads(text.splitlines()[0])
        document = yaml.safe_load(text)
        if file.endswith("run.json"):
            document["run"]["used"].pop("resume", None)  # only a run that was resumed has it
        return document

    assert not differences(read(old, "whole"), read(trained[0], "stopped"), values=False)


def test_the_summary_has_the_same_keys(trained, old):
    was, now = (
        {
            entry["run"].rpartition("_")[0]: entry
            for entry in yaml.safe_load(
                (home / "results/experiment_results_summary.yaml").read_text()
            )["experiments"]
        }
        for home in (old, trained[0])
    )
    for engine in ("trl", "packed"):
        assert not differences(was[f"whole-{engine}"], now[f"stopped-{engine}"], values=False)
