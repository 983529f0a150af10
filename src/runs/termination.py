"""SIGTERM of a trainer: it ends at its next step with a checkpoint, so that its runs can resume.

A machine that shuts down sends it to all processes, and a cluster to those whose time is over.
"""

import os
import signal
import threading
from types import FrameType

_asked = threading.Event()
_polled = False


def handle_sigterm() -> None:
    """End this process softly from now on."""
    own = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        # Before its first step there is nothing to keep; who asks twice wants it to end now. A
        # forked worker has this handler too.
        if not _polled or _asked.is_set() or os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _asked.set()

    signal.signal(signal.SIGTERM, handle)


def poll() -> bool:
    """True if this process was asked to end; the training looks after each step."""
    global _polled
    _polled = True
    return _asked.is_set()


def was_asked() -> bool:
    """True if this process was asked to end."""
    return _asked.is_set()
