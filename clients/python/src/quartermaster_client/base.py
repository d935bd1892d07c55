"""Bases of all models.

Requests leave out what is at its default; an unknown field of an answer is ignored, so that a newer engine can be asked by an
older client. Money is integer minor units, instants are aware datetimes, quantities are units.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Method: TypeAlias = Literal["ship", "pickup", "ship_to_store", "digital"]
OnShort: TypeAlias = Literal["refuse", "partial", "park"]
MoveKind: TypeAlias = Literal[
    "received", "found", "returned", "transferred_in", "damaged", "lost", "sold_in_store", "transferred_out", "adjusted"
]
StockEffect: TypeAlias = Literal["none", "zero_until_count", "write_off"]
CountScope: TypeAlias = Literal["full", "nonzero", "delta"]


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of what is sent."""


class Answer(msgspec.Struct, kw_only=True, frozen=True):
    """Base of what is received."""
