"""Reading what older versions wrote: entries and snapshot parts go up one schema at a time until they are of today's.

U1  A schema changes only where appending a field with a default does not do (docs/reference/journal.md, "Versions").
U2  A step takes the bytes of one schema and returns those of the next. It is pure, and once released it never changes: its golden
    journal (tests/golden) is replayed by every later version.
U3  What is stored stays as it was written: hashes cover the bytes of their time. Upgrading is part of reading, every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from engine.journal.chain import PART_SCHEMA
from engine.journal.port import SCHEMA_VERSION, Misconfigured

Step: TypeAlias = Callable[[bytes], bytes]
ENTRY_STEPS: dict[int, Step] = {}
"""From a schema of entries to the next one: msgpack of a list of events, before and after."""
PART_STEPS: dict[int, Callable[[str, bytes], bytes]] = {}
"""From a schema of snapshot parts to the next one; takes the part's name too, because parts differ in kind."""


def entry_payload(
    schema: int, payload: bytes, *, steps: Mapping[int, Step] | None = None, to: int = SCHEMA_VERSION
) -> bytes:
    """An entry's payload in today's schema. Raises Misconfigured where no way leads there."""
    if schema == to:
        return payload
    steps = ENTRY_STEPS if steps is None else steps
    for level in _levels("an entry", schema, to, steps):
        payload = steps[level](payload)
    return payload


def part_data(part: str, schema: int, data: bytes) -> bytes:
    """A snapshot part in today's schema. Raises Misconfigured where no way leads there."""
    if schema == PART_SCHEMA:
        return data
    for level in _levels(f"the snapshot of {part}", schema, PART_SCHEMA, PART_STEPS):
        data = PART_STEPS[level](part, data)
    return data


def _levels(what: str, schema: int, to: int, steps: Mapping[int, object]) -> range:
    levels = range(schema, to)
    missing = [level for level in levels if level not in steps]
    if schema > to or missing:
        raise Misconfigured(f"{what} has schema {schema}: this version reads {min([to, *steps])} to {to}")
    return levels
