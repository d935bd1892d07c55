"""Deciding moves between shards, and shards that come and go: what the control shard makes of the placement map. Pure.

The map is the only decision. A move is begun, finished or given up by one entry of the control shard's journal each; whatever the
two shards have done meanwhile follows from what the map then says (engine/protocol/moves.py).
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from engine.domain.config import Move, Node, Placement
from engine.domain.config_state import ConfigState
from engine.domain.decide_orders import refuse
from engine.domain.events import ConfigPut
from engine.domain.ids import slot_of
from engine.domain.move_commands import AbandonMove, AddShard, AdmitShard, BeginMove, EndShard, FinishMove
from engine.domain.placement import band_count, band_of_slot, shard_of_band, shard_of_node, shard_of_slot
from engine.domain.replies import Problem

MoveCommand = BeginMove | FinishMove | AbandonMove | AddShard | AdmitShard | EndShard
SHARDS_MAX = 64
SHARDS_EVER = 250
_SLOT = re.compile(r"[A-Z]{2}[0-9A-Z]{0,3}")
_encode = msgspec.json.Encoder(order="deterministic").encode


def placement_of(state: ConfigState) -> Placement | None:
    stored = state.kinds["placement"].get("")
    return msgspec.json.decode(stored.document, type=Placement) if stored is not None else None


def decide_move(state: ConfigState, command: MoveCommand) -> ConfigPut | Problem | None:
    """The event that stores the new map; None where nothing changes."""
    old = placement_of(state)
    if old is None:
        return refuse("not_found", "", "there is no placement map yet")
    new = _decide(state, old, command)
    if isinstance(new, Problem):
        return new
    if new == old:
        return None
    index = state.kinds["placement"].index_of[""]
    return ConfigPut("placement", ((index, "", state.version + 1, _encode(new)),))


def _decide(state: ConfigState, old: Placement, command: MoveCommand) -> Placement | Problem:
    if isinstance(command, BeginMove):
        return _begin(state, old, command)
    if isinstance(command, FinishMove):
        return _finish(state, old, command)
    if isinstance(command, AbandonMove):
        is_that = old.moving is not None and old.moving.move_id == command.move_id
        return replace(old, moving=None) if is_that else old
    if isinstance(command, AddShard):
        number = old.shard_count
        if 0 <= command.number < number:
            return old  # a repeat
        if command.number > number:
            return refuse("invalid_field", "/number", f"the next shard is shard {number}", number=number)
        if len(old.ended) + SHARDS_MAX <= number or number >= SHARDS_EVER:
            return refuse("invalid_field", "", f"at most {SHARDS_MAX} shards at once, and {SHARDS_EVER} ever")
        return replace(old, shard_count=number + 1, bands=band_count(old), joining=[*old.joining, number])
    if isinstance(command, AdmitShard):
        return replace(old, joining=[shard for shard in old.joining if shard != command.shard])
    return _end(state, old, command.shard)


def owner_of_part(state: ConfigState, placement: Placement, part: str) -> int | Problem:
    """Who owns a part as operators call it; a problem where there is no such part."""
    kind, _, name = part.partition(":")
    if kind == "slot" and _SLOT.fullmatch(name):
        return shard_of_slot(placement, name)
    if kind == "node":
        node = _node(state, name)
        if node is None:
            return refuse("unknown_node", "/part", f"no node {name!r}")
        return shard_of_node(placement, node)
    if kind == "band" and name.isascii() and name.isdigit() and str(int(name)) == name:
        if int(name) >= band_count(placement):
            return refuse("invalid_field", "/part", f"there are {band_count(placement)} bands, the first is band:0")
        return shard_of_band(placement, int(name))
    return refuse("invalid_field", "/part", "slot:US100, node:NODE or band:0")


def _node(state: ConfigState, name: str) -> Node | None:
    stored = state.kinds["node"].get(name)
    return msgspec.json.decode(stored.document, type=Node) if stored is not None else None


def _begin(state: ConfigState, old: Placement, command: BeginMove) -> Placement | Problem:
    source = owner_of_part(state, old, command.part)
    if isinstance(source, Problem):
        return source
    moving = old.moving
    if moving is not None and (moving.part, moving.target) == (command.part, command.target):
        return old
    if not 0 <= command.target < old.shard_count or command.target in (*old.joining, *old.ended):
        return refuse("invalid_field", "/target", f"shard {command.target} does not serve", target=command.target)
    if source == command.target:
        return old
    if moving is not None:
        detail = f"{moving.part} is on its way from shard {moving.source} to {moving.target}: one at a time"
        return refuse("wrong_state", "/part", detail, part=moving.part)
    move = Move(move_id=state.version + 1, part=command.part, source=source, target=command.target)
    return replace(old, moving=move, bands=band_count(old))


def _finish(state: ConfigState, old: Placement, command: FinishMove) -> Placement | Problem:
    move = old.moving
    if move is None or move.move_id != command.move_id:
        return refuse("not_found", "", f"no move {command.move_id} is under way")
    kind, _, name = move.part.partition(":")
    if kind == "node":
        return replace(old, moving=None, nodes={**old.nodes, name: move.target})
    if kind == "slot":
        return replace(
            old,
            moving=None,
            slots={**old.slots, name: move.target},
            nodes={**old.nodes, **_pins(state, old, slot=name)},
        )
    return replace(
        old,
        moving=None,
        band_owner={**old.band_owner, name: move.target},
        slots={**dict.fromkeys(command.kept_slots, move.source), **old.slots},
        nodes={**old.nodes, **_pins(state, old, band=int(name))},
    )


def _pins(state: ConfigState, placement: Placement, *, slot: str = "", band: int = -1) -> dict[str, int]:
    """Nodes that are not listed and would go with a slot or a band: they stay where their stock is."""
    pins = {}
    for stored in state.kinds["node"].docs:
        if stored is None or stored.name in placement.nodes:
            continue
        node = msgspec.json.decode(stored.document, type=Node)
        place = slot_of(node.country, node.postal_code)
        if place == slot or (slot == "" and place not in placement.slots and band_of_slot(placement, place) == band):
            pins[stored.name] = shard_of_node(placement, node)
    return pins


def _end(state: ConfigState, old: Placement, shard: int) -> Placement | Problem:
    if not 0 <= shard < old.shard_count:
        return refuse("invalid_field", "/shard", f"there is no shard {shard}")
    if shard in old.ended:
        return old
    has = [f"slot:{slot}" for slot, owner in old.slots.items() if owner == shard]
    has += [f"band:{band}" for band in range(band_count(old)) if shard_of_band(old, band) == shard]
    for stored in state.kinds["node"].docs:
        if stored is not None:
            node = msgspec.json.decode(stored.document, type=Node)
            if shard_of_node(old, node) == shard:
                has.append(f"node:{stored.name}")
    if old.moving is not None and shard in (old.moving.source, old.moving.target):
        detail = f"{old.moving.part} is on its way from shard {old.moving.source} to shard {old.moving.target}"
        return refuse("wrong_state", "/shard", detail, part=old.moving.part)
    if has:
        detail = f"shard {shard} still owns {len(has)} parts ({', '.join(has[:5])}): drain it first"
        return refuse("wrong_state", "/shard", detail, parts=len(has))
    return replace(old, ended=[*old.ended, shard], joining=[one for one in old.joining if one != shard])
