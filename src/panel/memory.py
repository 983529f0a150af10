"""Garbage collection of the panel's process, which Streamlit runs over all objects after each
script, in the way of the page's last message."""

import gc
import sys

_modules = 0  # how many there were when their objects were set aside


def set_modules_aside() -> None:
    """Leave the objects of the libraries, which stay, out of all collections: to look through them
    takes 0.1 s, longer than most pages. Acts where a module was imported since the last call."""
    global _modules
    if len(sys.modules) == _modules:
        return
    _modules = len(sys.modules)
    # What went out of use since the last time must not be set aside for good.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
