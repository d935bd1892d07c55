"""The journal on real servers: kills, restarts, stalls, lost functions, settings that prove nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.journal.chain import pack_tail
from engine.journal.connection import Connection, connect, parse_url
from engine.journal.discovery import Directory, Found, find
from engine.journal.embedded import EmbeddedServer
from engine.journal.keys import Keys
from engine.journal.port import Behind, Fenced, Full, Journal, Misconfigured, Tail, Unavailable
from engine.journal.redis_journal import RedisJournal
from tests.conftest import eventually, service_missing
from tests.contract.journal_backends import MEMORY_BYTES, binary_of, started

SHARD = 3
KEYS = Keys(SHARD)


@pytest.fixture(params=["valkey", "redis"])
def qm_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = started(request.param, tmp_path / "data")
    yield server
    server.stop(timeout_s=60)


@pytest.fixture
def raw(qm_server: EmbeddedServer) -> Iterator[Any]:
    client = redis.Redis.from_url(qm_server.url)
    yield client
    client.close()


@pytest.fixture
async def journal(qm_server: EmbeddedServer) -> AsyncIterator[RedisJournal]:
    made = RedisJournal(qm_server.url, SHARD, append_timeout_s=60)
    yield made
    await made.close()


async def write(journal: Journal, after: Tail, payload: bytes) -> Tail:
    return (await journal.append(after, time_ms=after.time_ms + 1, payload=payload, decisions=[b"why"])).tail


async def payloads(journal: Journal) -> list[bytes]:
    return [entry.payload async for entry in journal.read(after_seq=0)]


async def test_what_was_acknowledged_is_there_after_the_server_was_killed(tmp_path: Path) -> None:
    """kill -9 of the server in the middle of appends, ten times over."""
    acknowledged: list[bytes] = [b"\x90"]
    for cycle in range(10):
        server = started("valkey" if cycle % 2 else "redis", tmp_path / "data")
        assert not server.adopted
        journal = RedisJournal(server.url, SHARD, append_timeout_s=60)
        acquired = await journal.acquire(f"cycle {cycle}", [])
        found = await payloads(journal)
        assert [payload for payload in found if payload != b"\x90"] == [
            payload for payload in acknowledged if payload != b"\x90"
        ]
        tail = acquired.tail
        number = 0
        try:
            while True:
                payload = b"%d.%d" % (cycle, number)
                tail = await write(journal, tail, payload)
                acknowledged.append(payload)
                number += 1
                if number == 3:  # and in the middle of one of those that follow
                    asyncio.get_running_loop().call_later(cycle / 500, os.kill, server.pid, signal.SIGKILL)
        except Unavailable:
            pass
        await journal.close()
        # The entry under way may or may not be there; it was not acknowledged, and is in the log at most once.
        server.stop(timeout_s=60)
        check = started("valkey", tmp_path / "data")
        reader = RedisJournal(check.url, SHARD)
        found = [payload for payload in await payloads(reader) if payload != b"\x90"]
        wanted = [payload for payload in acknowledged if payload != b"\x90"]
        assert found in (wanted, [*wanted, payload])
        acknowledged = found
        await reader.close()
        check.stop(timeout_s=60)
    assert len(acknowledged) > 30


async def test_an_append_that_timed_out_is_repeated_and_lands_once(qm_server: EmbeddedServer) -> None:
    journal = RedisJournal(qm_server.url, SHARD, append_timeout_s=0.4)
    tail = (await journal.acquire("me", [])).tail
    os.kill(qm_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await write(journal, tail, b"a")
    finally:
        os.kill(qm_server.pid, signal.SIGCONT)
    tail = await eventually(lambda: _repeated(journal, tail, b"a"))
    await journal.close()
    patient = RedisJournal(qm_server.url, SHARD, append_timeout_s=60)
    assert (await patient.acquire("me", [])).tail == tail
    await write(patient, tail, b"b")
    assert await payloads(patient) == [b"\x90", b"a", b"b"]
    await patient.close()


async def _repeated(journal: Journal, after: Tail, payload: bytes) -> Tail | None:
    try:
        return await write(journal, after, payload)
    except Unavailable:
        return None


async def test_a_cancelled_append_leaves_the_connection_in_step(journal: RedisJournal) -> None:
    tail = (await journal.acquire("me", [])).tail
    task = asyncio.create_task(journal.append(tail, time_ms=tail.time_ms + 1, payload=b"a", decisions=[]))
    await asyncio.sleep(0)  # it is sent, the answer is not here yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await journal.append(tail, time_ms=tail.time_ms + 1, payload=b"a", decisions=[])
    await write(journal, again.tail, b"b")
    assert await payloads(journal) == [b"\x90", b"a", b"b"]


async def test_a_copy_is_fenced_before_the_newer_one_has_begun(
    journal: RedisJournal, qm_server: EmbeddedServer, raw: Any
) -> None:
    """The first half of a takeover alone: nothing of the old copy lands, and the second half finds the tail as it was."""
    tail = await write(journal, (await journal.acquire("old", [])).tail, b"a")
    raw.fcall("qm1_acquire", 1, KEYS.meta, "new", b"\x90")
    with pytest.raises(Fenced):
        await write(journal, tail, b"late")
    newer = RedisJournal(qm_server.url, SHARD)
    acquired = await newer.acquire("new", [])
    assert acquired.tail.seq == tail.seq + 1
    assert await payloads(newer) == [b"\x90", b"a", b"\x90"]
    await newer.close()


async def test_a_server_that_was_emptied_is_behind_and_never_silently_restarted(
    journal: RedisJournal, raw: Any
) -> None:
    tail = await write(journal, (await journal.acquire("me", [])).tail, b"a")
    raw.flushall()
    with pytest.raises(Behind):
        await write(journal, tail, b"b")
    with pytest.raises(Behind):
        await journal.check_epoch()


async def test_a_server_that_was_replaced_is_behind(journal: RedisJournal, raw: Any) -> None:
    """Neither data nor functions are there any more."""
    tail = await write(journal, (await journal.acquire("me", [])).tail, b"a")
    raw.flushall()
    raw.function_flush()
    with pytest.raises(Behind):
        await write(journal, tail, b"b")


async def test_a_server_rolled_back_past_the_takeover_is_behind(journal: RedisJournal, raw: Any) -> None:
    tail = (await journal.acquire("me", [])).tail
    raw.hset(KEYS.meta, mapping={"e": tail.epoch - 5, "o": "older"})
    with pytest.raises(Behind):
        await write(journal, tail, b"a")


async def test_functions_come_back_where_they_were_lost(journal: RedisJournal, raw: Any) -> None:
    tail = (await journal.acquire("me", [])).tail
    raw.function_flush()
    tail = await write(journal, tail, b"a")
    raw.function_flush()
    assert await journal.check_epoch()
    assert await payloads(journal) == [b"\x90", b"a"]


async def test_a_repeated_append_writes_something(journal: RedisJournal, raw: Any) -> None:
    """A call that writes nothing waits for no fsync, so its answer would prove nothing."""
    tail = (await journal.acquire("me", [])).tail
    await write(journal, tail, b"a")
    before = raw.info("persistence")["rdb_changes_since_last_save"]
    await write(journal, tail, b"a")
    assert raw.info("persistence")["rdb_changes_since_last_save"] > before


# -- fitness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("appendfsync", "everysec", "appendfsync is everysec"),
        ("appendonly", "no", "appendonly is no"),
        ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite is yes"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru"),
    ],
)
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    journal: RedisJournal, raw: Any, setting: str, value: str, said: str
) -> None:
    raw.config_set(setting, value)
    with pytest.raises(Misconfigured, match=said):
        await journal.acquire("me", [])


async def test_unverified_takes_a_server_without_proof_but_says_so(qm_server: EmbeddedServer, raw: Any) -> None:
    raw.config_set("appendfsync", "everysec")
    journal = RedisJournal(qm_server.url, SHARD, durability="unverified")
    await journal.acquire("me", [])
    assert await journal.check_durability() == ("appendfsync is everysec, it must be always",)
    raw.config_set("maxmemory-policy", "allkeys-lru")
    careless = RedisJournal(qm_server.url, SHARD, durability="unverified")
    with pytest.raises(Misconfigured, match="noeviction"):
        await careless.acquire("me", [])
    await journal.close()
    await careless.close()


async def test_settings_that_drift_while_running_are_noticed(journal: RedisJournal, raw: Any) -> None:
    await journal.acquire("me", [])
    assert await journal.check_durability() == ()
    raw.config_set("appendfsync", "no")
    assert await journal.check_durability() == ("appendfsync is no, it must be always",)


async def test_a_server_that_hides_its_settings_is_refused_unless_told_otherwise(
    qm_server: EmbeddedServer, raw: Any
) -> None:
    raw.execute_command("ACL", "SETUSER", "shard", "on", ">secret", "~qm:*", "+@all", "-config")
    url = qm_server.url.replace("unix://", "unix://shard:secret@")
    journal = RedisJournal(url, SHARD)
    with pytest.raises(Misconfigured, match="does not let its settings be read"):
        await journal.acquire("me", [])
    trusting = RedisJournal(url, SHARD, durability="unverified")
    await write(trusting, (await trusting.acquire("me", [])).tail, b"a")
    assert len(await trusting.check_durability()) == 1
    await journal.close()
    await trusting.close()


async def test_the_rights_a_shard_needs_are_enough(qm_server: EmbeddedServer, raw: Any) -> None:
    """The user of docs/reference/journal.md: no other command, no other key."""
    raw.execute_command(
        "ACL", "SETUSER", "shard", "on", ">secret", "~qm:*", "-@all",
        "+fcall", "+fcall_ro", "+function|list", "+function|load", "+config|get", "+info", "+client|setname",
        "+time", "+hget", "+hmget", "+hgetall", "+hset", "+hincrby", "+xadd", "+xrange", "+xtrim", "+exists",
        "+set", "+setrange", "+getrange", "+strlen", "+rename", "+persist", "+unlink",
    )  # fmt: skip
    journal = RedisJournal(qm_server.url.replace("unix://", "unix://shard:secret@"), SHARD)
    tail = await write(journal, (await journal.acquire("me", [])).tail, b"a")
    await write(journal, tail, b"b")
    for seq in (1, 2, 3):
        ref = await journal.write_part("misc", seq, b"x" * 2_000_000)
    assert await journal.read_part(ref) == b"x" * 2_000_000
    assert len(await journal.read_parts()) == 1
    assert await journal.trim(up_to_seq=3) == 2
    assert await journal.read_decision(tail.epoch, 3, 0) == b"why"
    assert [entry.seq async for entry in journal.read(after_seq=2)] == [3]
    assert await journal.check_epoch()
    assert await journal.check_durability() == ()
    assert (await journal.memory())[1] == MEMORY_BYTES
    await journal.close()


async def test_a_gateway_needs_hardly_any_rights(journal: RedisJournal, qm_server: EmbeddedServer, raw: Any) -> None:
    acquired = await journal.acquire("me", ["tcp:h:1"])
    raw.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", "~qm:*", "-@all", "+hmget", "+client|setname")
    url = qm_server.url.replace("unix://", "unix://gateway:secret@")
    assert await find(url, [SHARD]) == {SHARD: Found(SHARD, acquired.epoch, ("tcp:h:1",))}


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """(port, certificate to trust) of a server that takes TLS and a password only."""
    openssl = shutil.which("openssl")
    if openssl is None:
        service_missing("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key,
         "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [binary_of("redis"), "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--requirepass", "p@ss",
         "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate,
         "--tls-auth-clients", "no", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield port, certificate
    server.kill()
    server.wait(60)


async def test_tcp_with_tls_and_a_password(tls_server: tuple[int, Path]) -> None:
    port, certificate = tls_server
    journal = RedisJournal(f"rediss://:p%40ss@localhost:{port}/2?ca={certificate}", SHARD)

    async def acquired() -> Tail | None:
        try:
            return (await journal.acquire("me", [])).tail
        except Unavailable:
            return None

    tail = await eventually(acquired)
    assert tail is not None
    await write(journal, tail, b"x" * 2_000_000)
    assert await payloads(journal) == [b"\x90", b"x" * 2_000_000]
    await journal.close()
    stranger = RedisJournal(f"rediss://:p%40ss@localhost:{port}/2", SHARD)
    with pytest.raises(Unavailable, match="certificate"):
        await stranger.acquire("stranger", [])
    await stranger.close()


async def test_a_wrong_password_is_said_at_once(qm_server: EmbeddedServer, raw: Any) -> None:
    raw.execute_command("ACL", "SETUSER", "shard", "on", ">secret", "~qm:*", "+@all")
    journal = RedisJournal(qm_server.url.replace("unix://", "unix://shard:wrong@"), SHARD)
    with pytest.raises(Misconfigured, match="WRONGPASS"):
        await journal.acquire("me", [])
    await journal.close()


async def test_no_server_is_unavailable(tmp_path: Path) -> None:
    journal = RedisJournal(f"unix://{tmp_path}/none.sock", SHARD)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await journal.acquire("me", [])


# -- snapshots --------------------------------------------------------------------------------------------------------


async def test_a_half_written_snapshot_is_not_published_and_goes_away(journal: RedisJournal, raw: Any) -> None:
    acquired = await journal.acquire("me", [])
    good = await journal.write_part("misc", 0, b"good")
    raw.set(KEYS.staging(acquired.epoch, "misc", 1), b"half of it", px=600_000)  # the process died here
    assert await journal.read_parts() == {"misc": [good]}
    refs = raw.hget(KEYS.parts, "misc")
    code, _ = raw.fcall(
        "qm1_publish_part", 4, KEYS.meta, KEYS.parts, KEYS.staging(acquired.epoch, "misc", 1), KEYS.snapshot("misc", 1),
        acquired.epoch, "misc", refs, b"new" + refs, len(b"all of it, not half"),
    )  # fmt: skip
    assert code == 5
    assert await journal.read_parts() == {"misc": [good]}
    assert raw.pttl(KEYS.staging(acquired.epoch, "misc", 1)) > 0
    newer = await journal.write_part("misc", 1, b"newer")
    assert await journal.read_part(newer) == b"newer"
    assert sorted(raw.keys(b"qm:{s3}:[sw]:*")) == [KEYS.snapshot("misc", 0), KEYS.snapshot("misc", 1)]
    assert raw.pttl(KEYS.snapshot("misc", 1)) == -1, "a published snapshot must not expire"


async def test_a_snapshot_that_does_not_read_back_is_not_published(
    journal: RedisJournal, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.acquire("me", [])
    real = Connection.call

    def flip_on_the_way_back(self: Connection, *args: Any) -> Any:
        future = real(self, *args)
        if args[0] != "GETRANGE":
            return future
        return asyncio.ensure_future(_changed(future))

    monkeypatch.setattr(Connection, "call", flip_on_the_way_back)
    with pytest.raises(Unavailable, match="did not read back"):
        await journal.write_part("misc", 1, b"data")
    monkeypatch.undo()
    assert await journal.read_parts() == {}


async def _changed(future: asyncio.Future[bytes]) -> bytes:
    return (await future)[:-1] + b"?"


async def test_nothing_is_written_where_the_server_has_no_memory_for_a_snapshot(
    journal: RedisJournal, raw: Any
) -> None:
    await journal.acquire("me", [])
    raw.config_set("maxmemory", 1)
    with pytest.raises(Full):
        await journal.write_part("misc", 1, b"data")
    raw.config_set("maxmemory", MEMORY_BYTES)
    assert await journal.read_parts() == {}


# -- discovery --------------------------------------------------------------------------------------------------------


async def test_shards_are_found_where_their_newest_epoch_says(journal: RedisJournal, qm_server: EmbeddedServer) -> None:
    first = await journal.acquire("a", ["unix:h:/run/s3.sock", "tcp:10.0.0.1:7003"])
    assert await find(qm_server.url, [SHARD, 4]) == {
        SHARD: Found(SHARD, first.epoch, ("unix:h:/run/s3.sock", "tcp:10.0.0.1:7003"))
    }
    directory = Directory(qm_server.url)
    newer = RedisJournal(qm_server.url, SHARD)
    second = await newer.acquire("b", ["tcp:10.0.0.2:7003"])
    await newer.close()
    assert await directory.find(SHARD) == Found(SHARD, second.epoch, ("tcp:10.0.0.2:7003",))
    assert await directory.find(9) is None
    await directory.close()
    with pytest.raises(Unavailable):
        await directory.find(SHARD)


async def test_a_directory_connects_again_after_a_break(
    journal: RedisJournal, qm_server: EmbeddedServer, raw: Any
) -> None:
    acquired = await journal.acquire("a", [])
    directory = Directory(qm_server.url)
    assert await directory.find(SHARD) == Found(SHARD, acquired.epoch, ())
    for client in raw.client_list():
        if client["name"] == "qm-directory":
            raw.client_kill_filter(_id=client["id"])

    async def found() -> Found | None:
        try:
            return await directory.find(SHARD)
        except Unavailable:
            return None

    assert await eventually(found) == Found(SHARD, acquired.epoch, ())
    await directory.close()


# -- the connection ---------------------------------------------------------------------------------------------------


async def test_a_silent_server_is_given_up_in_time(qm_server: EmbeddedServer) -> None:
    connection = await connect(parse_url(qm_server.url), timeout_s=0.2, name="test")
    os.kill(qm_server.pid, signal.SIGSTOP)
    try:
        calls = [connection.call("PING") for _ in range(3)]
        started_s = time.monotonic()
        for call in calls:
            with pytest.raises(Unavailable, match="nothing for"):
                await call
        assert time.monotonic() - started_s < 60
    finally:
        os.kill(qm_server.pid, signal.SIGCONT)
    assert connection.closed
    with pytest.raises(Unavailable):
        await connection.call("PING")


async def test_a_cancelled_call_does_not_shift_the_replies_of_others(qm_server: EmbeddedServer) -> None:
    connection = await connect(parse_url(qm_server.url), timeout_s=5, name="test")
    calls = [connection.call("ECHO", str(number)) for number in range(6)]
    for number in (0, 2, 5):
        calls[number].cancel()
    assert [await calls[number] for number in (1, 3, 4)] == [b"1", b"3", b"4"]
    assert await connection.call("ECHO", "after") == b"after"
    connection.close()


async def test_the_stored_tail_is_what_the_next_append_must_name(journal: RedisJournal, raw: Any) -> None:
    tail = await write(journal, (await journal.acquire("me", [])).tail, b"a")
    assert raw.hget(KEYS.meta, "t") == pack_tail(tail)
