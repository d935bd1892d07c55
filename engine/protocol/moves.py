"""Moves of a part (a slot with its orders and keys, a node with its stock and legs, a band of empty slots) between two shards.

The placement map, journaled by the control shard, says which part is on its way (`moving`) and who owns what. It alone decides;
both shards follow it, whatever they have missed.

M1  The source asks whether the target is there, parts legs from records (moving_parts.py), closes the door, and boxes the part: one
    entry, after which nothing of it is live and nothing of it is decided here any more.
M2  Chunks of the box are journaled by the target, in order, each acknowledged when durable. When all are, and only then, the
    source asks the control shard to finish; the control shard's entry is the commit point.
M3  What the map says opens or ends a box: finished = the target opens it, the source forgets it; given up = the source opens it again,
    the target forgets it. A shard that was away finds the same in the map it starts with.
M4  Commands for a closed or boxed part wait at the source, bounded; they are then answered `moved`, having done nothing, or decided
    here where the move was given up. Keys move with the part: a repeat gets the first answer.
    What is seen of a boxed node stays, as a view of the target: orders plan with it, and their TRY waits there until it is opened.
M5  A move of which nothing is heard FINISH_MS after it was boxed, or after the last chunk that was acknowledged, is given up: by
    the same control shard, so that it is one or the other.
M6  Transactions that a slot's next home begins have greater numbers than all that its homes before began (`txn_offset`), so that
    their order stays that of time. None is open while a slot moves: the door is closed, and those under way end first.
M7  A shard whose map gives a node to another owner asks that one for the node's stock: its view of the node was of the old one.

Model: tests/sim/models/move_model.py; lives with a crash at every step: tests/sim/move_scenarios.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.domain.boxes import Box, digest_of
from engine.domain.commands import Command
from engine.domain.config import Move
from engine.domain.decide_orders import refuse
from engine.domain.move_commands import AbandonMove, FinishMove, OfferPart, ShowNode
from engine.domain.move_events import LegsParted, PartBoxed, PartForgotten, PartOpened, PartReceived
from engine.domain.placement import CONTROL_SHARD, band_of_slot
from engine.domain.problems import CODES
from engine.domain.replies import Done, Problem, Reply, ViewUpdate
from engine.protocol.effects import Answer
from engine.protocol.moving_parts import keep_grace, node_came, node_leaves, part_legs, slot_came, slot_leaves

if TYPE_CHECKING:
    from engine.domain.events import Event
    from engine.protocol.shard_core import ShardCore

ORDERS_PER_POLL = 256
"""Orders looked at in one poll while legs are parted: about a millisecond."""
CLOSE_MS = 700
"""How long transactions of a slot may take to end after its door was closed."""
FINISH_MS = 900
READY_MS = 2_000
AGAIN_MS = 100
CHUNK_AGAIN_MS = 300
"""A chunk is a megabyte to send and to journal: sent again too soon it stands in its own way."""
PARKED_MAX = 20_000


class _Leaving:
    """A part that is to leave this shard, before it is boxed."""

    def __init__(self, core: ShardCore, move: Move, now_ms: int) -> None:
        self.move = move
        self.part = _internal(core, move.part)
        kind, _, name = self.part.partition(":")
        self.slot = name if kind == "slot" else ""
        self.node = int(name) if kind == "node" else -1
        self.band = int(name) if kind == "band" else -1
        self.since_ms = now_ms
        self.is_ready = False
        self.scan = self._orders(core)
        self.noted: dict[tuple[str, int], None] = {}
        """Orders that changed since they were looked at."""
        self.closed_ms = 0
        """When the door was closed; 0 = it is open."""

    def _orders(self, core: ShardCore) -> Iterator[tuple[str, int]]:
        for slot in [self.slot] if self.slot else list(core.state.slots) if self.node >= 0 else []:
            part = core.state.slots.get(slot)
            for order_no in list(part.orders) if part is not None else ():
                yield slot, order_no


class Moves:
    """The part of one shard in moves, source and target."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self.active = False
        """Whether `tick` has anything to do. A shard without moves pays one look at this a poll."""
        self.watching = False
        """Whether events that are put are to be noted."""
        self._leaving: _Leaving | None = None
        self._gave_up = 0
        """Newest move that this shard asked to be given up."""
        self._boxed_ms: dict[str, int] = {}
        self._parked: list[tuple[int, int, Command]] = []
        self._acked = 0
        """Chunks of the box that the target has."""
        self._heard_ms = 0
        """When the target was first asked for the next chunk, or the control shard to finish; 0 = not yet (M5)."""
        self._asked: dict[int, tuple[str, int]] = {}
        """What each open question is about, and of which move, by correlation id."""
        self._again_ms = 0
        self._shows: dict[int, int] = {}
        """When to ask for a node's stock again, by node."""
        self._show_of: dict[int, int] = {}
        self._owner: list[int] = []
        self._placement: object = None
        self.last_stop_ms = 0
        """How long the part of the last move was closed here."""

    # -- what the rest of the shard asks ----------------------------------------------------------------------------

    def configured(self) -> None:
        """The map may have changed. Nothing is put here: that is for the next poll."""
        catalog = self._core.catalog
        if catalog.placement is self._placement:
            return
        is_first, self._placement = self._placement is None, catalog.placement
        if not is_first:
            for node, (old, new) in enumerate(zip(self._owner, catalog.owner, strict=False)):
                if old != new and new != catalog.shard:
                    self._shows[node] = 0
        self._owner = list(catalog.owner)
        moving = catalog.placement.moving
        if self._shows or self._core.state.boxes or self._leaving is not None:
            self.active = True
        if moving is not None and moving.source == catalog.shard:
            self.active = True

    def recovered(self, now_ms: int) -> None:
        """Boxes came with the journal: what became of them the map says."""
        for part in self._core.state.boxes:
            self._boxed_ms[part] = now_ms
        self._set_away()
        self.configured()
        self.active = self.active or bool(self._core.state.boxes)

    def is_closing(self, slot: str) -> bool:
        """Whether nothing new may begin for a slot: it is about to be boxed."""
        leaving = self._leaving
        return leaving is not None and leaving.closed_ms > 0 and leaving.slot == slot

    def turn_away(
        self, conn: int, corr: int, command: Command, problem: Problem, *, slot: str = "", node: int = -1
    ) -> None:
        """A command for a part that is not ours: it waits where the part is on its way from or to here, else it has `moved` (M4)."""
        catalog = self._core.catalog
        is_here = catalog.away and (f"node:{node}" in catalog.away if node >= 0 else catalog.is_away(slot))
        if (is_here or (node >= 0 and self._is_coming(f"node:{node}"))) and len(self._parked) < PARKED_MAX:
            self._parked.append((conn, corr, command))
            self.active = True
        else:
            self._core.answer(conn, corr, problem)

    def _is_coming(self, part: str) -> bool:
        """Whether the map says that a part, or "" = any, is on its way to this shard."""
        moving = self._core.catalog.placement.moving
        return (
            moving is not None
            and moving.target == self._core.shard
            and part in ("", _internal(self._core, moving.part))
        )

    def note(self, events: Sequence[Event]) -> None:
        """Orders changed while a part is being made ready."""
        leaving = self._leaving
        if leaving is None or leaving.band >= 0:  # a band takes no orders with it
            return
        for event in events:
            if type(event) is LegsParted:  # by `_make_ready` itself: once is enough
                continue
            order_no = getattr(event, "order_no", None)
            slot = getattr(event, "slot", None)
            if order_no is not None and slot is not None and leaving.slot in ("", slot):
                leaving.noted[(slot, order_no)] = None

    # -- the loop -------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        core = self._core
        moving = core.catalog.placement.moving
        for part, box in list(core.state.boxes.items()):
            self._follow_map(part, box, moving, now_ms)
        is_source = moving is not None and moving.source == core.shard and moving.move_id > self._gave_up
        if (
            moving is not None
            and is_source
            and self._leaving is None
            and _internal(core, moving.part) not in core.state.boxes
        ):
            self._leaving = _Leaving(core, moving, now_ms)
            self._again_ms = 0
            self.watching = True
        leaving = self._leaving
        if leaving is not None:
            if moving is None or moving.move_id != leaving.move.move_id or moving.move_id <= self._gave_up:
                self._stay()
            else:
                self._prepare(leaving, now_ms)
        if moving is not None:
            mine = core.state.boxes.get(_internal(core, moving.part))
            if mine is not None and mine.target >= 0 and mine.move_id == moving.move_id:
                self._hand_over(_internal(core, moving.part), mine, now_ms)
        if self._parked and not core.catalog.away and not self._is_coming(""):
            self._release_parked(now_ms)  # given up before a chunk came
        self._ask_for_nodes(now_ms)
        self.active = bool(core.state.boxes or self._leaving or self._shows or self._parked)

    def wake_at_ms(self, now_ms: int) -> int | None:
        if not self.active:
            return None
        leaving = self._leaving
        if leaving is not None and leaving.is_ready and not leaving.closed_ms:
            return now_ms + 1
        if leaving is not None and leaving.closed_ms:
            return now_ms + 2
        return now_ms + 20

    def _follow_map(self, part: str, box: Box, moving: Move | None, now_ms: int) -> None:
        """M3."""
        core = self._core
        if core.catalog.version < box.move_id:
            return  # a map from before the move began: it was fetched while the process before this one still wrote
        if moving is not None and moving.move_id == box.move_id:
            return
        if _owner_by_map(core, part) == core.shard:
            self._open(part, box, now_ms)
        else:
            core.put(core.batch(now_ms), PartForgotten(box.move_id, part))
        stopped_ms = now_ms - self._boxed_ms.pop(part, now_ms)
        if box.target >= 0 and part not in core.state.boxes and _owner_by_map(core, part) != core.shard:
            self.last_stop_ms = stopped_ms
            core.counts["moves_stopped_ms"] += stopped_ms
            core.count("parts_left")
        self._set_away()
        self._release_parked(now_ms)
        core.stock_feed.begin_again()

    def _open(self, part: str, box: Box, now_ms: int) -> None:
        core, state = self._core, self._core.state
        kind, _, name = part.partition(":")
        offset = state.txn_offset
        if kind == "slot" and box.target < 0:
            offset = max(offset, box.txn_epoch + 1 - core.epoch)  # M6
        state.time_ms = max(state.time_ms, box.time_ms + 1)  # what is decided here comes after what was decided there
        is_ours = box.target >= 0
        core.put(core.batch(now_ms), PartOpened(box.move_id, part, box.source, 0 if is_ours else box.seq, offset))
        if kind == "slot":
            slot_came(core, name, now_ms)
        elif kind == "node":
            node_came(core, int(name), now_ms)
        core.count("parts_opened")

    def _set_away(self) -> None:
        """Routing follows the boxes: what is in one is not ours, whatever the map says."""
        core = self._core
        away = {
            part: (box.target if box.target >= 0 else box.source, box.kept_slots)
            for part, box in core.state.boxes.items()
        }
        leaving = self._leaving
        if leaving is not None and leaving.closed_ms:
            away.setdefault(leaving.part, (leaving.move.target, self._slots_kept(leaving)))
        core.catalog.set_away(away)
        self._owner = list(core.catalog.owner)
        core.views.forget_slots()

    def _release_parked(self, now_ms: int) -> None:
        """M4: they are looked at again; what is not ours any more is answered `moved` then."""
        parked, self._parked = self._parked, []
        for conn, corr, command in parked:
            self._core.receive(conn, corr, command, now_ms=now_ms)

    # -- the source, until the part is boxed ------------------------------------------------------------------------

    def _stay(self) -> None:
        """The part does not leave after all."""
        self._leaving = None
        self.watching = False
        self._set_away()
        self._release_parked(0)

    def _give_up(self, move: Move) -> None:
        """M5."""
        self._gave_up = max(self._gave_up, move.move_id)
        self._core.count("moves_given_up")
        self._core.send(CONTROL_SHARD, AbandonMove(move.move_id))

    def _prepare(self, leaving: _Leaving, now_ms: int) -> None:
        core = self._core
        if not leaving.is_ready:
            if now_ms - leaving.since_ms > READY_MS:
                self._give_up(leaving.move)
                self._stay()
            elif now_ms >= self._again_ms:
                self._again_ms = now_ms + AGAIN_MS
                corr = core.send(leaving.move.target, OfferPart(leaving.move.move_id, leaving.part, core.shard))
                self._asked[corr] = ("ready", leaving.move.move_id)
            return
        for _ in range(ORDERS_PER_POLL):
            if not core.has_room():
                return
            found = next(leaving.scan, None)
            if found is None:
                break
            self._make_ready(leaving, *found, now_ms)
        else:
            return
        if not leaving.closed_ms:
            leaving.closed_ms = now_ms
            self._boxed_ms[leaving.part] = now_ms
            self._set_away()
        if leaving.slot and not self._is_quiet(leaving.slot):
            if now_ms - leaving.closed_ms > CLOSE_MS:
                self._give_up(leaving.move)
                self._stay()
            return
        noted = list(leaving.noted)
        leaving.noted.clear()
        for slot, order_no in noted:
            self._make_ready(leaving, slot, order_no, now_ms)
        self._box(leaving, now_ms)

    def _make_ready(self, leaving: _Leaving, slot: str, order_no: int, now_ms: int) -> None:
        """What is said of an order elsewhere than in the part that leaves goes into it, or out of it (moving_parts.py)."""
        core = self._core
        if leaving.slot and core.state.grace_until_ms > now_ms:
            keep_grace(core, slot, order_no, now_ms=now_ms)
        part_legs(core, slot, order_no, leaving.node, now_ms=now_ms)

    def _is_quiet(self, slot: str) -> bool:
        """Nothing is under way for a slot's orders (M6)."""
        core = self._core
        return not (core.flights.any_in(slot) or core.two_phase.any_in(slot) or core.replans.any_in(slot))

    def _slots_kept(self, leaving: _Leaving) -> tuple[str, ...]:
        """Slots of a band that have something, or are about to, and stay."""
        if leaving.band < 0:
            return ()
        core = self._core
        placement = core.catalog.placement
        used = [
            slot for slot, part in core.state.slots.items() if part.orders or len(part.dedupe) or part.dedupe.cutoff_ms
        ]
        return tuple(
            sorted(
                slot
                for slot in {*used, *core.flights.slots()}
                if slot not in placement.slots and band_of_slot(placement, slot) == leaving.band
            )
        )

    def _box(self, leaving: _Leaving, now_ms: int) -> None:
        core = self._core
        move, part = leaving.move, leaving.part
        kept = self._slots_kept(leaving)
        seen = None
        if leaving.slot:
            slot_leaves(core, leaving.slot)
        elif leaving.node >= 0:
            seen = core.views.node_update(leaving.node)
            node_leaves(core, leaving.node)
        core.put(core.batch(now_ms), PartBoxed(move.move_id, part, move.target, kept))
        self._leaving = None
        self.watching = False
        self._acked = 0
        self._heard_ms = 0
        self._again_ms = 0
        self._set_away()
        if seen is not None:  # M4
            core.views.update(replace(seen, shard=move.target), now_ms)

    # -- the source, with a box -------------------------------------------------------------------------------------

    def _hand_over(self, part: str, box: Box, now_ms: int) -> None:
        """M2."""
        core = self._core
        if core.durable_seq < box.seq or box.move_id <= self._gave_up:
            if box.move_id <= self._gave_up and now_ms >= self._again_ms:  # the question may have been lost
                self._again_ms = now_ms + AGAIN_MS
                core.send(CONTROL_SHARD, AbandonMove(box.move_id))
            return
        self._boxed_ms.setdefault(part, now_ms)
        self._heard_ms = self._heard_ms or now_ms
        if now_ms - self._heard_ms > FINISH_MS:
            self._give_up(Move(move_id=box.move_id, part=part, source=box.source, target=box.target))
            return
        if now_ms < self._again_ms:
            return
        self._again_ms = now_ms + AGAIN_MS
        if self._acked >= box.of:
            core.send(CONTROL_SHARD, FinishMove(box.move_id, box.kept_slots))
            return
        offer = OfferPart(
            box.move_id,
            part,
            core.shard,
            self._acked,
            box.of,
            box.chunks[self._acked],
            box.digest,
            box.seq,
            box.time_ms,
            core.epoch + core.state.txn_offset,
        )
        self._again_ms = now_ms + CHUNK_AGAIN_MS
        self._asked[core.send(box.target, offer)] = ("chunk", box.move_id)

    def replied(self, corr: int, reply: Reply) -> bool:
        """An answer to a question of moves; False = the correlation id is none of ours."""
        node = self._show_of.pop(corr, None)
        if node is not None:
            self._shown(node, reply)
            return True
        asked = self._asked.pop(corr, None)
        if asked is None:
            return False
        what, move_id = asked
        if isinstance(reply, Done) and move_id == self._move_under_way():
            if what == "ready" and self._leaving is not None:
                self._again_ms = 0
                self._leaving.is_ready = True
            elif what == "chunk" and reply.detail > self._acked:  # else it is of one sent twice, or nothing has come
                self._again_ms = self._heard_ms = 0
                self._acked = reply.detail
        return True

    def _move_under_way(self) -> int:
        """The move that a part leaves by; 0 = none. What a target says of an earlier one is no answer about this one."""
        if self._leaving is not None:
            return self._leaving.move.move_id
        return max((box.move_id for box in self._core.state.boxes.values() if box.target >= 0), default=0)

    # -- the target -------------------------------------------------------------------------------------------------

    def offered(self, conn: int, corr: int, command: OfferPart, now_ms: int) -> None:
        """M2: journal a chunk, say how many there are."""
        core = self._core
        moving = core.catalog.placement.moving
        if moving is None or moving.move_id != command.move_id or moving.target != core.shard:
            core.answer(conn, corr, refuse("moved", "", f"move {command.move_id} is not known here (yet)"))
            return
        box = core.state.boxes.get(command.part)
        if not command.of:
            core.answer(conn, corr, Done(0))
            return
        if box is not None and box.move_id > command.move_id:
            core.answer(conn, corr, refuse("moved", "", "a newer move of this part is under way"))
            return
        same = box is not None and box.move_id == command.move_id and (box.is_whole or box.digest == command.digest)
        if box is not None and not same:
            core.put(core.batch(now_ms), PartForgotten(box.move_id, command.part))
            box = None
        have = len(box.chunks) if box is not None else 0
        if command.n == have and (box is None or not box.is_whole):
            batch = core.batch(now_ms)
            batch.size += len(command.data)
            core.put(
                batch,
                PartReceived(
                    command.move_id,
                    command.part,
                    command.source,
                    command.n,
                    command.of,
                    command.data,
                    command.digest,
                    command.seq,
                    command.time_ms,
                    command.txn_epoch,
                ),
            )
            have += 1
            self.active = True
            whole = core.state.boxes[command.part]
            if whole.is_whole and digest_of(whole.data) != command.digest:
                core.put(core.batch(now_ms), PartForgotten(command.move_id, command.part))
                have = 0
            self._set_away()
        core.answer(conn, corr, Done(have))

    # -- views ------------------------------------------------------------------------------------------------------

    def _ask_for_nodes(self, now_ms: int) -> None:
        """M7."""
        core = self._core
        for node, due_ms in list(self._shows.items()):
            owner = core.catalog.owner[node]
            if owner == core.shard or f"node:{node}" in core.catalog.away:
                del self._shows[node]
            elif now_ms >= due_ms:
                self._shows[node] = now_ms + AGAIN_MS
                self._show_of[core.send(owner, ShowNode(node))] = node

    def _shown(self, node: int, reply: Reply) -> None:
        core = self._core
        if node not in self._shows or not isinstance(reply, ViewUpdate):
            return
        if reply.shard != core.catalog.owner[node] or (reply.epoch, reply.seq) < core.views.point(reply.shard):
            return  # the owner has shown newer values meanwhile: ask again
        del self._shows[node]
        core.views.update(reply, 0)


def show_node(core: ShardCore, conn: int, corr: int, command: ShowNode, now_ms: int) -> None:
    """An owner's values of one node, at once (V1)."""
    if not core.catalog.owns_node(command.node):
        core.answer(conn, corr, Problem("moved", CODES["moved"].title))
        return
    core.answers_now([Answer(conn, corr, core.views.node_update(command.node))])


def _internal(core: ShardCore, part: str) -> str:
    """A part as shards call it: nodes by index."""
    kind, _, name = part.partition(":")
    return f"node:{core.catalog.node_of.get(name, -1)}" if kind == "node" else part


def _owner_by_map(core: ShardCore, part: str) -> int:
    from engine.domain.placement import shard_of_band, shard_of_node, shard_of_slot

    catalog = core.catalog
    kind, _, name = part.partition(":")
    if kind == "slot":
        return shard_of_slot(catalog.placement, name)
    if kind == "band":
        return shard_of_band(catalog.placement, int(name))
    node = catalog.nodes[int(name)]
    assert node is not None, "a node that was boxed has a document"
    return shard_of_node(catalog.placement, node)
