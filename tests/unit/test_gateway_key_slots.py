"""What a gateway remembers of keys: where it sent each, for at least as many as it is told to."""

from __future__ import annotations

from gateway.key_slots import KeySlots


def test_a_key_belongs_to_the_slot_it_was_sent_to_first() -> None:
    slots = KeySlots()
    assert slots.sent(1, "US100") == "US100"
    assert slots.sent(1, "US900") == "US100"
    assert slots.sent(2, "US900") == "US900"


def test_of_two_that_move_a_key_the_first_one_says_where() -> None:
    slots = KeySlots()
    slots.sent(1, "US100")
    assert slots.moved(1, old="US100", new="US900") == "US900"
    assert slots.moved(1, old="US100", new="US600") == "US900"
    assert slots.sent(1, "US100") == "US900"


def test_memory_is_bounded_and_keeps_the_newest() -> None:
    slots = KeySlots(100)
    for key in range(1_000):
        slots.sent(key, "US100")
    assert len(slots._new) + len(slots._old) <= 200
    assert all(slots.sent(key, "US900") == "US100" for key in range(900, 1_000))
    assert slots.sent(0, "US900") == "US900"


def test_a_key_that_is_used_again_stays_known() -> None:
    slots = KeySlots(10)
    slots.sent(77, "US100")
    for key in range(100, 200):
        slots.sent(key, "US100")
        assert slots.sent(77, "US900") == "US100"
