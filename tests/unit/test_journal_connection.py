"""Addresses of servers, and what their error replies mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.journal.connection import Connection, LibraryMissing, failure, parse_url
from engine.journal.port import Corrupt, Full, JournalError, Misconfigured, Unavailable


def test_addresses_of_every_kind_are_read() -> None:
    plain = parse_url("redis://10.0.0.5:7000/2")
    assert (plain.host, plain.port, plain.db, plain.path, plain.tls) == ("10.0.0.5", 7_000, 2, None, None)
    assert parse_url("redis://somewhere").port == 6_379
    local = parse_url("unix://user:p%40ss@/run/qm/redis.sock?db=3")
    assert (local.path, local.username, local.password, local.db) == ("/run/qm/redis.sock", "user", "p@ss", 3)
    assert parse_url("redis://:only-a-password@h").username is None
    assert parse_url("rediss://h").tls is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "unix://",
        "redis://h/one",
        "redis://h?db=1",
        "redis://user:hunter2@h?retries=3",
        "unix:///run/x?ca=1",
        "redis://user:hunter2@h:port",
    ],
)
def test_an_address_that_makes_no_sense_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", Unavailable),
        ("MISCONF Errors writing to the AOF file: No space left on device", Unavailable),
        ("READONLY You can't write against a read only replica.", Unavailable),
        ("BUSY Redis is busy running a script.", Unavailable),
        ("ERR max number of clients reached", Unavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", Full),
        ("ERR Function not found", LibraryMissing),
        ("NOPERM User shard has no permissions to run the 'config|get' command", Misconfigured),
        ("WRONGPASS invalid username-password pair or user is disabled.", Misconfigured),
        ("NOAUTH Authentication required.", Misconfigured),
        ("ERR unknown command 'FCALL'", Misconfigured),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
        ("ERR The ID specified in XADD is equal or smaller than the target stream top item", Corrupt),
        ("ERR user_function:12: attempt to index a nil value", JournalError),
    ],
)
def test_error_replies_become_the_error_that_says_what_to_do(reply: str, kind: type[JournalError]) -> None:
    error = failure(Exception(reply))
    assert type(error) is kind
    assert error.retryable == issubclass(kind, Unavailable)


class FakeTransport:
    """Takes what is written and never answers by itself."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def connected() -> tuple[Connection, Any]:
    connection, transport = Connection(5.0), FakeTransport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, transport


async def test_replies_arrive_in_pieces_and_in_order() -> None:
    connection, transport = connected()
    first, second = connection.call("GET", "a"), connection.call("GET", "b")
    assert transport.written == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
    connection.data_received(b"$5\r\nhel")
    assert not first.done()
    connection.data_received(b"lo\r\n-LOADING wait\r\n")
    assert await first == b"hello"
    with pytest.raises(Unavailable, match="LOADING"):
        await second
    connection.close()


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+OK\r\n"])
async def test_what_is_not_a_reply_to_a_call_closes_the_connection(nonsense: bytes) -> None:
    connection, transport = connected()
    call = connection.call("PING")
    connection.data_received(nonsense)
    assert connection.closed
    assert transport.aborted
    assert call.done()
    assert nonsense.startswith(b"+") or isinstance(call.exception(), Unavailable)


async def test_calls_under_way_end_with_the_connection() -> None:
    connection, _ = connected()
    calls = [connection.call("PING") for _ in range(3)]
    calls[1].cancel()
    connection.connection_lost(ConnectionResetError("gone"))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, asyncio.CancelledError, Unavailable]
