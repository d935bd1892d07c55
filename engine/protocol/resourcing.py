"""Positions that promised units which are not on the shelf: unreleased legs give them up and are served from elsewhere.

U1  The owner of a position decides how many units are lacking: held + allocated - on hand. What safety or distrust withholds from
    sale is no reason to break a plan.
U2  Lowest priority first, then newest, over the legs of all homes: each home says which of its legs could give up, the owner
    chooses, and tells each home. A home checks again: released legs stay, and so does a leg that is not what the owner saw, so
    that a repeat, or a lost answer, does no harm.
U3  Units taken out of a leg are parked demand of their order (reason `short`) and planned again at once. The node has nothing
    free while it lacks units, so they never go back to it before it has them. Nobody is refused: what finds no node waits.
U4  A node that is switched off lacks whatever is allocated there: its unreleased legs go elsewhere the same way. One that is
    drained takes nothing new and finishes what it has.
U5  At most POSITIONS_PER_POLL positions a batch; a position that cannot be helped is looked at less and less often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import nlargest
from typing import TYPE_CHECKING

from engine.domain import decide_legs
from engine.domain.commands import FindShortLegs, ResourceLeg
from engine.domain.orders import LegState, OrderState
from engine.domain.replies import Done, Reply, ShortLegs
from engine.domain.state import LEG_NO_MAX
from engine.protocol.placing import moved

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

POSITIONS_PER_POLL = 8
LEGS_SCANNED_MAX = 2_000
"""Legs of a node, newest first, that one look goes through."""
LEGS_ANSWERED_MAX = 200
LOOK_MS = 1_000
LOOK_MAX_MS = 5 * 60_000
ANSWER_MS = 2_000
_Leg = tuple[int, int, int, str, int]
"""(priority, order number, leg number, slot, units that it could give up)"""
_Position = tuple[int, int]
"""(node, item)"""


class _Question:
    """What other homes were asked about a position."""

    __slots__ = ("deadline_ms", "legs", "position", "waiting")

    def __init__(self, position: _Position, deadline_ms: int) -> None:
        self.position = position
        self.deadline_ms = deadline_ms
        self.waiting: dict[int, None] = {}
        """Correlation ids without an answer."""
        self.legs: list[tuple[_Leg, int]] = []
        """(leg, home)"""


def give_up_order(leg: _Leg) -> tuple[int, int, int]:
    """U2."""
    return leg[0], -leg[1], -leg[2]


def legs_at(core: ShardCore, node: int, item: int) -> list[_Leg]:
    """Legs of this home at a node that could give up units of an item, in their order."""
    found: list[_Leg] = []
    work = core.state.work.get(node, {})
    for key in nlargest(LEGS_SCANNED_MAX, work):
        order_no, leg_no = key >> 12, key & LEG_NO_MAX
        record = core.state.order(work[key], order_no)
        leg = decide_legs.find_leg(record, leg_no) if record is not None else None
        if record is None or leg is None or record.state != OrderState.COMMITTED:
            continue
        units = decide_legs.resourceable_units(record, leg, item)
        if units:
            found.append((record.priority, order_no, leg_no, work[key], units))
    found.sort(key=give_up_order)
    return found[:LEGS_ANSWERED_MAX]


class Resourcing:
    """The owner's side, and what a home does when it is told."""

    def __init__(self, core: ShardCore) -> None:
        self._core = core
        self._todo: deque[_Position] = deque()
        self._look_at_ms = 0
        self._waits: dict[_Position, tuple[int, int, int]] = {}
        """(units it lacked, when to look again, how long to wait then) of positions that were looked at."""
        self._questions: dict[_Position, _Question] = {}
        self._by_corr: dict[int, _Question] = {}
        self._off: dict[int, None] = {}
        self._off_version = -1

    @property
    def working(self) -> bool:
        """Whether there is something to do beside short positions."""
        return bool(self._questions or self._todo or self._nodes_off())

    def lacking(self, position: _Position) -> int:
        """U1, U4."""
        positions = self._core.state.positions
        row = positions.find(position[1], position[0])
        if row < 0 or not self._core.catalog.owns_node(position[0]):
            return 0
        if position[0] in self._nodes_off():
            return positions.v_allocated[row]
        return max(0, positions.v_held[row] + positions.v_allocated[row] - positions.v_on_hand[row])

    def _nodes_off(self) -> dict[int, None]:
        """This shard's nodes that are switched off."""
        catalog = self._core.catalog
        if catalog.version != self._off_version:
            self._off_version = catalog.version
            self._off = {
                node: None
                for node, document in enumerate(catalog.nodes)
                if document is not None and document.state == "off" and catalog.owns_node(node)
            }
        return self._off

    def _allocated_at(self, node: int) -> list[_Position]:
        """Positions of a node that have units allocated."""
        positions = self._core.state.positions
        size = positions.size
        rows = (positions.node[:size] == node) & (positions.allocated[:size] > 0)
        return [(node, item) for item in positions.items()[rows].tolist()]

    # -- the loop -------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int, room: Callable[[], int]) -> None:
        """Look at a few short positions (U5), and act on the answers of other homes."""
        for question in [q for q in self._questions.values() if not q.waiting or now_ms >= q.deadline_ms]:
            if room():
                self._conclude(question, now_ms)
        short, off = self._core.state.short_positions, self._nodes_off()
        if now_ms >= self._look_at_ms and not self._todo:
            self._look_at_ms = now_ms + LOOK_MS
            self._todo.extend(
                position for position in short if position not in self._questions and position[0] not in off
            )
            for node in off:
                self._todo.extend(position for position in self._allocated_at(node) if position not in self._questions)
            for position in [p for p in self._waits if p not in short and p[0] not in off]:
                del self._waits[position]
        for _ in range(min(POSITIONS_PER_POLL, len(self._todo))):
            if not room():
                break
            position = self._todo.popleft()
            if (position in short or position[0] in off) and position not in self._questions:
                self._look(position, now_ms)

    def wake_at_ms(self, now_ms: int) -> int | None:
        if self._todo:
            return now_ms + 1
        times = [now_ms + 1 if not q.waiting else q.deadline_ms for q in self._questions.values()]
        if self._core.state.short_positions or self._nodes_off():
            times.append(max(self._look_at_ms, now_ms + 1))
        return min(times, default=None)

    def _look(self, position: _Position, now_ms: int) -> None:
        core = self._core
        lacking = self.lacking(position)
        known = self._waits.get(position)
        if not lacking or (known is not None and known[0] == lacking and now_ms < known[1]):
            return
        wait_ms = min(LOOK_MAX_MS, known[2] * 2) if known is not None and known[0] == lacking else LOOK_MS
        self._waits[position] = (lacking, now_ms + wait_ms, wait_ms)
        node, item = position
        part = core.state.nodes.get(node)
        homes = {
            core.catalog.owner_of_slot(leg.slot): None  # not `leg.home`: the slot may have moved since
            for leg in (part.foreign.values() if part is not None else ())
            if leg.state == LegState.ALLOCATED and any(have_item == item for have_item, _ in leg.lines)
        }
        question = _Question(position, now_ms + ANSWER_MS)
        homes.pop(core.shard, None)  # its own legs it knows, wherever they are held
        for home in sorted(homes):
            corr = core.send(home, FindShortLegs(node, item, lacking))
            question.waiting[corr] = None
            self._by_corr[corr] = question
        if question.waiting:
            self._questions[position] = question
        else:
            self._choose(question, now_ms)

    def replied(self, corr: int, reply: Reply) -> bool:
        """An answer of another home; False = the correlation id is none of ours."""
        question = self._by_corr.pop(corr, None)
        if question is None:
            return False
        question.waiting.pop(corr, None)
        if isinstance(reply, ShortLegs):
            state = self._core.state
            for leg in reply.legs:
                found = state.foreign_leg(leg[1], leg[2])
                if found is not None and found[0] == question.position[0]:
                    question.legs.append((leg, self._core.catalog.owner_of_slot(leg[3])))
        return True

    def _conclude(self, question: _Question, now_ms: int) -> None:
        for corr in question.waiting:
            self._by_corr.pop(corr, None)
        del self._questions[question.position]
        self._choose(question, now_ms)

    def _choose(self, question: _Question, now_ms: int) -> None:
        """Take legs until what is lacking is covered (U2)."""
        core = self._core
        node, item = question.position
        legs = [(leg, core.shard) for leg in legs_at(core, node, item)] + question.legs
        legs.sort(key=lambda entry: give_up_order(entry[0]))
        left = self.lacking(question.position)
        for (_, order_no, leg_no, slot, units), home in legs:
            if left <= 0:
                break
            wanted = min(left, units)
            if home == core.shard:
                left -= take(core, slot, order_no, leg_no, item, wanted, now_ms)
                continue
            found = core.state.foreign_leg(order_no, leg_no)
            had = dict(found[1].lines).get(item, 0) if found is not None else 0
            if had:
                core.send(home, ResourceLeg(slot, order_no, leg_no, node, item, wanted, had))
                left -= wanted


def take(core: ShardCore, slot: str, order_no: int, leg_no: int, item: int, units: int, now_ms: int) -> int:
    """Take units out of a leg of this home and plan them again (U3); returns how many of the item were taken."""
    record = core.state.order(slot, order_no)
    leg = decide_legs.find_leg(record, leg_no) if record is not None else None
    if record is None or leg is None or not decide_legs.resourceable_units(record, leg, item):
        return 0
    change = decide_legs.resource(record, leg, item, units)
    taken = sum(some for i, some in change.freed if record.lines[i].item == item)
    batch = core.batch(now_ms)
    decide_legs.park_freed(core.catalog, record, change.freed, reason="short", now_ms=batch.time_ms)
    core.put_order(batch, change.cause, slot, order_no, record, change.stock, change.capacity)
    core.count("legs_resourced")
    core.replans.start(slot, order_no, now_ms=now_ms)
    return taken


# -- a home is asked, and told --------------------------------------------------------------------------------------


def find_legs(core: ShardCore, conn: int, corr: int, command: FindShortLegs, now_ms: int) -> None:
    core.answer(conn, corr, ShortLegs(tuple(legs_at(core, command.node, command.item))))


def resource_leg(core: ShardCore, conn: int, corr: int, command: ResourceLeg, now_ms: int) -> None:
    if not core.views.owns_slot(command.slot):
        core.answer(conn, corr, moved(core, command.slot))
        return
    record = core.state.order(command.slot, command.order_no)
    leg = decide_legs.find_leg(record, command.leg_no) if record is not None else None
    taken = 0
    if record is not None and leg is not None and leg.node == command.node:
        has = sum(units for i, units in leg.lines if record.lines[i].item == command.item)
        if has == command.had:
            taken = take(core, command.slot, command.order_no, command.leg_no, command.item, command.units, now_ms)
    core.answer(conn, corr, Done(taken))
