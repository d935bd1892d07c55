"""A reserved port is the gateway's: also before it first listens, and between two of its processes (Linux)."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from contextlib import AsyncExitStack

import pytest
from pydantic import ValidationError

from engine.bootstrap import StartError, reserve_ports
from engine.ports import bind_reserved, reserve_port, url_of
from engine.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
HOST = "127.0.0.1"


def taken(port: int, *options: int, host: str = HOST) -> bool:
    """Whether a socket that does not ask to share, as an engine's or an outgoing connection's, may not have it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            other.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def exchange(listener: socket.socket) -> None:
    """One connection, closed by the server first: it leaves its trace on the server's port."""
    with socket.create_connection(listener.getsockname()[:2], timeout=5.0) as client:
        accepted, _ = listener.accept()
        accepted.sendall(b"x")
        accepted.close()
        assert client.recv(1) == b"x"


@pytest.mark.parametrize("host", [HOST, "0.0.0.0", "localhost", "::1"])
def test_a_reserved_port_is_nobody_elses_and_the_gateways_again_and_again(host: str) -> None:
    port = 0
    for _ in range(2):  # the second time the first engine's connections linger on it
        with reserve_port(host, port) as holder:
            port = holder.getsockname()[1]
            where = (holder.getsockname()[0], port)
            assert taken(port, host=host)
            assert taken(port, socket.SO_REUSEADDR, host=host)
            with pytest.raises(OSError, match="in use"):
                reserve_port(host, port)
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(where, timeout=5.0)
                with bind_reserved(host, port) as listener:
                    listener.listen()
                    exchange(listener)
                assert taken(port, socket.SO_REUSEADDR, host=host)
    assert not taken(port, socket.SO_REUSEADDR, host=host)


def test_a_port_on_which_another_listens_is_not_reserved() -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError, match="in use"):
        reserve_port(HOST, other.getsockname()[1])


def reserve_two(**settings: object) -> tuple[list[int], bool]:
    """The ports of two gateways, and whether they are taken meanwhile."""

    async def reserve() -> tuple[list[int], bool]:
        async with AsyncExitStack() as undo:
            ports = reserve_ports(Settings(gateways=2, **settings), undo)  # type: ignore[arg-type]
            return ports, all(map(taken, ports))

    return asyncio.run(reserve())


def test_each_gateway_has_its_port() -> None:
    ports, are_taken = reserve_two(host=HOST, port=0)
    assert len(set(ports)) == 2 and are_taken
    assert not any(map(taken, ports)), "given back when the engine ends"


def test_what_keeps_an_engine_from_a_port_is_said() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on {HOST} is taken; choose another with --port"):
            reserve_two(host=HOST, port=port)
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1: .*assign"):
        reserve_two(host="192.0.2.1", port=0)
    with pytest.raises(StartError, match=r"cannot listen on nowhere\.invalid, port 8080: "):
        reserve_two(host="nowhere.invalid", port=8080)
    with pytest.raises(ValidationError, match="QM_PORT 65535 leaves no ports for 2 gateways"):
        reserve_two(host=HOST, port=65_535)


def test_on_a_cluster_of_others_ports_are_looked_at_only() -> None:
    async def reserve() -> None:
        async with AsyncExitStack() as undo:
            (port,) = reserve_ports(Settings(host=HOST, port=0, ray_address="auto"), undo)
            assert not taken(port)

    asyncio.run(reserve())


def test_an_address_of_six_is_written_in_brackets() -> None:
    assert url_of("::1", 8080) == "http://[::1]:8080"
    assert url_of("localhost", 8080) == "http://localhost:8080"
