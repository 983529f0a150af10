"""Reading from the Hugging Face hub: without lines at each retry, and at once where it is not found

Imports no torch: the panel and the check before a launch read from the hub too.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

# In place of the errors of its libraries, each for one file.
NOT_REACHED = "the Hugging Face hub cannot be reached"


_lock = threading.Lock()
_open = 0  # blocks of `quiet`
_before = 0, False  # verbosity and HF_HUB_OFFLINE, as the first of them found it


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the hub's library from printing a line at each retry: an error of the block is one
    sentence. Where the hub's address is not known here, only what is on this machine is read, as
    the retries would take a minute. The panel's threads may be in it at the same time."""
    global _open, _before
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    unreachable = not _is_known(constants.ENDPOINT)
    with _lock:
        if _open == 0:
            _before = logging.get_verbosity(), constants.HF_HUB_OFFLINE
        _open += 1
        logging.set_verbosity_error()
        constants.HF_HUB_OFFLINE = _before[1] or unreachable
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                shown, constants.HF_HUB_OFFLINE = _before
                logging.set_verbosity(shown)


def _is_known(endpoint: str) -> bool:
    """True if the host of an address is found from here, or a proxy may find it."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True
