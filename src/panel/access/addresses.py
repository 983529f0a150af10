"""Addresses of this machine: those that only it reaches, and those under which others find it."""

import ipaddress
import socket

import psutil

ANYWHERE = ("0.0.0.0", "::", "")  # a server that listens on each address of the machine


def is_loopback(address: str) -> bool:
    """True for an address that this machine alone reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a Unix socket, or a name
        return address in ("", "localhost") or address.startswith("/")


def is_address(host: str) -> bool:
    """True for a literal address, False for a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def reached_at(host: str) -> list[str]:
    """Hosts under which a panel that listens on `host` is opened, the likeliest first."""
    if host not in ANYWHERE:
        return [f"[{host}]" if ":" in host else host]
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        one.address
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        for one in addresses
        if one.family == socket.AF_INET and not is_loopback(one.address)
    ]
    return [*found[:1], "127.0.0.1"]


def why_not(host: str, port: int = 0) -> str | None:
    """Why no server can listen on a host, or on a port of it, or None."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        family, kind, _, _, where = found[0]
        with socket.socket(family, kind) as probe:
            # As a server does: connections of the one before may not be over yet.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name of too many letters
        return str(getattr(error, "strerror", None) or error).lower()
    return None
