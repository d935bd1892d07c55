"""Identifiers: slots, order numbers, and the public ids built from them.

A slot is a bundle of destinations: the country and the first three characters of the postal code. Public ids carry the
slot and the order number, never a shard, so that a slot can move between shards and every id stays valid.

An order number is 63 bits: 41 bits of milliseconds since 2020, 8 bits of the shard that made it, 14 bits of counter. It
sorts by time and is unique without coordination, because a shard's entry time never goes back (see Journal).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

EPOCH_2020_MS = 1_577_836_800_000
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUE = {c: i for i, c in enumerate(_ALPHABET)}
_TWO_DIGITS = [a + b for a in _ALPHABET for b in _ALPHABET]
_NUMBER_CHARS = 13  # 65 bits in base 32
_SLOT = re.compile(r"[A-Z]{2}[0-9A-Z]{0,3}")
ORDER_COUNTER_MAX = 1 << 14


class OrderRef(NamedTuple):
    """Where an order lives and which one it is: everything a public id says."""

    slot: str
    order_no: int


def make_slot(country: str, postal_code: str) -> str:
    """Slot of a destination, "US100" for US 10001. Characters that are neither letter nor digit do not count."""
    head = postal_code[:3]
    if not (head.isascii() and head.isalnum()):
        head = "".join([c for c in postal_code.upper() if c.isascii() and c.isalnum()])[:3]
    return (country + head).upper()


@lru_cache(maxsize=65_536)
def slot_of(country: str, postal_code: str) -> str:
    """The same, remembered: for those who do not remember places themselves."""
    return make_slot(country, postal_code)


def make_order_no(*, time_ms: int, shard: int, counter: int) -> int:
    """Order number from the entry time (ms, UTC), the shard that decides, and its counter within that millisecond."""
    return ((time_ms - EPOCH_2020_MS) << 22) | (shard << 14) | counter


def order_no_time_ms(order_no: int) -> int:
    """Entry time (ms, UTC) at which an order number was made."""
    return (order_no >> 22) + EPOCH_2020_MS


def shard_of_order_no(order_no: int) -> int:
    """The shard that made an order number: the order's first home."""
    return order_no >> 14 & 0xFF


def encode_number(number: int) -> str:
    """Fixed-width base 32, so that text order equals number order."""
    two = _TWO_DIGITS
    return (
        _ALPHABET[number >> 60]
        + two[number >> 50 & 1023]
        + two[number >> 40 & 1023]
        + two[number >> 30 & 1023]
        + two[number >> 20 & 1023]
        + two[number >> 10 & 1023]
        + two[number & 1023]
    )


def decode_number(text: str) -> int | None:
    """The inverse of `encode_number`; None where the text is not one."""
    if len(text) != _NUMBER_CHARS:
        return None
    number = 0
    for c in text:
        value = _VALUE.get(c)
        if value is None:
            return None
        number = (number << 5) | value
    return number if number < 1 << 63 else None


def public_id(prefix: str, ref: OrderRef, suffix: int | None = None) -> str:
    """`alc_US100_…`, `res_US100_…`; with a suffix `leg_US100_…_1` (leg number) or `dec_US100_…_0` (decision number)."""
    base = f"{prefix}_{ref.slot}_{encode_number(ref.order_no)}"
    return base if suffix is None else f"{base}_{suffix}"


def parse_public_id(text: str, prefix: str, *, has_suffix: bool = False) -> tuple[OrderRef, int] | None:
    """The reference and suffix (0 where there is none) that a public id names; None where the text is not such an id."""
    parts = text.split("_")
    if len(parts) != (4 if has_suffix else 3) or parts[0] != prefix or not _SLOT.fullmatch(parts[1]):
        return None
    number = decode_number(parts[2])
    if number is None:
        return None
    suffix = 0
    if has_suffix:
        if not (parts[3].isascii() and parts[3].isdigit()) or len(parts[3]) > 4:
            return None
        suffix = int(parts[3])
    return OrderRef(parts[1], number), suffix
