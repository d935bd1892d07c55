"""The chain: what a hash covers, what a break looks like, how values are packed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.journal.chain import (
    GENESIS,
    Verifier,
    entry_hash,
    next_tail,
    pack_decisions,
    pack_entry,
    pack_refs,
    pack_tail,
    part_digest,
    part_hash,
    trim_bound,
    unpack_decision,
    unpack_entry,
    unpack_refs,
    unpack_tail,
)
from engine.journal.port import Corrupt, Entry, Misconfigured, PartRef, Tail

BASE: dict[str, Any] = {"epoch": 7, "seq": 3, "time_ms": 1_000, "schema": 1, "payload": b"payload"}


def a_chain(*payloads: bytes, schema: int = 1) -> tuple[list[Entry], Tail]:
    """Entries from the beginning, and the tail they make."""
    tail, entries = GENESIS, []
    for number, payload in enumerate(payloads):
        after = tail
        tail = next_tail(after, epoch=5, time_ms=100 + number, payload=payload, schema=schema)
        entries.append(unpack_entry(5, tail.seq, pack_entry(after.hash, tail, payload, schema)))
    return entries, tail


def verify(entries: list[Entry], tail: Tail, after_seq: int = 0) -> None:
    verifier = Verifier(after_seq=after_seq)
    for entry in entries:
        verifier.check(entry)
    verifier.check_end(tail)


def test_the_hash_is_pinned() -> None:
    """Changing what is hashed makes every journal in the field unreadable: it needs a new schema version."""
    assert entry_hash(bytes(range(16)), **BASE).hex() == "f32bc1148c6bd1fab2a7407fbb301117"


@pytest.mark.parametrize(
    "changed", [{"epoch": 8}, {"seq": 4}, {"time_ms": 1_001}, {"schema": 2}, {"payload": b"payloae"}, {"payload": b""}]
)
def test_every_part_of_an_entry_is_in_its_hash(changed: dict[str, Any]) -> None:
    assert entry_hash(bytes(16), **(BASE | changed)) != entry_hash(bytes(16), **BASE)
    assert entry_hash(bytes(15) + b"\1", **BASE) != entry_hash(bytes(16), **BASE)


@given(
    epoch=st.integers(0, 2**40),
    seq=st.integers(0, 2**50),
    time_ms=st.integers(0, 2**50),
    digest=st.binary(min_size=16, max_size=16),
)
def test_a_tail_survives_packing(epoch: int, seq: int, time_ms: int, digest: bytes) -> None:
    tail = Tail(epoch, seq, digest, time_ms)
    assert unpack_tail(pack_tail(tail)) == tail
    assert len(pack_tail(tail)) == 40


def test_a_whole_chain_verifies_from_anywhere() -> None:
    entries, tail = a_chain(b"a", b"b", b"c")
    for after_seq in range(4):
        verify(entries[after_seq:], tail, after_seq)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_entry_is_found(lost: int) -> None:
    entries, tail = a_chain(b"a", b"b", b"c")
    del entries[lost]
    with pytest.raises(Corrupt):
        verify(entries, tail)


def test_swapped_and_repeated_entries_are_found() -> None:
    entries, tail = a_chain(b"a", b"b", b"c")
    for wrong in ([entries[1], entries[0], entries[2]], [entries[0], *entries], [*entries, entries[2]]):
        with pytest.raises(Corrupt):
            verify(wrong, tail)


def test_a_forged_first_entry_is_found() -> None:
    """Its own hash is right, but it does not follow the beginning."""
    forged = next_tail(GENESIS._replace(hash=b"x" * 16), epoch=5, time_ms=100, payload=b"a")
    with pytest.raises(Corrupt, match="does not follow"):
        verify([unpack_entry(5, 1, pack_entry(b"x" * 16, forged, b"a"))], forged)


def test_a_rewritten_last_entry_is_found_by_the_tail() -> None:
    entries, tail = a_chain(b"a", b"b")
    after = entries[0]
    other = next_tail(Tail(5, 1, after.hash, after.time_ms), epoch=5, time_ms=101, payload=b"B")
    with pytest.raises(Corrupt, match="not the one the tail names"):
        verify([after, unpack_entry(5, 2, pack_entry(after.hash, other, b"B"))], tail)


def test_time_and_epoch_never_go_back() -> None:
    with pytest.raises(AssertionError):
        next_tail(Tail(5, 1, bytes(16), 100), epoch=5, time_ms=99, payload=b"")
    with pytest.raises(AssertionError):
        next_tail(Tail(5, 1, bytes(16), 100), epoch=4, time_ms=100, payload=b"")
    first = next_tail(GENESIS, epoch=5, time_ms=100, payload=b"")
    digest = entry_hash(first.hash, epoch=5, seq=2, time_ms=99, schema=1, payload=b"")
    with pytest.raises(Corrupt, match="goes back"):
        verify(
            [
                unpack_entry(5, 1, pack_entry(GENESIS.hash, first, b"")),
                Entry(2, 5, 99, 1, first.hash, b"", digest),
            ],
            Tail(5, 2, digest, 99),
        )


def test_an_entry_of_a_newer_version_is_refused_not_guessed() -> None:
    entries, tail = a_chain(b"a", schema=2)
    with pytest.raises(Misconfigured, match="schema 2"):
        verify(entries, tail)


@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_an_entry_are_an_entry_or_corrupt(data: bytes) -> None:
    try:
        entry = unpack_entry(5, 1, data)
    except Corrupt:
        return
    with pytest.raises(Corrupt):
        Verifier(after_seq=0).check(entry)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_decisions_survive_packing(records: list[bytes]) -> None:
    packed = pack_decisions(records)
    assert [unpack_decision(packed, index) for index in range(len(records))] == records
    assert unpack_decision(packed, len(records)) is None
    assert unpack_decision(packed, -1) is None


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_in_place_of_decisions_are_read_or_corrupt(data: bytes, index: int) -> None:
    try:
        record = unpack_decision(data, index)
    except Corrupt:
        return
    assert record is None or record in data


def test_references_survive_packing_and_damage_is_said() -> None:
    refs = [PartRef("node:12", 9, b"h" * 16, 1 << 33, 1), PartRef("node:12", 4, b"g" * 16, 0, 1)]
    assert unpack_refs("node:12", pack_refs(refs)) == refs
    for wrong in (b"", pack_refs(refs)[:-1]):
        with pytest.raises(Corrupt):
            unpack_refs("node:12", wrong)
    with pytest.raises(Corrupt):
        unpack_tail(b"short")


def test_no_part_passes_for_another() -> None:
    wanted = part_hash("node:1", 5, 1, b"data")
    digest = part_digest("node:1", 5, 1)
    digest.update(b"da")
    digest.update(b"ta")
    assert wanted == digest.digest()
    assert wanted not in {
        part_hash("node:2", 5, 1, b"data"),
        part_hash("node:1", 6, 1, b"data"),
        part_hash("node:1", 5, 2, b"data"),
        part_hash("node:1", 5, 1, b"datb"),
    }


def test_the_trim_bound_is_the_lowest_of_all_that_still_need_entries() -> None:
    def refs(*seqs: int) -> list[PartRef]:
        return [PartRef("p", seq, b"", 0, 1) for seq in seqs]

    assert trim_bound([], up_to_seq=9, archived_seq=None) == 9
    assert trim_bound([refs(8, 6), refs(9, 7)], up_to_seq=9, archived_seq=None) == 6
    assert trim_bound([refs(8, 6)], up_to_seq=9, archived_seq=3) == 3
    assert trim_bound([refs(8, 6)], up_to_seq=2, archived_seq=3) == 2
    assert trim_bound([refs(8, 6), refs(9)], up_to_seq=9, archived_seq=None) == 0
