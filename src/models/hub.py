"""Reading from the Hugging Face hub: without lines at each retry, and at once where it is not found

Imports no torch: the panel and the check before a launch read from the hub too.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

# In place of the errors of its libraries, each for one file.
NOT_REACHED = "the Hugging Face hub cannot be reached"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the hub's library from printing a line at each retry: an error of the block is one
    sentence. Where the hub's address is not known here, only what is on this machine is read, as
    the retries would take a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    shown, offline = logging.get_verbosity(), constants.HF_HUB_OFFLINE
    logging.set_verbosity_error()
    constants.HF_HUB_OFFLINE = offline or not _is_known(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
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
