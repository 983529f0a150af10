"""What supervision needs of the operating system: locks, identity, and a child's environment."""

import contextlib
import fcntl
import io
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

# A run's processes inherit these and no others, so that a stray secret of the shell cannot reach a
# log.
ENVIRONMENT = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "TMPDIR",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NETRC",
        # Where the Ray cluster is, and the file with its token; not the token itself.
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
    }
)
ENVIRONMENT_PREFIXES = (
    "SPELLTUNE_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "HF_",
    "WANDB_",
    "TORCH",
    "TRITON_",
    "UNSLOTH_",
    "XDG_",
    "LC_",
    "OMP_",
    "MKL_",
)


def boot_id() -> str:
    """Changes with every boot of the machine: a pid from before it means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host() -> str:
    """Name of this machine, where several share one run table."""
    return socket.gethostname()


def memory_kills(pid: int) -> int:
    """How often the kernel has killed for memory in the control group of a process or, where the
    group does not say, on the machine."""
    files = [Path("/proc/vmstat")]
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            root = Path("/sys/fs/cgroup")
            if controllers == "memory":
                files.insert(0, root / "memory" / group.lstrip("/") / "memory.oom_control")
            elif not controllers:
                files.insert(0, root / group.lstrip("/") / "memory.events")
    for file in files:
        with contextlib.suppress(OSError, KeyError, ValueError):
            return int(dict(x.split() for x in file.read_text().splitlines())["oom_kill"])
    return 0


def child_environment(**extra: str) -> dict[str, str]:
    """The allowed part of this process's environment, with `extra` on top."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    kept.pop("SPELLTUNE_TOKEN", None)  # marks the processes of one trainer, and no others
    kept.pop("WANDB_SERVICE", None)  # another process's, with which it ends
    return kept | extra


class FileLock:
    """An exclusive lock on a file that the kernel lets go when this process dies, however it dies.

    POSIX record locks: a forked child does not keep them. They vanish when their holder opens and
    closes the file again, so use one FileLock a path in a process.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; False when another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _at_locks:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._file = file
            _own[self.path] = os.getpid()
        return True

    def release(self) -> None:
        if self._file is not None:
            with _at_locks:
                _own.pop(self.path, None)
                os.close(self._file)
            self._file = None


# A thread that looks at a lock must not do so while another one takes it.
_at_locks = threading.Lock()
_own: dict[Path, int] = {}  # locks of this process -> its pid, which a forked child does not have

# struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def holder(path: Path) -> int | None:
    """Pid of the process that has the lock at `path`, or None. Asks without taking it, so it cannot
    refuse an owner."""
    with _at_locks:
        if _own.get(path) == os.getpid():
            return os.getpid()  # looking would let it go
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        finally:
            os.close(file)
    return None if kind == fcntl.F_UNLCK else pid


class _Tolerant(io.FileIO):
    """A file that drops what finds no space."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def print_even_on_a_full_disk() -> None:
    """Let standard output and error, which are a run's log, fail no one who prints."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = _Tolerant(descriptor, "w", closefd=False)
        text = io.TextIOWrapper(io.BufferedWriter(file), errors="replace", line_buffering=True)
        setattr(sys, name, text)
