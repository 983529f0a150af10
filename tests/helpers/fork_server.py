"""Forks the processes of tests from one that has the libraries imported.

A trainer imports for 10 s of processor time and a command for nearly 2 s, and most tests of
processes start some. Here a process imports them once (`python -m tests.helpers.fork_server
SOCKET`), as multiprocessing's forkserver does with its preload, and forks a supervisor, a sweep
driver or a command for each that would be started. What is tested stays the program: nothing of
`src` is imported before the fork, and the process has a session, environment, command line (those
in /proc too), folder and files of its own. Its pid gets real signals. The trainer has to be a child
of its supervisor, which reads its exit code: so each supervisor forks one before it does anything
else, which waits to be told its run. What a forked process starts is forked in the same way.

A start with another environment, such as PYTHONPATH, with other limits or in another namespace, and
whatever goes wrong on the way is a start as the product does it. Tests that are about starts have
it so with `real_start`.
"""

import array
import atexit
import ctypes
import gc
import importlib
import io
import json
import mmap
import os
import re
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

SUPERVISOR, TRAINER, COMMAND = "src.workers.supervisor", "src.workers.trainer", "src.cli"
FROM_THE_SERVER = (SUPERVISOR, "src.workers.sweep_driver", "src.workers.reconcile", COMMAND)

# What a trainer has imported before its first step, beside `src`.
LIBRARIES = (
    "torch", "numpy", "pandas", "pyarrow.parquet", "yaml", "psutil", "pydantic", "sqlmodel",
    "rapidfuzz.distance", "rapidfuzz.process", "optuna", "safetensors.torch", "transformers",
    "transformers.trainer_callback", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama", "peft", "datasets", "trl",
    "trl.trainer.sft_trainer", "trl.trainer.sft_config", "wandb", "jellyfish", "scipy.stats",
    "typer", "rich.console",
)  # fmt: skip
# No import depends on these: they are read later, or by others.
READ_LATER = re.compile(
    r"^(SPELLTUNE_|PYTEST_|WANDB_|SSH_|GPG_|TORCHINDUCTOR_|PYTHONUNBUFFERED$|OLDPWD$|PWD$|SHLVL$|_$)"
    r"|(TOKEN|KEY|PAT|SECRET|PASSWORD)$"
    r"|^PYTHON(DONTWRITEBYTECODE|PYCACHEPREFIX)$"
    r"|^HF_HUB_DISABLE_TELEMETRY$"  # which is always set, as by src/training/train.py
)

ROOT = Path(__file__).parents[2]
MESSAGE_BYTES = 2**17
REFUSED = 0  # in the place of a pid


def at_imports(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that decides what an import does."""
    return {k: v for k, v in environment.items() if not READ_LATER.search(k)}


def surroundings() -> list[Any]:
    """What a process inherits beside its environment, folder and files: limits, cores, control
    groups and namespaces."""
    return [
        [resource.getrlimit(number) for number in range(16)],
        sorted(os.sched_getaffinity(0)),
        Path("/proc/self/cgroup").read_text(),
        sorted(os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")),
        os.getresuid(),
    ]


# --- who asks -------------------------------------------------------------------------------------


class Starter:
    """In the place of the module `subprocess` in src/runs/spawn.py: starts processes by a fork
    where it can, of the server or of the trainer that waits."""

    def __init__(self, server: str | None, trainer: "Child | None" = None):
        self.server, self.trainer = server, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, line: list[str], **how: Any) -> Any:
        if is_python(line) and how.get("start_new_session") and "--standby" not in line:
            if line[2] in FROM_THE_SERVER and (forked := self.ask(line, how)):
                return forked
            trainer = self.trainer if line[2] == TRAINER else None
            if trainer is not None:
                self.trainer = None
                if _ask(trainer.channel, line, how):
                    return trainer
        return subprocess.Popen(line, **how)

    def ask(self, line: list[str], how: dict[str, Any]) -> "Forked | None":
        """A child of the server that does this; None where the server refuses."""
        if self.server is None:
            return None
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with suppress(OSError):
            channel.connect(self.server)
            if pid := _ask(channel, line, how):
                return Forked(pid, channel)
        channel.close()
        return None

    def run_command(self, line: list[str], **how: Any) -> "subprocess.CompletedProcess[str]":
        """The same as `subprocess.run(line, capture_output=True, text=True)`."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
            how = {"env": dict(os.environ)} | how
            forked = self.ask(line, how | streams) if is_python(line) else None
            if forked is None:
                return subprocess.run(line, capture_output=True, text=True, **how)
            code = forked.wait()
            said = [(file.seek(0), file.read())[1] for file in (output, errors)]
        return subprocess.CompletedProcess(line, code, *said)


class TestStarter(Starter):
    """The one of a process that runs tests, whose server is started when it is first needed."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__(None)
        self.real = True  # starts as the product does
        self.process: subprocess.Popen[bytes] | None = None
        self.starting = threading.Lock()  # some tests start processes from several threads

    def open(self) -> None:
        self.environment, self.surroundings = dict(os.environ), surroundings()

    def ask(self, line: list[str], how: dict[str, Any]) -> "Forked | None":
        if self.real or surroundings() != self.surroundings:
            return None
        with self.starting:
            if self.process is None:
                self.folder = tempfile.TemporaryDirectory(prefix="forks-")
                self.server = f"{self.folder.name}/server"
                self.process = start_server(self.server, self.environment)
        return super().ask(line, how)

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(60)
            self.folder.cleanup()


def is_python(line: list[str]) -> bool:
    return line[:2] == [sys.executable, "-m"]


def _ask(channel: socket.socket, line: list[str], how: dict[str, Any]) -> int | None:
    """Ask for a process; its pid once it is one, or None."""
    umask = os.umask(0)
    os.umask(umask)
    order = {"line": line, "environment": how["env"], "folder": str(how["cwd"]), "umask": umask,
             "surroundings": surroundings()}  # fmt: skip
    with open(os.devnull, "r+b") as null, suppress(OSError):
        streams = [null if how[name] == subprocess.DEVNULL else how[name]
                   for name in ("stdin", "stdout", "stderr")]  # fmt: skip
        descriptors = [one if isinstance(one, int) else one.fileno() for one in streams]
        socket.send_fds(channel, [json.dumps(order).encode()], descriptors)
        return int(channel.recv(64) or REFUSED) or None
    return None


class Forked:
    """A child of the server, which tells its exit code."""

    def __init__(self, pid: int, channel: socket.socket):
        self.pid, self.channel = pid, channel

    def wait(self) -> int:
        return int(self.channel.recv(64))


class Child:
    """A child of this process, with as much of `subprocess.Popen` as a supervisor uses."""

    def __init__(self, pid: int, channel: socket.socket):
        self.pid, self.channel = pid, channel
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def start_server(path: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server whose socket is there, and wait until it has its libraries. It ends as its
    standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.fork_server", path],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


# In the process that runs tests; tests/conftest.py decides when it forks.
STARTER = TestStarter()


# --- the server -----------------------------------------------------------------------------------


class Server(NamedTuple):
    path: str  # of its socket
    environment: dict[str, str]  # with which it imported
    by_imports: dict[str, str]  # what they set, in a trainer too


def serve(path: str) -> None:
    before = dict(os.environ)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # as src/training/train.py does
    for name in LIBRARIES:
        importlib.import_module(name)
    by_imports = {k: v for k, v in os.environ.items() if before.get(k) != v}
    server = Server(path, at_imports(before), by_imports)
    gc.collect()
    gc.freeze()
    children: dict[int, socket.socket] = {}
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin, woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                _tell_of_exits(children)
            if sys.stdin in ready:
                return
            if listener in ready:
                channel, _ = listener.accept()
                if pid := os.fork():
                    children[pid] = channel
                else:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _become_what_is_asked(channel, server)


def _tell_of_exits(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as channel, suppress(OSError):
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become_what_is_asked(channel: socket.socket, server: Server) -> NoReturn:
    """In a process that was just forked: wait for an order, and be that process until it exits."""
    message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 3)
    if not message:
        os._exit(0)  # its supervisor is gone
    order = json.loads(message)
    line: list[str] = order["line"]
    own = json.loads(json.dumps([server.environment, surroundings()]))
    if own != [at_imports(order["environment"]), order["surroundings"]]:
        channel.send(str(REFUSED).encode())
        os._exit(0)
    trainer = None
    if line[2] == SUPERVISOR and "--adopt" not in line:
        trainer = _fork_trainer(server)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    kept = sorted({channel.fileno()} | ({trainer.channel.fileno()} if trainer else set()))
    for low, high in zip([2, *kept], [*kept, 2**16], strict=True):
        os.closerange(low + 1, high)
    os.umask(order["umask"])
    os.chdir(order["folder"])
    os.environ.clear()
    imported = server.by_imports if line[2] == TRAINER else {}
    os.environ.update(imported | order["environment"])
    show_as(line, order["environment"])
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), errors=errors,
                                            line_buffering=True, write_through=True))  # fmt: skip
    with suppress(OSError):
        channel.send(str(os.getpid()).encode())
    channel.close()
    _run(line, Starter(server.path, trainer))


def _fork_trainer(server: Server) -> Child:
    own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if pid := os.fork():
        its.close()
        return Child(pid, own)
    # Nothing of the supervisor's may stay open here, its end of the socket least of all.
    os.closerange(3, its.fileno())
    os.closerange(its.fileno() + 1, 2**16)
    _become_what_is_asked(its, server)


def _run(line: list[str], starter: Starter) -> NoReturn:
    """Run `python -m MODULE ARGUMENTS` in this process, to its exit."""
    code: object = 0
    sys.argv = line[2:]
    try:
        if line[2] != TRAINER:
            import src.runs.spawn

            src.runs.spawn.subprocess = starter  # type: ignore[assignment]
        runpy.run_module(line[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(code if isinstance(code, int) else int(code is not None))


def show_as(line: list[str], environment: dict[str, str]) -> None:
    """Have /proc show this command line and environment for this process, as of a program that was
    started with them (prctl(2), PR_SET_MM_MAP)."""
    arguments = b"".join(one.encode() + b"\0" for one in line)
    values = b"".join(f"{k}={v}".encode("utf-8", "surrogateescape") + b"\0"
                      for k, v in environment.items())  # fmt: skip
    # The kernel shows private memory only; it stays for as long as the process.
    area = mmap.mmap(-1, len(arguments) + len(values), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(arguments + values)
    _shown.append(area)
    first = ctypes.addressof(ctypes.c_char.from_buffer(area))
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start_code, end_code, start_stack = (int(fields[number - 3]) for number in (26, 27, 28))
    start_data, end_data, start_brk = (int(fields[number - 3]) for number in (45, 46, 47))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    middle, last = first + len(arguments), first + len(arguments) + len(values)
    addresses = array.array("Q", [
        start_code, end_code, start_data, end_data, start_brk, libc.sbrk(0), start_stack,
        first, middle, middle, last, 0,
    ])  # fmt: skip
    told = addresses.tobytes() + struct.pack("II", 0, 2**32 - 1)  # no auxv, the same executable
    pr_set_mm, pr_set_mm_map = 35, 14
    if libc.prctl(pr_set_mm, ctypes.c_ulong(pr_set_mm_map), told,
                  ctypes.c_ulong(len(told)), ctypes.c_ulong(0)):  # fmt: skip
        raise OSError(ctypes.get_errno(), "PR_SET_MM_MAP")


_shown: list[mmap.mmap] = []


if __name__ == "__main__":
    serve(sys.argv[1])
