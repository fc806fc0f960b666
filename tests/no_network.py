"""No test reaches for the network: who tries fails, at the interpreter's own word, which nothing can patch away.

It holds for this process. Those that tests start have no network in `.ci/run`, where the system allows that.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

import pytest

#: Events of `sys.audit`, and which of their arguments is a host or an address; names of hosts count as the network.
EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}


def stays_here(address: Any) -> bool:
    """Whether an address is this machine's: a path of the file system, or the loopback."""
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _heed(event: str, arguments: tuple[Any, ...]) -> None:
    place = EVENTS.get(event)
    if place is None:
        return
    first = arguments[0]
    if isinstance(first, socket.socket) and first.family == getattr(socket, "AF_UNIX", None):
        return
    if not stays_here(arguments[place]):
        pytest.fail(f"a test reaches for the network: {event} {arguments[place]!r}")


def forbid() -> None:
    """From now on, for good."""
    sys.addaudithook(_heed)
