"""Commands of moves between shards (engine/protocol/moves.py, decide_moves.py). Part of the `Command` union."""

from __future__ import annotations

from msgspec import Struct


class BeginMove(Struct, array_like=True, tag=70, frozen=True, gc=False):
    """Control shard: let a part ("slot:US100", "node:N-1", "band:0") go to another shard. One part moves at a time."""

    part: str
    target: int


class FinishMove(Struct, array_like=True, tag=71, frozen=True, gc=False):
    """Control shard, from the source: the target has the part durably. From now on the map says so."""

    move_id: int
    kept_slots: tuple[str, ...] = ()
    """Slots of a band that stay with the source, because they have orders or keys."""


class AbandonMove(Struct, array_like=True, tag=72, frozen=True, gc=False):
    """Control shard: the part stays where it was, unless the move was finished before."""

    move_id: int


class OfferPart(Struct, array_like=True, tag=73, frozen=True, gc=False):
    """The source hands chunk `n` of `of` to the target; of = 0 asks whether the target is ready. Answer: how many it has."""

    move_id: int
    part: str
    """As shards call it: slot:US100, node:7, band:0."""
    source: int
    n: int = 0
    of: int = 0
    data: bytes = b""
    digest: bytes = b""
    """Of all chunks together."""
    seq: int = 0
    """Entry at which the source closed the part."""
    time_ms: int = 0
    txn_epoch: int = 0
    """Transactions that the source made of the part's orders have this epoch at the most."""


class ShowNode(Struct, array_like=True, tag=74, frozen=True, gc=False):
    """A shard whose map changed asks a node's new owner for the node's stock: a ViewUpdate, once."""

    node: int


class AddShard(Struct, array_like=True, tag=75, frozen=True, gc=False):
    """Control shard: there is one shard more. It is started, owns nothing, and is not asked before `AdmitShard`."""

    number: int = -1
    """The number that it gets, so that a repeat adds no other one; -1 = the next one, whatever that is."""


class AdmitShard(Struct, array_like=True, tag=76, frozen=True, gc=False):
    """Control shard: a shard that was added serves."""

    shard: int


class EndShard(Struct, array_like=True, tag=77, frozen=True, gc=False):
    """Control shard: a shard that owns nothing ends. Its number is not used again."""

    shard: int


class ListParts(Struct, array_like=True, tag=78, frozen=True, gc=False):
    """What a stock shard owns and how large it is, for plans of moves: a PartsReply."""
