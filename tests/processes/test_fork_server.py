"""What tests of processes start by a fork is what the product starts: the same process and bits."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from src import paths
from src.config import load_config
from src.runs import launcher
from src.store.tables import Status
from tests.helpers.fork_server import STARTER
from tests.helpers.live import FEW, ended, left_over, row, training, wait


def shown(pid: int | None, log: Path) -> dict[str, Any]:
    """What others see of a process."""
    process = psutil.Process(pid)
    environment = process.environ()
    for own in ("SPELLTUNE_TOKEN", "PYTEST_CURRENT_TEST", "OLDPWD", "_"):
        environment.pop(own, None)
    return {
        "line": process.cmdline()[:3],
        "environment": environment,
        "folder": process.cwd(),
        "leads": (os.getpgid(process.pid), os.getsid(process.pid)) == (process.pid, process.pid),
        "files": [os.readlink(f"/proc/{pid}/fd/{number}").replace(str(log), "the log")
                  for number in range(3)],
        "umask": Path(f"/proc/{pid}/status").read_text().partition("Umask:")[2].split()[0],
    }  # fmt: skip


@pytest.mark.slow
def test_a_forked_run_is_what_a_started_one_is(home: Path, small: dict[str, Any]) -> None:
    if STARTER.real:
        pytest.skip("Unsloth has to be imported first")
    seen, weights = [], []
    for real in (False, True):
        STARTER.real = real
        run = wait(launcher.launch(load_config(overrides=small)), training)
        trainer = psutil.Process(run.trainer_pid)
        assert trainer.ppid() == run.supervisor_pid
        forked = psutil.Process(run.supervisor_pid).ppid() != os.getpid()
        assert forked != real
        for pid in (run.supervisor_pid, run.trainer_pid):
            seen.append(shown(pid, paths.log_file(run.id)))
        os.kill(trainer.pid, signal.SIGKILL)
        run = wait(run.id, ended)
        assert run.status == Status.FAILED and "signal 9" in (run.reason or ""), run.reason
        # A supervisor starts the next of the queue, as it was started itself.
        assert not left_over(home, 300)
        done = wait(launcher.launch(load_config(overrides=small | FEW)), ended)
        assert done.status == Status.COMPLETED, done.reason
        assert not left_over(home, 300)
        weights.append((paths.output_dir(done.id) / "final/adapter_model.safetensors").read_bytes())
    for forked, started in zip(seen[:2], seen[2:], strict=True):
        assert {k: v for k, v in forked.items() if v != started[k]} == {}, started
    assert weights[0] == weights[1]
    assert row(done.id).attempt == 1
