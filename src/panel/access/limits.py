"""A limit on wrong tokens, by who sends them and in total."""

import ipaddress
import math
import time
from collections import deque

SECONDS = 60.0  # for which a wrong token counts
MAX_BY_CLIENT = 10
MAX_IN_TOTAL = 100


class WrongTokens:
    """The wrong tokens of the last minute."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, str]] = deque()  # never more than MAX_IN_TOTAL

    def note(self, client: str, now: float | None = None) -> None:
        """Count one of a client."""
        self._sent.append((time.monotonic() if now is None else now, _network(client)))

    def wait(self, client: str, now: float | None = None) -> int:
        """Seconds until a client may send a token again, whole ones; 0 for at once."""
        now = time.monotonic() if now is None else now
        while self._sent and self._sent[0][0] <= now - SECONDS:
            self._sent.popleft()
        own = [at for at, of in self._sent if of == _network(client)]
        until = 0.0
        if len(own) >= MAX_BY_CLIENT:
            until = own[-MAX_BY_CLIENT] + SECONDS
        if len(self._sent) >= MAX_IN_TOTAL:
            until = max(until, self._sent[-MAX_IN_TOTAL][0] + SECONDS)
        return max(0, math.ceil(until - now))


def _network(client: str) -> str:
    """A client's address; of IPv6 the network, in which one machine has all addresses."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
