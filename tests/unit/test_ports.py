"""A reserved port is the gateway's: also before it first listens, and between two of its processes."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack

import pytest

from engine.bootstrap import StartError, reserve_ports
from engine.ports import bind_reserved, reserve_port
from engine.settings import Settings

HOST = "127.0.0.1"


def taken(port: int) -> bool:
    """Whether a socket that asks for nothing special, as an engine's or an outgoing connection's, may not have it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((HOST, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def exchange(listener: socket.socket) -> None:
    """One connection, closed by the server first: it leaves its trace on the server's port."""
    with socket.create_connection(listener.getsockname(), timeout=5.0) as client:
        accepted, _ = listener.accept()
        accepted.sendall(b"x")
        accepted.close()
        assert client.recv(1) == b"x"


def test_a_reserved_port_is_nobody_elses_and_the_gateways_again_and_again() -> None:
    with reserve_port(HOST, 0) as holder:
        port = holder.getsockname()[1]
        assert taken(port)
        with pytest.raises(OSError, match="in use"):
            reserve_port(HOST, port)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, port), timeout=5.0)
            with bind_reserved(HOST, port) as listener:
                listener.listen()
                exchange(listener)
            assert taken(port)
    with reserve_port(HOST, port):  # the next engine's, at once
        pass
    assert not taken(port)


def test_a_port_on_which_another_listens_is_not_reserved() -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError, match="in use"):
        reserve_port(HOST, other.getsockname()[1])


def start(**settings: object) -> None:
    async def reserve() -> None:
        async with AsyncExitStack() as undo:
            first, second = reserve_ports(Settings(gateways=2, **settings), undo)  # type: ignore[arg-type]
            assert taken(first) and taken(second) and first != second

    asyncio.run(reserve())


def test_each_gateway_has_its_port() -> None:
    start(host=HOST, port=0)


def test_what_keeps_an_engine_from_a_port_is_said() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on {HOST} is taken; choose another with --port"):
            start(host=HOST, port=port)
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1, port 0: "):
        start(host="192.0.2.1", port=0)


def test_on_a_cluster_of_others_ports_are_looked_at_only() -> None:
    async def reserve() -> None:
        async with AsyncExitStack() as undo:
            (port,) = reserve_ports(Settings(host=HOST, port=0, ray_address="auto"), undo)
            assert not taken(port)

    asyncio.run(reserve())
