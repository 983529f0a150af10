"""SIGTERM of a trainer: it ends at its next step with a checkpoint, so that its runs can resume.

A machine that shuts down sends it to all processes, and a cluster to those whose time is over: some
send SIGINT, SIGHUP or SIGXCPU in its place, or before it.
"""

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)

_asked: list[int] = []
_polled = False


def handle_signals() -> None:
    """End this process softly at one of SIGNALS from now on."""
    own = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        # Before its first step there is nothing to keep; who sends one twice wants it to end now. A
        # forked worker has this handler too.
        if not _polled or number in _asked or os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _asked.append(number)

    for number in SIGNALS:
        signal.signal(number, handle)


def poll() -> bool:
    """True if this process was asked to end; the training looks after each step."""
    global _polled
    _polled = True
    return bool(_asked)


def asked_by() -> str | None:
    """Name of the signal by which this process was asked to end; None if it was not."""
    return signal.Signals(_asked[0]).name if _asked else None
