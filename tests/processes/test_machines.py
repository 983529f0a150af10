"""Sweeps over several machines: a real Ray, a real PostgreSQL, and machines that vanish.

A machine is a host name and a process namespace of its own, all in one network that ends at its
loopback: Ray listens on all interfaces. To kill a namespace's first process is to kill the machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sqlmodel import select

from src import store
from src.config import ConfigError
from src.paths import ROOT
from src.runs import checks
from src.store.tables import BEGIN_AN_ATTEMPT, Evaluation, Run, Status, SweepStatus
from tests.helpers import live

pytestmark = pytest.mark.slow

RAY = Path(sys.executable).with_name("ray")
URL = "postgresql+psycopg://postgres@127.0.0.1/postgres"
QUICK = {"stale": 6, "reconcile": 1, "heartbeat": 1, "start": 10, "ray": 200, "standby": 0}  # s
# Of the head, so that it misses a dead node in seconds, not in half a minute. One that is only slow
# may take its time to answer.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_raylet_start_wait_time_s": "200",
}
# While beta lives the run table leaves it half of the trials, and takes no more than one result of
# it: whatever the speed of the machines, there is a moment with one trial ended and others under
# way.
HOLD = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.host = 'alpha' AND (NEW.status = 'STARTING' AND OLD.status = 'QUEUED'
        OR NEW.slot IS NOT NULL AND NEW.slot_given_at IS DISTINCT FROM OLD.slot_given_at)
    AND (SELECT count(*) FROM run WHERE host = 'alpha' AND status <> 'QUEUED') >= 8 THEN
        RETURN NULL;  -- as if another machine had been faster
    END IF;
    IF NEW.status = 'COMPLETED' AND NEW.host = 'beta'
    AND EXISTS (SELECT FROM run WHERE host = 'beta' AND status = 'COMPLETED') THEN
        RAISE lock_not_available;  -- its supervisor tries again
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE UPDATE OF status, slot_given_at ON run
FOR EACH ROW EXECUTE FUNCTION hold()
"""


class Space:
    """Namespaces that live as long as their first process, and end with all that is in them."""

    def __init__(self, *command: str, inside: "Space | None" = None, **options: Any):
        self.flags = ["--uts", "--pid"] if inside else ["--net", "--pid"]
        outer = inside.enter if inside else []
        new = ["unshare", *self.flags, "--fork", "--mount-proc", "--kill-child"]
        self.unshare = subprocess.Popen([*outer, *new, *command], **options)
        self.enter = ["nsenter", f"--target={self.first}", "--net", "--uts", "--pid", "--mount"]

    @property
    def first(self) -> int:
        """Pid of the first process."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            for child in psutil.Process(self.unshare.pid).children(recursive=True):
                # As it counts inside: nsenter and unshare fork before they are there.
                numbers = Path(f"/proc/{child.pid}/status").read_text().partition("NSpid:")[2]
                if numbers.splitlines()[0].split()[-1] == "1" and child.name() != "unshare":
                    return child.pid
            time.sleep(0.02)
        raise AssertionError("no namespace")

    def kill(self) -> None:
        os.kill(self.first, signal.SIGKILL)
        self.unshare.wait(60)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Space]:
    """A network without any other machine, with PostgreSQL on its port 5432."""
    space = Space("sh", "-c", "ip link set lo up; exec sleep infinity")
    with live.postgresql(tmp_path / "pg", *space.enter, addresses="127.0.0.1"):
        yield space
    space.kill()


class Machine:
    """A node of the cluster with a home of its own."""

    def __init__(self, network: Space, name: str, folder: Path, *start: str):
        self.home = folder / name
        self.home.mkdir()
        self.log = self.home / "ray.log"
        self.environment = os.environ | IMPATIENT | {
            "SPELLTUNE_HOME": str(self.home),
            "SPELLTUNE_DATABASE_URL": URL,
            "SPELLTUNE_TIMEOUTS": json.dumps(QUICK),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        options = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
        ray = f"hostname {name}; exec {RAY} start --block {' '.join([*options, *start])}"
        with open(self.log, "wb") as log:
            self.space = Space("sh", "-c", ray, inside=network, env=self.environment,
                               stdout=log, stderr=log)  # fmt: skip
        self.name = name

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A `spelltune` command on this machine."""
        command = [*self.space.enter, sys.executable, "-m", "src.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True
        )

    def logs(self) -> str:
        files = [self.log, *self.home.glob("results/training_logs/*.log")]
        return "\n".join(f"{file}\n{file.read_text()[-3000:]}" for file in files)


@contextmanager
def cluster(network: Space, folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """A Ray of two machines: alpha, which is its head, and beta."""
    with ExitStack() as ends:
        # The paths of Ray's sockets have to be short.
        ray = ends.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp"))
        head = ["--head", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        alpha = Machine(network, "alpha", folder, *head, f"--temp-dir={ray}/a")
        ends.callback(alpha.space.kill)
        end = time.monotonic() + 300
        while "Ray runtime started" not in alpha.log.read_text():
            assert time.monotonic() < end, alpha.logs()
            time.sleep(0.1)
        join = ["--address=127.0.0.1:6379", "--node-ip-address=127.0.0.2"]
        beta = Machine(network, "beta", folder, *join, f"--temp-dir={ray}/b")
        ends.callback(lambda: beta.space.unshare.poll() is None and beta.space.kill())
        yield alpha, beta


def until(seen: Callable[[], Any], *machines: Machine, seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (found := seen()):
        if time.monotonic() > end:
            with store.reading() as session:
                told = [
                    (r.id, r.host, r.status, r.attempt, r.reason) for r in store.list_runs(session)
                ]
            raise AssertionError(f"{told}\n" + "\n".join(m.logs() for m in machines))
        time.sleep(0.2)
    return found


@pytest.mark.root
@pytest.mark.postgresql
@pytest.mark.timeout(900)  # a minute on a machine that has nothing else to do
@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_a_sweep_over_two_machines_loses_one_and_ends_each_trial_once(
    home: Path, small: dict[str, Any], network: Space, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """With checkpoints of its own each, or all in one folder on a disk that they share."""
    monkeypatch.setenv(
        "SPELLTUNE_DATABASE_URL", f"postgresql+psycopg://postgres@/postgres?host={home}/pg"
    )
    base = small | {
        "evaluation.eval_steps": 20,
        "training.logging_steps": 1,
        "lora.dropout": 0.0,
        "engine": "packed",
        "pack_size": 4,
        "checkpointing.save_steps": 10,
    }
    space = {
        "lora.r": [2, 4, 8, 16],
        # One of the four in a pack ends early: those that end together are written together.
        "training.max_steps": [20, 120, 121, 122],
    }
    file = home / "sixteen.yaml"
    file.write_text(yaml.safe_dump({
        "name": "sixteen", "method": "grid", "base": {"overrides": base}, "space": space,
    }))  # fmt: skip

    def trials(session: store.Session) -> list[Run]:
        return list(session.exec(select(Run).order_by(Run.number)))

    with cluster(network, home) as (alpha, beta):
        if shared:
            (home / "shared").mkdir()
            for machine in (alpha, beta):
                (machine.home / "checkpoints").symlink_to(home / "shared")
        with store.writing() as session:
            session.connection().exec_driver_sql(HOLD)
        launched = alpha.run("sweep", "launch", str(file), "--executor=ray", "--json")
        assert launched.returncode == 0, launched.stderr + alpha.logs()
        sweep_id = json.loads(launched.stdout)["id"]

        def lose() -> list[Run] | None:
            """What beta had once it is killed, midway."""
            with store.writing() as session:
                # Nobody writes between the look and the kill.
                session.connection().exec_driver_sql("LOCK TABLE run IN ACCESS EXCLUSIVE MODE")
                there = trials(session)
                session.expunge_all()
                had = [run for run in there if run.host == "beta" and run.status != Status.QUEUED]
                done = [run for run in had if run.status == Status.COMPLETED]
                saved = [run for run in had if run not in done and (run.step or 0) > 10]
                if not (done and saved and any(run.host == "alpha" for run in there)):
                    return None
                beta.space.kill()
                session.connection().exec_driver_sql("DROP TRIGGER hold ON run")
            return had

        had = until(lose, alpha, beta)
        completed = {run.id for run in had if run.status == Status.COMPLETED}
        lost = {run.id for run in had} - completed

        def over() -> bool:
            with store.reading() as session:
                return store.find_sweep(session, sweep_id).status == SweepStatus.COMPLETED

        until(over, alpha, beta)
        shown = alpha.run("sweep", "show", sweep_id)
        assert shown.stdout.splitlines()[1] == "16 completed", shown.stdout + shown.stderr

    with store.reading() as session:
        ended = trials(session)
    assert [run.number for run in ended] == list(range(16))
    assert {run.status for run in ended} == {Status.COMPLETED}
    assert {run.id for run in ended if run.host == "beta"} == completed
    repeated = {run.id for run in ended if run.attempt > 1}
    with store.reading() as session:
        wrong = [run for run in ended if run.id in repeated ^ lost]
        told = [
            (r.number, r.host, [e.text for e in store.list_events(session, r.id)]) for r in wrong
        ]
    assert repeated == lost, told
    for run in ended:
        machine = alpha if run.host == "alpha" else beta
        assert (machine.home / "results" / "metrics" / f"{run.id}.json").exists()
    with store.reading() as session:
        scored = session.exec(select(Evaluation).where(Evaluation.split == "test")).all()
        assert sorted((e.run_id, e.attempt) for e in scored) == sorted(
            (run.id, run.attempt) for run in ended
        )
        events = [e for run_id in lost for e in store.list_events(session, run_id)]
    again = [e for e in events if e.kind in BEGIN_AN_ATTEMPT]
    assert {e.run_id for e in again} == lost and len(again) == len(lost)
    anew = "relaunched from scratch (1 of 10) after: beta is gone: Ray lost its node"
    assert shared or {e.text for e in again} == {anew}
    # From a checkpoint all that had one: only what beta had just begun had none.
    assert not shared or any((e.step or 0) >= 10 for e in again)


@pytest.mark.root
@pytest.mark.postgresql
def test_without_a_cluster_the_launch_says_how_to_start_one(
    network: Space, small: dict[str, Any], home: Path
) -> None:
    file = home / "one.yaml"
    file.write_text(yaml.safe_dump({
        "name": "one", "method": "grid", "base": {"overrides": small}, "executor": "ray",
        "space": {"lora.r": [2]},
    }))  # fmt: skip
    command = [*network.enter, sys.executable, "-m", "src.cli", "sweep", "launch", str(file)]
    environment = os.environ | {"SPELLTUNE_DATABASE_URL": URL}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stderr
    assert "executor: no Ray cluster is reached from here; start one with" in refused.stderr


def test_what_keeps_ray_from_it_is_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="set SPELLTUNE_DATABASE_URL to PostgreSQL"):
        checks.check_ray()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'Ray is not installed here: pip install "spelltune\['):
        checks.check_ray()
