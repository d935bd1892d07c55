"""Faults that can be armed on the memory server, and that it needs no event loop."""

from __future__ import annotations

import pytest

from engine.journal.memory import MemoryJournal, MemoryServer
from engine.journal.port import Behind, Tail, Unavailable


async def begun(server: MemoryServer) -> tuple[MemoryJournal, Tail]:
    journal = MemoryJournal(server, 0)
    return journal, (await journal.acquire("me", ["unix:h:/a"])).tail


async def test_a_lost_request_leaves_nothing_and_can_be_repeated() -> None:
    server = MemoryServer()
    journal, tail = await begun(server)
    server.fail_next = "before"
    with pytest.raises(Unavailable):
        await journal.append(tail, time_ms=tail.time_ms, payload=b"a", decisions=())
    assert [entry.seq async for entry in journal.read(after_seq=0)] == [1]
    await journal.append(tail, time_ms=tail.time_ms, payload=b"a", decisions=())
    assert [entry.payload async for entry in journal.read(after_seq=1)] == [b"a"]


async def test_a_lost_answer_leaves_the_entry_and_the_repeat_is_answered() -> None:
    server = MemoryServer()
    journal, tail = await begun(server)
    server.fail_next = "after"
    with pytest.raises(Unavailable):
        await journal.append(tail, time_ms=tail.time_ms, payload=b"a", decisions=())
    assert [entry.payload async for entry in journal.read(after_seq=1)] == [b"a"]
    await journal.append(tail, time_ms=tail.time_ms, payload=b"a", decisions=())
    assert [entry.payload async for entry in journal.read(after_seq=1)] == [b"a"]


async def test_a_server_that_is_down_answers_nothing() -> None:
    server = MemoryServer()
    journal, tail = await begun(server)
    server.down = True
    with pytest.raises(Unavailable):
        await journal.check_epoch()
    server.down = False
    assert await journal.check_epoch()
    assert tail.seq == 1


async def test_losing_the_whole_journal_is_behind() -> None:
    server = MemoryServer()
    journal, tail = await begun(server)
    server.lose_tail(0, 1)
    with pytest.raises(Behind):
        await journal.append(tail, time_ms=tail.time_ms, payload=b"a", decisions=())


async def test_the_servers_clock_is_the_one_that_was_given() -> None:
    journal, tail = await begun(MemoryServer(now_ms=lambda: 5_000))
    assert (tail.epoch, tail.time_ms) == (5, 5_000)
    again = await MemoryJournal(journal._server, 0).acquire("other", [])
    assert again.epoch == 6


def test_no_event_loop_is_needed() -> None:
    """The simulator takes one step of a coroutine and has its answer."""
    server = MemoryServer(now_ms=lambda: 1_000)
    journal = MemoryJournal(server, 0)
    with pytest.raises(StopIteration) as done:
        journal.acquire("me", []).send(None)
    assert done.value.value.epoch == 1
