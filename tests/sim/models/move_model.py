"""Every interleaving of up to two moves of one part from shard S to shard T: lost, late and repeated messages, maps that shards learn
late, crashes of either, a source that gives up at any moment.

Durable: the versions of the map, each shard's part (live or in a box), the number of changes that were acknowledged. Memory: which
version a shard knows, whether a box is durable yet, what the target acknowledged. A part's value is how many changes it contains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.sim.models.explore import Result, explore

MOVES_MAX = 2
CHANGES_MAX = 2
CRASHES_MAX = 1
Version = tuple[str, int]
"""(owner, move under way; 0 = none)"""
Message = tuple[str, int, int]
"""(kind, move, value)"""


class Shard(NamedTuple):
    live: int = -1
    """Value of the live part; -1 = it is not live here."""
    box: tuple[int, int] | None = None
    """(move, value)"""
    knows: int = 0
    """Newest version of the map that it has seen."""
    is_durable: bool = True
    """Whether its newest step is in its journal."""
    acked: int = 0
    """Move that the target has, as far as the source heard."""


class State(NamedTuple):
    versions: tuple[Version, ...] = (("S", 0),)
    source: Shard = Shard(live=0)
    target: Shard = Shard()
    sent: frozenset[Message] = frozenset()
    """Everything that was ever sent: it may arrive at any time, again and again, or never."""
    begun: int = 0
    changes: int = 0
    crashes: int = 0


class Rules(NamedTuple):
    """What the mutants switch off."""

    boxed_before_offered: bool = True
    finished_after_acknowledged: bool = True
    target_waits_for_map: bool = True
    source_waits_for_map: bool = True
    map_checks_move: bool = True
    target_checks_move: bool = True


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    owner, moving = s.versions[-1]
    newest = len(s.versions) - 1
    if not moving and owner == "S" and s.begun < MOVES_MAX:
        yield "begin", s._replace(versions=(*s.versions, ("S", s.begun + 1)), begun=s.begun + 1)
    for kind, move, _ in sorted(s.sent):
        if kind == "finish" and moving and (moving == move or not rules.map_checks_move):
            yield f"finish {move}", s._replace(versions=(*s.versions, ("T", 0)))
        if kind == "abandon" and moving == move:
            yield f"abandon {move}", s._replace(versions=(*s.versions, ("S", 0)))
    for name, shard in (("source", s.source), ("target", s.target)):
        if shard.knows < newest:
            yield f"{name} learns", _put(s, name, shard._replace(knows=shard.knows + 1))
        if not shard.is_durable:
            yield f"{name} append lands", _put(s, name, shard._replace(is_durable=True))
        if shard.live >= 0 and s.changes < CHANGES_MAX:
            yield f"{name} changes", _put(s, name, shard._replace(live=shard.live + 1))._replace(changes=s.changes + 1)
    yield from _source(s, rules)
    yield from _target(s, rules)
    if s.crashes < CRASHES_MAX:
        crashed = s._replace(crashes=s.crashes + 1)
        for name, shard in (("source", s.source), ("target", s.target)):
            again = shard._replace(knows=newest, is_durable=True, acked=0)
            yield f"{name} crashes", _put(crashed, name, again)
            if (
                name == "source" and not shard.is_durable and shard.box is not None
            ):  # the entry that boxed it never landed
                yield f"{name} crashes, box lost", _put(crashed, name, again._replace(live=shard.box[1], box=None))


def _source(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    source = s.source
    owner, moving = s.versions[source.knows]
    if moving and source.live >= 0:
        yield "box", _put(s, "source", source._replace(live=-1, box=(moving, source.live), is_durable=False))
    if source.box is None:
        return
    move, value = source.box
    if moving == move and (source.is_durable or not rules.boxed_before_offered):
        yield "offer", _send(s, ("offer", move, value))
        if ("have", move, 0) in s.sent and source.acked != move:
            yield "hear", _put(s, "source", source._replace(acked=move))
        if source.acked == move or not rules.finished_after_acknowledged:
            yield "ask to finish", _send(s, ("finish", move, 0))
        yield "give up", _send(s, ("abandon", move, 0))
    if source.is_durable and (moving != move or (not rules.source_waits_for_map and ("abandon", move, 0) in s.sent)):
        live = value if owner == "S" else -1
        yield "source follows the map", _put(s, "source", source._replace(live=live, box=None))


def _target(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    target = s.target
    owner, moving = s.versions[target.knows]
    for kind, move, value in sorted(s.sent):
        if kind == "offer" and target.live < 0 and (moving == move or not rules.target_checks_move):
            if target.box is None or target.box[0] != move:
                yield f"receive {move}", _put(s, "target", target._replace(box=(move, value), is_durable=False))
            elif target.is_durable:
                yield f"acknowledge {move}", _send(s, ("have", move, 0))
    if target.box is not None and target.is_durable:
        move, value = target.box
        if moving != move or not rules.target_waits_for_map:
            live = value if owner == "T" or not rules.target_waits_for_map else -1
            yield "target follows the map", _put(s, "target", target._replace(live=live, box=None))


def _put(s: State, name: str, shard: Shard) -> State:
    return s._replace(source=shard) if name == "source" else s._replace(target=shard)


def _send(s: State, message: Message) -> State:
    return s._replace(sent=s.sent | {message})


def broken(s: State) -> str:
    if s.source.live >= 0 and s.target.live >= 0:
        return "the part is live at both"
    for name, shard in (("source", s.source), ("target", s.target)):
        if shard.live >= 0 and shard.live != s.changes:
            return f"the {name} has {shard.live} of {s.changes} changes"
    owner, _ = s.versions[-1]
    if owner == "T" and s.target.live < 0 and s.target.box is None:
        return "the map says that the target owns it, and it has nothing"
    return ""


def at_rest(s: State) -> bool:
    """No move is under way, and the owner by the map has the part."""
    owner, moving = s.versions[-1]
    return not moving and (s.source if owner == "S" else s.target).live >= 0


def check(rules: Rules) -> Result:
    return explore(
        State(),
        lambda state: steps(state, rules),
        broken,
        at_rest=at_rest,
        fair=lambda name: "crash" not in name and name != "begin",
    )
