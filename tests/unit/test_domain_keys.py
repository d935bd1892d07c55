"""The table of keys against a plain dict, and slots against their definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.domain.ids import slot_of
from engine.domain.keys import KeyTable

KEYS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1), st.integers(0, 20).map(lambda n: n << 32))
"""Few keys, any keys, and keys that end alike."""


@given(st.lists(st.tuples(KEYS, st.integers(0, 3)), max_size=300))
def test_key_table_is_a_dict_that_forgets_its_oldest(steps: list[tuple[int, int]]) -> None:
    table = KeyTable()
    known: dict[int, tuple[int, int, int]] = {}
    for time_ms, (key, forget) in enumerate(steps):
        assert table.put(key, time_ms + 1, time_ms + 2, time_ms) is (key not in known)
        known[key] = (time_ms + 1, time_ms + 2, time_ms)
        if forget:
            before_ms = time_ms - 20
            old = []
            for other, (_, _, put_ms) in known.items():  # the oldest first, up to the first one that is young enough
                if put_ms >= before_ms or len(old) == forget:
                    break
                old.append(other)
            assert table.forget(before_ms, limit=forget) == len(old)
            for other in old:
                del known[other]
        assert len(table) == len(known)
    assert all(table.get(key) == known.get(key) for key, _ in steps)
    assert [row[0] for row in table.rows()] == list(known)


@given(st.text(max_size=4), st.text(max_size=8))
def test_a_slot_is_the_country_and_three_letters_or_digits(country: str, postal_code: str) -> None:
    kept = [c for c in postal_code.upper() if c.isascii() and c.isalnum()]
    assert slot_of(country, postal_code) == country.upper() + "".join(kept[:3])


def test_slots_of_common_codes() -> None:
    assert slot_of("us", "10001-1234") == "US100"
    assert slot_of("GB", "sw1a 1aa") == "GBSW1"
    assert slot_of("IE", "D 02") == "IED02"
    assert slot_of("HK", "") == "HK"
