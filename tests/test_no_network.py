"""What keeps tests from the network does."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from no_network import stays_here

Failed = pytest.fail.Exception


def test_a_host_isn_t_looked_up() -> None:
    with pytest.raises(Failed, match=r"reaches for the network: socket.getaddrinfo 'example.org'"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(Failed, match="reaches for the network"):
        urllib.request.urlopen("http://example.org")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_nothing_is_connected_or_sent(family: socket.AddressFamily) -> None:
    address = ("192.0.2.1", 9) if family == socket.AF_INET else ("2001:db8::1", 9)
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        with pytest.raises(Failed, match=r"socket\.connect"):
            one.connect(address)
        with pytest.raises(Failed, match=r"socket\.sendto"):
            one.sendto(b"", address)


def test_the_loopback_and_the_file_system_are_here() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()) as client:
            assert client.getpeername() == server.getsockname()
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
    assert all(map(stays_here, ("::1", ("127.9.9.9", 1), b"localhost", None)))
    assert not any(map(stays_here, ("10.0.0.1", "example.org", b"::2")))
