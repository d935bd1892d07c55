"""What the shard does with each command: look up, decide (domain), put, answer. No rule lives here, only the order of steps.

New orders are placed in groups (placing.py); reads are in reads.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.domain import decide_legs, decide_stock, demand
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelDemand,
    CancelInbound,
    CancelOrder,
    ClearHolds,
    Command,
    CommitHold,
    CountStock,
    DriveLeg,
    DumpPart,
    EditOrder,
    ExplainNode,
    ExtendHold,
    FindItems,
    FindKey,
    FindShortLegs,
    FindStores,
    FollowStock,
    FollowView,
    GetAvailability,
    GetDecision,
    GetNodeWork,
    GetOrder,
    GetStatus,
    GetStockPage,
    ListDemand,
    ListInbound,
    ListLegs,
    ListShort,
    PrioritiseDemand,
    PutInbound,
    QuoteOrder,
    ReadDemandLog,
    ReceiveInbound,
    ReleaseHold,
    ResolveTxn,
    ResourceLeg,
    SetPosition,
    ShowDemand,
    TakeTurn,
    TryLegs,
)
from engine.domain.decide_legs import Change
from engine.domain.decide_orders import refuse
from engine.domain.events import InboundSet, PositionSet, StockCounted, StockMoved
from engine.domain.ids import OrderRef, order_no_time_ms, public_id
from engine.domain.inbound import receive
from engine.domain.move_commands import ListParts, OfferPart, ShowNode
from engine.domain.orders import LegState, OrderRecord, OrderState
from engine.domain.problems import CODES
from engine.domain.replies import Done, Problem, ProblemItem, StockReply
from engine.domain.supply import resettled
from engine.protocol import demand_reads, explaining, inbound, reads, recommit, resourcing
from engine.protocol.changing import put_change
from engine.protocol.effects import Answer
from engine.protocol.moves import show_node
from engine.protocol.node_work import node_work
from engine.protocol.parts_list import list_parts
from engine.protocol.placing import answer_repeat, key_too_old, moved, no_room_for_key
from engine.protocol.stock_feed import find_items, follow_stock, get_stock_page
from engine.protocol.stores import find_stores

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

BEGINS = ("release", "accept", "pick")
LEGS_SHORT_MAX = 1_000
LEGS_LOOKED_AT_MAX = 5_000


def handle(core: ShardCore, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
    """Decide one command that is not a PlaceOrder (those go in groups)."""
    handler = _HANDLERS.get(type(command))
    if handler is None:
        core.answer(conn, corr, refuse("not_found", "", f"{type(command).__name__} is not for a stock shard"))
        return
    handler(core, conn, corr, command, now_ms)


# -- open orders --------------------------------------------------------------------------------------------------


def _find(core: ShardCore, conn: int, corr: int, command: Any, now_ms: int) -> OrderRecord | None:
    """The order a command names, or None after answering: moved, a repeat, a key that may be one, or not found."""
    if not core.views.owns_slot(command.slot):
        core.moves.turn_away(conn, corr, command, moved(core, command.slot), slot=command.slot)
        return None
    part = core.state.slots.get(command.slot)
    if part is not None and command.key_hash:
        known = part.dedupe.get(command.key_hash)
        if known is not None:
            answer_repeat(core, conn, corr, command.slot, known[1], known[0] == command.fingerprint)
            return None
        too_old = key_too_old(core, part.dedupe, command.key_ms, now_ms)
        if too_old is not None:
            core.answer(conn, corr, too_old)
            return None
    record = core.state.order(command.slot, command.order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "no such order"))
    return record


def _settle(
    core: ShardCore,
    conn: int,
    corr: int,
    command: Any,
    record: OrderRecord,
    change: Change | Problem,
    now_ms: int,
    reason: str = "",
) -> bool:
    """Put a change of an order and answer with the order; a problem is answered as it is."""
    if isinstance(change, Problem):
        core.answer(conn, corr, change)
        return False
    put_change(core, command, record, change, now_ms, reason)
    _show(core, conn, corr, command, record)
    return True


def _show(core: ShardCore, conn: int, corr: int, command: Any, record: OrderRecord) -> None:
    core.answer(conn, corr, core.view(command.slot, command.order_no, record))


def _commit(core: ShardCore, conn: int, corr: int, command: CommitHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    if recommit.is_to_be_planned(core, command, record, now_ms=now_ms):
        recommit.start(core, [(conn, corr)], command, now_ms=now_ms)
    else:
        recommit.commit_as_held(core, [(conn, corr)], command, record, now_ms=now_ms)


def _release(core: ShardCore, conn: int, corr: int, command: ReleaseHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    if record.state == OrderState.RELEASED:
        _show(core, conn, corr, command, record)
    elif _settle(core, conn, corr, command, record, decide_legs.end_hold(record, expired=False), now_ms):
        core.count("released")


def _extend(core: ShardCore, conn: int, corr: int, command: ExtendHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    no_room = no_room_for_key(core, command.key_hash, now_ms)
    if no_room is not None:
        core.answer(conn, corr, no_room)
        return
    change = decide_legs.extend(
        record,
        ttl_s=command.ttl_s,
        now_ms=core.time_ms(now_ms),
        expires_at_ms=core.state.effective_expiry_ms(command.order_no, record),
        opened_at_ms=order_no_time_ms(command.order_no),
    )
    if _settle(core, conn, corr, command, record, change, now_ms):
        core.watch_expiry(record.expires_at_ms, command.slot, command.order_no)


def _cancel(core: ShardCore, conn: int, corr: int, command: CancelOrder, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    if record.state == OrderState.CANCELLED and command.lines is None:
        _show(core, conn, corr, command, record)
        return
    change = decide_legs.cancel(record, command.lines, is_duplicate=command.is_duplicate, of_hold=command.of_hold)
    if _settle(core, conn, corr, command, record, change, now_ms, command.reason):
        core.count("cancelled")
        if command.is_duplicate:
            core.count("duplicates_cancelled")


def _edit(core: ShardCore, conn: int, corr: int, command: EditOrder, now_ms: int) -> None:
    if _find(core, conn, corr, command, now_ms) is not None:
        core.edits.receive(conn, corr, command, now_ms)


def _clear_holds(core: ShardCore, conn: int, corr: int, command: ClearHolds, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    change = decide_legs.clear_holds(record, command.reasons)
    if change is None:
        _show(core, conn, corr, command, record)
    elif _settle(core, conn, corr, command, record, change, now_ms, command.reason):
        core.count("holds_cleared")


def _cancel_demand(core: ShardCore, conn: int, corr: int, command: CancelDemand, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    change = demand.cancel(record, command.no)
    if _settle(core, conn, corr, command, record, change, now_ms, command.reason):
        core.count("demand_cancelled")


def _prioritise(core: ShardCore, conn: int, corr: int, command: PrioritiseDemand, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    _settle(core, conn, corr, command, record, demand.prioritise(record, command.no, command.priority), now_ms)


def _act(core: ShardCore, conn: int, corr: int, command: ActOnLeg, now_ms: int) -> None:
    record = _find(core, conn, corr, command, now_ms)
    if record is None:
        return
    time_ms = core.time_ms(now_ms)
    change = _switched_off(core, record, command) or decide_legs.act(record, command, now_ms=time_ms)
    if change is None:
        _show(core, conn, corr, command, record)
        return
    if isinstance(change, Problem):
        core.answer(conn, corr, change)
        return
    core.count(command.action)
    if command.action == "release":
        core.acceptance.begin(record, command.leg_no, time_ms)
    if change.freed:
        decide_legs.park_freed(core.catalog, record, change.freed, reason="rejected", now_ms=time_ms)
        if command.stock_effect == "zero_until_count":
            _zero_until_count(core, record, command.leg_no, change)
    put_change(core, command, record, change, now_ms, command.reason, command.leg_no)
    if command.action == "release":
        core.acceptance.watch(command.slot, command.order_no, record)
    elif command.action == "ship":
        core.arrivals.watch(command.slot, command.order_no, record)
    if change.freed:
        core.replans.start(command.slot, command.order_no, now_ms=now_ms)
        record = core.state.order(command.slot, command.order_no)  # with its new legs, where they are ours
        assert record is not None
    _show(core, conn, corr, command, record)


def _switched_off(core: ShardCore, record: OrderRecord, command: ActOnLeg) -> Problem | None:
    """A node that is off begins nothing; what has been begun there may leave, arrive or be rejected: those are facts."""
    leg = decide_legs.find_leg(record, command.leg_no)
    if leg is None or command.action not in BEGINS or leg.state == decide_legs.STEPS[command.action].target:
        return None
    document = core.catalog.nodes[leg.node]
    if document is None or document.state != "off":
        return None
    detail = f"{document.node_id} is switched off: reject the leg, or switch the node on"
    facts = {"node_id": document.node_id, "node_state": document.state}
    return Problem("wrong_state", CODES["wrong_state"].title, (ProblemItem("", detail, facts),))


def _zero_until_count(core: ShardCore, record: OrderRecord, leg_no: int, change: Change) -> None:
    """The node says the shelf is empty: what is not promised to others is taken off until the next count."""
    leg = decide_legs.find_leg(record, leg_no)
    if leg is None or not leg.local:
        return
    positions = core.state.positions
    freed: dict[int, int] = {}
    for i, units in change.freed:
        item = record.lines[i].item
        freed[item] = freed.get(item, 0) + units
    for item, units in sorted(freed.items()):
        row = positions.find(item, leg.node)
        promised = positions.v_held[row] + positions.v_allocated[row] - units
        empty = positions.v_on_hand[row] - promised
        if empty > 0:
            change.stock.extend((leg.node, item, -empty, 0, 0))


def _find_key(core: ShardCore, conn: int, corr: int, command: FindKey, now_ms: int) -> None:
    """Whether a key made an order here, may have made one, or is about to."""
    if not core.views.owns_slot(command.slot):
        core.moves.turn_away(conn, corr, command, moved(core, command.slot), slot=command.slot)
        return
    part = core.state.slots.get(command.slot)
    known = part.dedupe.get(command.key_hash) if part is not None else None
    if known is not None:
        answer_repeat(core, conn, corr, command.slot, known[1], known[0] == command.fingerprint)
        return
    joined = core.flights.join_key(conn, corr, command.slot, command.key_hash, command.fingerprint)
    if isinstance(joined, Problem):
        core.answer(conn, corr, joined)
    elif core.waits_for_view(command.key_hash):
        core.answer(conn, corr, Problem("key_in_use", CODES["key_in_use"].title, (), retry_after_ms=1_000))
    elif not joined:
        too_old = key_too_old(core, part.dedupe if part is not None else None, command.key_ms, now_ms)
        core.answer(conn, corr, too_old or Done(0))


def _quote(core: ShardCore, conn: int, corr: int, command: QuoteOrder, now_ms: int) -> None:
    """One that waited for the views to contain its token."""
    core.quoting.waiting.append((conn, corr, command))


# -- stock --------------------------------------------------------------------------------------------------------


def _stock_answered(core: ShardCore, conn: int, corr: int, command: Any, now_ms: int) -> bool:
    """Whether a command is dealt with already: its key was used at this node, may have been, has no room, or the node is on its way."""
    node = core.catalog.node_of.get(command.node_id)
    if core.catalog.away and f"node:{node}" in core.catalog.away:
        problem = refuse(
            "moved", "/node_id", f"{command.node_id} belongs to another shard", version=core.catalog.version
        )
        core.moves.turn_away(conn, corr, command, problem, node=node if node is not None else -1)
        return True
    part = core.state.nodes.get(node) if node is not None else None
    known = part.dedupe.get(command.key_hash) if part is not None and command.key_hash else None
    if known is None:
        table = part.dedupe if part is not None else None
        refusal = key_too_old(core, table, command.key_ms, now_ms) or no_room_for_key(core, command.key_hash, now_ms)
        if refusal is None:
            return False
        core.answer(conn, corr, refusal)
    elif known[0] != command.fingerprint:
        core.answer(conn, corr, Problem("key_reused", CODES["key_reused"].title))
    else:
        core.count("replayed")
        core.answer(conn, corr, StockReply((), core.shard, core.epoch, core.state.seq, core.token(), True))
    return True


def _stock_fact(
    core: ShardCore,
    conn: int,
    corr: int,
    event: StockMoved | StockCounted | PositionSet | Problem,
    now_ms: int,
    then: StockCounted | InboundSet | None = None,
) -> None:
    if isinstance(event, Problem):
        core.answer(conn, corr, event)
        return
    batch = core.batch(now_ms)
    core.put(batch, event)
    if then is not None:
        core.put(batch, then)
    rows = event.moves if isinstance(event, StockMoved) else event.rows
    batch.size += 16 * len(rows) + (sum(map(len, event.reasons)) if isinstance(event, StockMoved) else 0)
    items = {row[0]: None for row in rows}
    short = [item for item in items if (event.node, item) in core.state.short_positions]
    views = tuple([reads.stock_view(core, event.node, item, now_ms) for item in list(items)[: reads.PAGE_MAX]])
    legs_short = _legs_short(core, event.node, short)
    core.answer(conn, corr, StockReply(views, core.shard, core.epoch, batch.seq, batch.token, False, legs_short))


def _legs_short(core: ShardCore, node: int, items: list[int]) -> tuple[str, ...]:
    """Unreleased legs at a node that hold short items: lowest priority and newest first.

    Legs of other homes rank as priority 0 and may be released by now: both are known to their homes only, which re-sourcing asks.
    """
    if not items:
        return ()
    wanted = set(items)
    found = []
    newest_first = list(reversed(core.state.work.get(node, {}).items()))
    for key, slot in newest_first[:LEGS_LOOKED_AT_MAX]:
        order_no, leg_no = reads.split_leg_key(key)
        record = core.state.order(slot, order_no)
        leg = decide_legs.find_leg(record, leg_no) if record else None
        if record is None or leg is None or leg.state != LegState.ALLOCATED:
            continue
        if any(record.lines[i].item in wanted for i, _ in leg.lines):
            found.append((record.priority, -order_no, public_id("leg", OrderRef(slot, order_no), leg_no)))
    part = core.state.nodes.get(node)
    foreign_newest_first = sorted(part.foreign.items(), reverse=True) if part is not None else []
    for _, held in foreign_newest_first[:LEGS_LOOKED_AT_MAX]:
        if held.state == LegState.ALLOCATED and any(item in wanted for item, _ in held.lines):
            found.append((0, -held.order_no, public_id("leg", OrderRef(held.slot, held.order_no), held.leg_no)))
    return tuple([name for _, _, name in sorted(found)[:LEGS_SHORT_MAX]])


def _adjust(core: ShardCore, conn: int, corr: int, command: AdjustStock, now_ms: int) -> None:
    if not _stock_answered(core, conn, corr, command, now_ms):
        _stock_fact(core, conn, corr, decide_stock.adjust(core.state, command), now_ms)


def _count(core: ShardCore, conn: int, corr: int, command: CountStock, now_ms: int) -> None:
    if not _stock_answered(core, conn, corr, command, now_ms):
        behind_ms = core.state.time_ms - now_ms
        if behind_ms > 0:
            core.answer(conn, corr, _clock_behind(behind_ms))
            return
        event = decide_stock.count(core.state, command, now_ms=core.time_ms(now_ms))
        if command.dry_run and isinstance(event, StockCounted):
            change = decide_stock.would_change(core.state, command, event)
            reply = StockReply((), core.shard, core.epoch, core.state.seq, core.token(), would_change=change)
            core.answer(conn, corr, reply)
            return
        _stock_fact(core, conn, corr, event, now_ms)


def _clock_behind(behind_ms: int) -> Problem:
    """Entry times never go back: while they stand still, what moved before a count cannot be told from what moved after it."""
    detail = "the clock was set back; counts are taken once it has reached the journal's newest entry"
    item = ProblemItem("", detail, {"behind_ms": behind_ms})
    return Problem("unavailable", CODES["unavailable"].title, (item,), retry_after_ms=min(behind_ms, 60_000))


def _set(core: ShardCore, conn: int, corr: int, command: SetPosition, now_ms: int) -> None:
    if not _stock_answered(core, conn, corr, command, now_ms):
        event = decide_stock.set_position(core.state, command)
        then = None
        if isinstance(event, PositionSet):
            core.supply.begin_day(event.node, now_ms)
            then = resettled(core.state, event.node, event.rows, core.time_ms(now_ms))
            core.supply.look_again()
        _stock_fact(core, conn, corr, event, now_ms, then)


def _inbound(core: ShardCore, conn: int, corr: int, command: PutInbound | CancelInbound, now_ms: int) -> None:
    if not _stock_answered(core, conn, corr, command, now_ms):
        inbound.change(core, conn, corr, command, now_ms)


def _receive(core: ShardCore, conn: int, corr: int, command: ReceiveInbound, now_ms: int) -> None:
    if _stock_answered(core, conn, corr, command, now_ms):
        return
    found = receive(core.state, command)
    if isinstance(found, Problem):
        core.answer(conn, corr, found)
    else:
        _stock_fact(core, conn, corr, found[0], now_ms, found[1])


# -- other shards -------------------------------------------------------------------------------------------------


def _try(core: ShardCore, conn: int, corr: int, command: TryLegs, now_ms: int) -> None:
    core.participant.hold(conn, corr, command, now_ms)


def _drive(core: ShardCore, conn: int, corr: int, command: DriveLeg, now_ms: int) -> None:
    core.participant.drive(conn, corr, command, now_ms)


def _resolve(core: ShardCore, conn: int, corr: int, command: ResolveTxn, now_ms: int) -> None:
    core.two_phase.resolve(conn, corr, command)


def _offer_part(core: ShardCore, conn: int, corr: int, command: OfferPart, now_ms: int) -> None:
    core.moves.offered(conn, corr, command, now_ms)


def _show_demand(core: ShardCore, conn: int, corr: int, command: ShowDemand, now_ms: int) -> None:
    core.demand.guests.shown(conn, command, now_ms)
    core.answers_now([Answer(conn, corr, Done(len(command.rows)))])


def _take_turn(core: ShardCore, conn: int, corr: int, command: TakeTurn, now_ms: int) -> None:
    core.demand.visits.take_turn(conn, corr, command)


def _follow_view(core: ShardCore, conn: int, corr: int, command: FollowView, now_ms: int) -> None:
    core.views.follow(conn, corr, command)


_HANDLERS: dict[type, Callable[[Any, int, int, Any, int], None]] = {
    CommitHold: _commit,
    ReleaseHold: _release,
    ExtendHold: _extend,
    CancelOrder: _cancel,
    ClearHolds: _clear_holds,
    EditOrder: _edit,
    ActOnLeg: _act,
    CancelDemand: _cancel_demand,
    PrioritiseDemand: _prioritise,
    ListDemand: demand_reads.list_demand,
    ReadDemandLog: demand_reads.read_log,
    ListShort: demand_reads.list_short,
    FindShortLegs: resourcing.find_legs,
    ResourceLeg: resourcing.resource_leg,
    AdjustStock: _adjust,
    CountStock: _count,
    SetPosition: _set,
    TryLegs: _try,
    DriveLeg: _drive,
    ResolveTxn: _resolve,
    FollowView: _follow_view,
    ShowDemand: _show_demand,
    TakeTurn: _take_turn,
    FindKey: _find_key,
    QuoteOrder: _quote,
    GetAvailability: reads.availability,
    GetOrder: reads.get_order,
    ListLegs: reads.list_legs,
    GetDecision: reads.get_decision,
    GetNodeWork: node_work,
    ExplainNode: explaining.explain_node,
    GetStatus: reads.status,
    DumpPart: reads.dump,
    FollowStock: follow_stock,
    GetStockPage: get_stock_page,
    OfferPart: _offer_part,
    ShowNode: show_node,
    ListParts: list_parts,
    FindItems: find_items,
    FindStores: find_stores,
    PutInbound: _inbound,
    CancelInbound: _inbound,
    ReceiveInbound: _receive,
    ListInbound: inbound.list_inbound,
}
