"""Events of moves between shards. Part of the `Event` union; boxes.py applies them.

A part that is on its way is *boxed*: packed as a snapshot part, and nothing of it is live. `part` as in snapshots ("slot:US100",
"node:7"), or "band:0": slots of a band that have neither orders nor keys.
"""

from __future__ import annotations

from msgspec import Struct


class LegsParted(Struct, array_like=True, tag=50, frozen=True, gc=False):
    """Legs at nodes of this shard are held by the nodes' parts from now on, as legs for other shards are. No units move.

    record: the order's, same version. legs: (leg number, node, transaction, state, ship day, capacity units, lines as (item,
    units), shipped, written off, emptied), as events.LegDriven says them.
    """

    slot: str
    order_no: int
    record: bytes
    version: int
    legs: tuple[
        tuple[
            int,
            int,
            int,
            int,
            int,
            int,
            tuple[tuple[int, int], ...],
            tuple[tuple[int, int], ...],
            tuple[tuple[int, int], ...],
            tuple[int, ...],
        ],
        ...,
    ]


class PartBoxed(Struct, array_like=True, tag=51, frozen=True, gc=False):
    """Source: the part is closed and packed. kept_slots: of a band, the slots that stay."""

    move_id: int
    part: str
    target: int
    kept_slots: tuple[str, ...] = ()


class PartReceived(Struct, array_like=True, tag=52, frozen=True, gc=False):
    """Target: chunk `n` of `of` of a part."""

    move_id: int
    part: str
    source: int
    n: int
    of: int
    data: bytes
    digest: bytes
    seq: int
    time_ms: int
    txn_epoch: int


class PartOpened(Struct, array_like=True, tag=53, frozen=True, gc=False):
    """The map says it is ours: what was received (or, given up, what was boxed here) is live.

    seq: entry of the source at which it was boxed; 0 = it is the source itself that opens it again.
    """

    move_id: int
    part: str
    source: int
    seq: int
    txn_offset: int = 0


class PartForgotten(Struct, array_like=True, tag=54, frozen=True, gc=False):
    """A box is thrown away: the other shard has the part."""

    move_id: int
    part: str
