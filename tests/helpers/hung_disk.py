"""A disk that shows its files and never delivers their content, as a network disk whose server is
gone: a FUSE file system whose server answers only some of the requests."""

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Numbers of requests, and layouts of answers, as in <linux/fuse.h>.
LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, OPENDIR, INTERRUPT = 1, 2, 3, 14, 15, 26, 27, 36
REQUEST, ANSWER = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
MNT_FORCE, MNT_DETACH = 1, 2
ROOT, FOLDER, FILE = 1, 2, 3
SIZE = 100


@contextmanager
def hung_disk(folder: Path) -> Iterator[None]:
    """Mount such a disk at `folder`; needs root. A name with a dot is a file, any other a folder;
    reading one and listing the other never end."""
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"hung", bytes(folder), b"fuse", 0, options):
        os.close(device)
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    server = threading.Thread(target=_serve, args=(device,), daemon=True)
    server.start()
    try:
        yield
    finally:
        # Whoever still waits for it gets an error.
        libc.umount2(bytes(folder), MNT_FORCE | MNT_DETACH)
        server.join()
        os.close(device)


def _serve(device: int) -> None:
    with suppress(OSError):  # ENODEV: it was unmounted
        while True:
            request = os.read(device, 1 << 20)
            _, kind, number, node, *_ = REQUEST.unpack_from(request)
            if kind in (FORGET, READ, OPENDIR, INTERRUPT):
                continue  # no answer
            body = _body(kind, node, request[REQUEST.size :])
            code = -errno.ENOSYS if body is None else 0
            body = body or b""
            os.write(device, ANSWER.pack(ANSWER.size + len(body), code, number) + body)


def _body(kind: int, node: int, arguments: bytes) -> bytes | None:
    if kind == INIT:
        return struct.pack("<IIIIHHII32x", 7, 31, 0, 0, 1, 1, 4096, 1)
    if kind == LOOKUP:
        found = FILE if b"." in arguments else FOLDER
        return struct.pack("<QQQQII", found, 0, 60, 60, 0, 0) + _attributes(found)
    if kind == GETATTR:
        return struct.pack("<QII", 60, 0, 0) + _attributes(node)
    if kind == OPEN:
        return struct.pack("<QII", 1, 0, 0)
    return None


def _attributes(node: int) -> bytes:
    mode = 0o100644 if node == FILE else 0o40755
    times = (0, 0, 0, 0, 0, 0)
    return struct.pack("<QQQQQQIIIIIIIIII", node, SIZE, 1, *times, mode, 1, 0, 0, 0, 4096, 0)
