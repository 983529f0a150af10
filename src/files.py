"""Files that are either whole or not there, and their hashes."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import select
import shutil
import site
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

# A network disk answers so while its server restarts, and well a moment later.
PASSING = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENOTCONN, errno.ECONNRESET, errno.ESHUTDOWN,
)  # fmt: skip
TRIES = 5

OS_ERROR = re.compile(r"\bos error (\d+)\b|\bcode: (\d+), kind: ")

STREAM_SECONDS = 10.0  # for a pipe that is named as a file
ANSWER_SECONDS = 60.0  # for a disk to do what it is asked for

COPYING_SECONDS = 60.0  # without a byte written: whoever copied a file has died

T = TypeVar("T")


def retry(use: Callable[[], T]) -> T:
    """The result of `use`, which reads or writes a file. An error of the disk that may pass is
    tried again for 3 s."""
    for wait in (*(0.2 * 2**n for n in range(TRIES - 1)), None):
        try:
            return use()
        except Exception as error:
            if wait is None or disk_error(error) not in PASSING:
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def disk_error(error: BaseException) -> int | None:
    """The errno of an error of the disk, also where a library written in Rust has put it into the
    text of an error of its own; else None."""
    if isinstance(error, OSError):
        return error.errno
    found = OS_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else None


def limited(path: Path | str, read: Callable[[], T]) -> T:
    """The result of `read`, which reads a path that a person named. TimeoutError where the disk
    does not deliver it in ANSWER_SECONDS, as a network disk whose server is gone."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(read())
        except BaseException as error:
            errors.append(error)

    # No call into the kernel has a time limit of its own. The thread may wait there for good, and
    # as a daemon it keeps no process from its end.
    thread = threading.Thread(target=call, name=f"read {path}", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if errors:
        raise errors[0]
    if not results:
        why = f"its disk did not answer for {ANSWER_SECONDS:g} s"
        raise TimeoutError(errno.ETIMEDOUT, why, str(path))
    return results[0]


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Give a file a second name; a copy of it where the disk has no hard links.

    Either way `target` is whole or not there, and FileExistsError if it is there already.
    """
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # by the disk: ENOSYS, EPERM, ENOTSUP, EXDEV, EMLINK, EACCES...
        _copy_new(Path(source), Path(target))


def _copy_new(source: Path, target: Path) -> None:
    """Copy a file to a name that is free. Of several processes one wins."""
    # Only its maker writes to it and gives it the name, so `target` cannot come in between.
    staged = target.with_name(f".{target.name}.copying")
    while True:
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        try:
            os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            with suppress(FileNotFoundError):
                if time.time() - staged.stat().st_mtime > COPYING_SECONDS:
                    staged.unlink()  # its maker died
            time.sleep(0.05)
    try:
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        shutil.copyfile(source, staged)
        shutil.copystat(source, staged)
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)


def read_text(path: Path, *, errors: str | None = None) -> str:
    """The text of a small file, tried again as by `retry`; `errors` as for `open`."""
    return retry(lambda: path.read_text(encoding="utf-8", errors=errors))


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file, tried again as by `retry`."""
    return retry(path.read_bytes)


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file that a person named, tried again as by `retry`. TimeoutError if a
    pipe does not deliver them in STREAM_SECONDS, or a disk as by `limited`."""

    def read() -> bytes:
        # Without O_NONBLOCK a pipe that nobody writes to would not even open.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(size)
            return _read_stream(file.fileno(), size, str(path))

    return limited(path, lambda: retry(read))


def _read_stream(descriptor: int, size: int, name: str) -> bytes:
    content, deadline = b"", time.monotonic() + STREAM_SECONDS
    while len(content) < size:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            why = f"nothing came from it for {STREAM_SECONDS:g} s"
            raise TimeoutError(errno.ETIMEDOUT, why, name)
        if not (part := os.read(descriptor, size - len(content))):
            break
        content += part
    return content


def write_atomic(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file so that a crash leaves either the old content or the new one; tried again
    as by `retry`. `mode` is for a new file, less the umask."""
    staged = staged_name(path)

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(staged, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)

    try:
        retry(write)
    except OSError:
        with suppress(OSError):  # a part of it would take the last of a full disk
            staged.unlink(missing_ok=True)
        raise


def staged_name(path: Path) -> Path:
    """A free name beside a file, under which one thread writes what then takes its place."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def alone(lock_file: Path, *, seconds: float = 10.0) -> Iterator[None]:
    """Do what reads, changes and writes a file while no other thread of any process does.

    A disk that has no locks, or no room for their file, keeps nobody out; nor does who holds the
    lock for longer than `seconds`, as a process that was suspended, so that no run waits for it.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = retry(lambda: os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            stack.callback(os.close, lock)
            _wait_for_lock(lock, seconds)
            # A process that was forked meanwhile has it open too.
            stack.callback(fcntl.flock, lock, fcntl.LOCK_UN)
        yield


def _wait_for_lock(file: int, seconds: float) -> None:
    """Take the lock of an open file, which parts threads too; BlockingIOError after so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def code_stamp() -> list[list[Any]]:
    """Equal while neither Spelltune's code nor an installed package changes."""
    packages = [_stamp(Path(folder)) for folder in (sys.prefix, *site.getsitepackages())]
    return packages + [_stamp(file) for file in sorted(Path(__file__).parent.rglob("*.py"))]


def _stamp(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), found.st_size, found.st_mtime_ns]


def bytes_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; 0 if there is neither."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""

    def digest() -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return retry(digest)


def keep(content: bytes, folder: Path, name: str) -> Path:
    """Write a file into a folder under a name that any disk takes; returns its path.

    A file of that name with other content stays: the new one gets a number.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem, ending = os.path.splitext(re.sub(r"[^\w.-]+", "-", Path(name).name).strip(".-") or "data")
    path, number = folder / f"{stem[:80]}{ending}", 1
    staged = folder / f".{secrets.token_hex(8)}"
    staged.write_bytes(content)
    try:
        while True:
            try:
                link_or_copy(staged, path)  # of two who find a name free one gets it
                return path
            except FileExistsError:
                if path.read_bytes() == content:
                    return path
            number += 1
            path = folder / f"{stem[:80]}-{number}{ending}"
    finally:
        staged.unlink(missing_ok=True)
