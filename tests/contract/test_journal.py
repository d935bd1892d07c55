"""The journal's contract (engine/journal/port.py, J1 to J7), the same tests on every back end."""

from __future__ import annotations

import pytest

from engine.journal.chain import GENESIS, entry_hash
from engine.journal.port import (
    Acquired,
    Behind,
    Conflict,
    Corrupt,
    Entry,
    Fenced,
    Full,
    Journal,
    Tail,
    Unavailable,
)
from tests.conftest import eventually
from tests.contract.journal_backends import Backend

MIB = 1024 * 1024


async def owner(backend: Backend, nonce: str = "first") -> tuple[Journal, Acquired]:
    journal = backend.journal()
    return journal, await journal.acquire(nonce, ["unix:h:/a.sock"])


async def write(journal: Journal, after: Tail, *payloads: bytes, decisions: tuple[bytes, ...] = ()) -> Tail:
    """Append entries one after another, a millisecond apart."""
    for payload in payloads:
        after = (await journal.append(after, time_ms=after.time_ms + 1, payload=payload, decisions=decisions)).tail
    return after


async def entries(journal: Journal, after_seq: int = 0) -> list[Entry]:
    return [entry async for entry in journal.read(after_seq=after_seq)]


# -- taking over ------------------------------------------------------------------------------------------------------


async def test_the_first_owner_begins_with_an_entry_of_no_events(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    (begin,) = await entries(journal)
    assert (begin.seq, begin.epoch, begin.payload) == (1, acquired.epoch, b"\x90")
    assert acquired.tail == Tail(begin.epoch, 1, begin.hash, begin.time_ms)
    assert acquired.first_seq == 1


async def test_epochs_follow_the_servers_clock_and_always_grow(backend: Backend) -> None:
    _, first = await owner(backend, "first")
    _, second = await owner(backend, "second")
    assert first.epoch >= first.server_time_ms // 1_000 - 1
    assert second.epoch > first.epoch
    assert second.tail.seq == 2


async def test_taking_over_twice_with_one_nonce_is_taking_over_once(backend: Backend) -> None:
    journal, first = await owner(backend)
    again = await journal.acquire("first", ["unix:h:/b.sock"])
    assert (again.epoch, again.tail) == (first.epoch, first.tail)
    tail = await write(journal, again.tail, b"a")
    assert (await journal.acquire("first", [])).tail == tail


async def test_sequences_run_on_across_epochs_and_time_never_goes_back(backend: Backend) -> None:
    old, acquired = await owner(backend, "old")
    far_ms = acquired.server_time_ms + 3_600_000  # an owner whose clock is an hour fast
    await old.append(acquired.tail, time_ms=far_ms, payload=b"a", decisions=())
    new, taken = await owner(backend, "new")
    assert taken.tail.time_ms == far_ms
    await write(new, taken.tail, b"b")
    assert [entry.seq for entry in await entries(new)] == [1, 2, 3, 4]  # J2


async def test_an_older_copy_is_fenced_in_everything_it_writes(backend: Backend) -> None:
    old, acquired = await owner(backend, "old")
    tail = await write(old, acquired.tail, b"a")
    assert await old.check_epoch()
    new, taken = await owner(backend, "new")
    with pytest.raises(Fenced):
        await write(old, tail, b"late")
    with pytest.raises(Fenced):
        await old.write_part("misc", tail.seq, b"late")
    with pytest.raises(Fenced):
        await old.trim(up_to_seq=0 if await new.read_parts() else tail.seq)
    assert not await old.check_epoch()
    assert [entry.payload for entry in await entries(new)] == [b"\x90", b"a", b"\x90"]
    assert taken.tail.seq == 3


async def test_an_append_that_was_on_its_way_during_the_takeover_never_lands(backend: Backend) -> None:
    old, acquired = await owner(backend, "old")
    new, taken = await owner(backend, "new")
    seen = await entries(new)
    with pytest.raises(Fenced):  # what the network held back arrives now
        await write(old, acquired.tail, b"delayed")
    await write(new, taken.tail, b"mine")
    assert [entry.payload for entry in await entries(new)] == [*(entry.payload for entry in seen), b"mine"]


# -- appending --------------------------------------------------------------------------------------------------------


async def test_an_append_lands_after_the_entry_it_names_or_not_at_all(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, b"a", b"b")
    with pytest.raises(Conflict):
        await write(journal, acquired.tail, b"other")  # J1
    with pytest.raises(Conflict):
        await write(journal, tail._replace(hash=bytes(16)), b"other")
    assert [entry.payload for entry in await entries(journal)] == [b"\x90", b"a", b"b"]


async def test_a_repeated_append_is_answered_as_the_first_time(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    times = acquired.tail.time_ms + 5
    first = await journal.append(acquired.tail, time_ms=times, payload=b"a", decisions=[b"why"])
    again = await journal.append(acquired.tail, time_ms=times, payload=b"a", decisions=[b"why"])
    assert again.tail == first.tail  # J4
    assert len(await entries(journal)) == 2
    assert await journal.read_decision(first.tail.epoch, first.tail.seq, 0) == b"why"


async def test_the_same_append_with_other_content_is_a_conflict(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"a")
    with pytest.raises(Conflict):
        await write(journal, acquired.tail, b"A")


async def test_a_server_that_lost_its_tail_is_behind(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    kept = await write(journal, acquired.tail, b"a")
    tail = await write(journal, kept, b"b", b"c")
    await backend.lose_tail(kept)
    with pytest.raises(Behind):
        await write(journal, tail, b"d")


async def test_entries_are_read_back_as_written(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    payloads = [b"", bytes(range(256)), b"\r\n$3\r\n" * 1_000, b"x" * 300_000]
    tail = await write(journal, acquired.tail, *payloads)
    read = await entries(journal, after_seq=1)
    assert [entry.payload for entry in read] == payloads
    assert [entry.seq for entry in read] == [2, 3, 4, 5]
    assert read[-1].hash == tail.hash
    prev = acquired.tail.hash
    for entry in read:
        expected = entry_hash(
            prev, epoch=entry.epoch, seq=entry.seq, time_ms=entry.time_ms, schema=1, payload=entry.payload
        )
        assert entry.prev_hash == prev
        assert entry.hash == expected  # J3
        prev = entry.hash


async def test_reading_takes_several_pages(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, *(b"%d" % number for number in range(200)))
    assert [entry.payload for entry in await entries(journal, after_seq=51)] == [b"%d" % n for n in range(50, 200)]


async def test_reading_after_the_newest_entry_gives_nothing_and_beyond_it_is_corrupt(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    assert await entries(journal, after_seq=1) == []
    with pytest.raises(Corrupt):
        await entries(journal, after_seq=2)
    assert acquired.tail.seq == 1


async def test_an_untouched_journal_is_empty(backend: Backend) -> None:
    journal = backend.journal()
    assert await entries(journal) == []
    assert await journal.read_parts() == {}
    with pytest.raises(Corrupt):
        await entries(journal, after_seq=7)


async def test_an_entry_that_is_too_large_is_refused(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    with pytest.raises(ValueError, match="limit"):
        await write(journal, acquired.tail, bytes(17 * MIB))
    await write(journal, acquired.tail, b"small")


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 2, 3, 4])
async def test_a_lost_entry_breaks_the_chain(backend: Backend, seq: int) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"a", b"b", b"c")
    await backend.lose_entry(seq)
    with pytest.raises(Corrupt):
        await entries(journal)


@pytest.mark.parametrize("seq", [1, 2, 4])
async def test_a_changed_entry_breaks_the_chain(backend: Backend, seq: int) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"a", b"b", b"c")
    await backend.flip_entry(seq)
    with pytest.raises(Corrupt):
        await entries(journal)


async def test_what_comes_before_the_damage_is_still_read(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"a", b"b", b"c")
    await backend.flip_entry(3)
    reading = journal.read(after_seq=0)
    read = [await anext(reading), await anext(reading)]
    with pytest.raises(Corrupt):
        await anext(reading)
    assert [entry.seq for entry in read] == [1, 2]


# -- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB + 17])
async def test_a_part_is_read_back_whole(backend: Backend, size: int) -> None:
    journal, _ = await owner(backend)
    data = bytes(number % 251 for number in range(size % 4_096)) + bytes(size - size % 4_096)
    ref = await journal.write_part("node:12", 1, data)
    assert ref.size_bytes == size
    assert await journal.read_parts() == {"node:12": [ref]}
    assert await journal.read_part(ref) == data


async def test_two_snapshots_of_a_part_are_kept_newest_first(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"a", b"b", b"c")
    first = await journal.write_part("slot:US100", 1, b"one")
    second = await journal.write_part("slot:US100", 2, b"two")
    third = await journal.write_part("slot:US100", 4, b"three")
    assert (await journal.read_parts())["slot:US100"] == [third, second]
    assert await journal.read_part(second) == b"two"
    with pytest.raises(Corrupt):
        await journal.read_part(first)


async def test_a_snapshot_at_the_same_sequence_takes_the_place_of_the_first(backend: Backend) -> None:
    journal, _ = await owner(backend)
    older = await journal.write_part("misc", 0, b"older")
    await journal.write_part("misc", 1, b"same")
    again = await journal.write_part("misc", 1, b"same")
    assert (await journal.read_parts())["misc"] == [again, older]
    other = await journal.write_part("misc", 1, b"other")
    assert (await journal.read_parts())["misc"] == [other, older]
    assert await journal.read_part(other) == b"other"


async def test_a_snapshot_older_than_the_newest_is_refused(backend: Backend) -> None:
    journal, _ = await owner(backend)
    await journal.write_part("misc", 5, b"newer")
    with pytest.raises(Conflict):
        await journal.write_part("misc", 4, b"older")


async def test_a_flipped_bit_in_a_snapshot_is_corrupt_and_the_older_one_is_usable(backend: Backend) -> None:
    journal, _ = await owner(backend)
    older = await journal.write_part("misc", 0, b"older")
    newer = await journal.write_part("misc", 1, b"newer")
    await backend.flip_snapshot(newer)
    with pytest.raises(Corrupt):
        await journal.read_part(newer)
    assert await journal.read_part(older) == b"older"


async def test_snapshots_survive_a_takeover(backend: Backend) -> None:
    old, _ = await owner(backend, "old")
    ref = await old.write_part("misc", 1, b"kept")
    new, _ = await owner(backend, "new")
    assert await new.read_parts() == {"misc": [ref]}
    assert await new.read_part(ref) == b"kept"


# -- trimming ---------------------------------------------------------------------------------------------------------


async def test_trim_never_passes_the_older_snapshot_of_any_part(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, *[b"x"] * 9)
    for part, seq in (("a", 3), ("b", 5), ("a", 8), ("b", 9)):
        await journal.write_part(part, seq, b"")
    assert await journal.trim(up_to_seq=8) == 3  # J7: the older one of part a is at 3
    assert [entry.seq for entry in await entries(journal, after_seq=3)] == [4, 5, 6, 7, 8, 9, 10]
    with pytest.raises(Corrupt):
        await entries(journal, after_seq=2)


async def test_trim_waits_for_the_second_snapshot_of_every_part(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, b"x", b"y")
    await journal.write_part("a", 3, b"")
    assert await journal.trim(up_to_seq=3) == 0


async def test_trim_keeps_what_the_archive_has_not_got_and_what_was_not_asked_for(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await write(journal, acquired.tail, *[b"x"] * 9)
    for seq in (7, 9):
        await journal.write_part("a", seq, b"")
    assert await journal.trim(up_to_seq=9, archived_seq=2) == 2
    assert await journal.trim(up_to_seq=4) == 2
    assert (await entries(journal, after_seq=4))[0].seq == 5


async def test_the_newest_entry_is_never_trimmed(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, b"x", b"y")
    for seq in (3, 4):
        await journal.write_part("a", seq, b"")
    assert await journal.trim(up_to_seq=100) == 2
    tail = await write(journal, tail, b"z")
    assert [entry.seq for entry in await entries(journal, after_seq=2)] == [3, 4]
    new, taken = await owner(backend, "new")
    assert (taken.first_seq, taken.tail.seq) == (3, tail.seq + 1)
    assert await new.trim(up_to_seq=100) == 1


async def test_a_long_trim_goes_in_slices(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, *[b""] * 2_500)
    for seq in (2_400, tail.seq):
        await journal.write_part("a", seq, b"")
    assert await journal.trim(up_to_seq=tail.seq) == 2_400


# -- decisions --------------------------------------------------------------------------------------------------------


async def test_decisions_are_fetched_by_entry_and_index(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    records = (b"first", b"", b"third" * 100)
    tail = await write(journal, acquired.tail, b"a", decisions=records)
    assert [await journal.read_decision(tail.epoch, tail.seq, index) for index in (-1, 0, 1, 2, 3)] == [
        None,
        *records,
        None,
    ]
    assert await journal.read_decision(tail.epoch, tail.seq + 1, 0) is None
    assert await journal.read_decision(tail.epoch - 1, tail.seq, 0) is None


async def test_decisions_go_with_their_entries(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    first = await write(journal, acquired.tail, b"a", decisions=(b"why a",))
    second = await write(journal, first, b"b", decisions=(b"why b",))
    for seq in (2, 3):
        await journal.write_part("misc", seq, b"")
    await journal.trim(up_to_seq=2)
    assert await journal.read_decision(first.epoch, first.seq, 0) is None
    assert await journal.read_decision(second.epoch, second.seq, 0) == b"why b"


async def test_a_refused_append_leaves_no_decision(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, b"a", b"b")
    with pytest.raises(Conflict):
        await write(journal, acquired.tail, b"other", decisions=(b"never",))
    for seq in range(1, tail.seq + 2):
        assert await journal.read_decision(tail.epoch, seq, 0) is None  # J5


# -- memory -----------------------------------------------------------------------------------------------------------


async def test_new_work_is_refused_before_finishing_work_when_memory_runs_out(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, b"a" * 1_000)
    backend.use_memory(0.95)

    async def refused() -> bool:
        nonlocal tail
        try:
            tail = await write(journal, tail, b"new")
        except Full as full:
            return full.retryable
        return False

    try:
        await eventually(refused)
        used, limit = await journal.memory()
        assert 0.9 <= used / limit < 1
        before = await entries(journal)
        assert before[-1].seq == tail.seq
        finished = await journal.append(tail, time_ms=tail.time_ms + 1, payload=b"end", decisions=(), finishing=True)
        # What was written before the memory ran out can still be told so: otherwise its outcome stayed unknown.
        again = await journal.append(tail, time_ms=tail.time_ms + 1, payload=b"end", decisions=())
        assert again.tail == finished.tail
        tail = finished.tail
    finally:
        backend.use_memory(0)
    assert await eventually(lambda: _written(journal, tail))


async def _written(journal: Journal, tail: Tail) -> bool:
    try:
        await write(journal, tail, b"room again")
    except Full:
        return False
    return True


async def test_a_shard_is_taken_over_where_memory_is_full(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    tail = await write(journal, acquired.tail, b"a" * 1_000)
    backend.use_memory(1.1)

    async def refused() -> bool:
        nonlocal tail
        try:
            tail = (
                await journal.append(tail, time_ms=tail.time_ms + 1, payload=b"end", decisions=(), finishing=True)
            ).tail
        except Full:
            return True
        return False

    try:
        await eventually(refused)
        newer, taken = await owner(backend, "second")
        assert taken.tail.seq == tail.seq + 1
        with pytest.raises(Full):
            await newer.append(taken.tail, time_ms=taken.tail.time_ms + 1, payload=b"end", decisions=(), finishing=True)
    finally:
        backend.use_memory(0)


# -- the rest ---------------------------------------------------------------------------------------------------------


async def test_a_proper_server_has_no_durability_problem(backend: Backend) -> None:
    journal, _ = await owner(backend)
    assert await journal.check_durability() == ()


async def test_a_closed_journal_is_unavailable(backend: Backend) -> None:
    journal, acquired = await owner(backend)
    await journal.close()
    with pytest.raises(Unavailable):
        await write(journal, acquired.tail, b"a")
    with pytest.raises(Unavailable):
        await journal.check_epoch()


def test_the_tail_of_nothing_is_all_zero() -> None:
    assert Tail(epoch=0, seq=0, hash=bytes(16), time_ms=0) == GENESIS
