"""What the shard does with each command: look up, decide (domain), put, answer. No rule lives here, only the order of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.domain import decide_legs, decide_stock
from engine.domain.catalog import Catalog
from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelOrder,
    Command,
    CommitHold,
    CountStock,
    DriveLeg,
    DumpPart,
    ExtendHold,
    FollowView,
    GetAvailability,
    GetDecision,
    GetOrder,
    GetStatus,
    ListLegs,
    PlaceOrder,
    ReleaseHold,
    ResolveTxn,
    SetPosition,
    TryLegs,
)
from engine.domain.decide_legs import Change
from engine.domain.decide_orders import (
    Prepared,
    build_record,
    open_order,
    prepare,
    refuse,
    shortage,
    slot_for,
)
from engine.domain.events import PositionSet, StockCounted, StockMoved
from engine.domain.ids import OrderRef, public_id
from engine.domain.orders import LegState, Method, OnShort, OrderRecord, OrderState
from engine.domain.plan import Plan
from engine.domain.problems import CODES
from engine.domain.replies import (
    DumpReply,
    LegList,
    LegView,
    Problem,
    StatusReply,
    StockReply,
    StockView,
)
from engine.domain.state import index_order, unpack_dedupe
from engine.domain.views import LEG_LABELS, leg_view, order_view

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

PAGE_MAX = 5_000
_METHOD_TAGS = {Method.SHIP: "ship", Method.PICKUP: "pickup", Method.SHIP_TO_STORE: "ship_to_store"}


def handle(core: ShardCore, conn: int, corr: int, command: Command, *, now_ms: int) -> None:
    """Decide one command that is not a PlaceOrder (those go in groups)."""
    handler = _HANDLERS.get(type(command))
    if handler is None:
        core.answer(conn, corr, refuse("not_found", "", f"{type(command).__name__} is not for a stock shard"))
        return
    handler(core, conn, corr, command, now_ms)


# -- new orders ---------------------------------------------------------------------------------------------------


def place_group(core: ShardCore, group: list[tuple[int, int, PlaceOrder]], *, now_ms: int) -> None:
    """Plan and place orders together: who gets the last unit is settled by priority, then arrival, before any cost."""
    state = core.state
    if any(command.order.priority for _, _, command in group):
        group.sort(key=lambda entry: -entry[2].order.priority)
    ready: list[tuple[int, int, PlaceOrder, Prepared]] = []
    keys: set[tuple[str, int]] = set()
    for conn, corr, command in group:
        slot = slot_for(state, command)
        if slot is not None:
            if not core.views.owns_slot(slot):
                core.answer(conn, corr, _moved(core, slot))
                continue
            if _is_repeat(core, conn, corr, slot, command):
                continue
            if command.key_hash:
                if (slot, command.key_hash) in keys:
                    core.requeue(conn, corr, command)
                    continue
                keys.add((slot, command.key_hash))
        prepared = prepare(state, core.planner, command)
        if isinstance(prepared, Problem):
            core.answer(conn, corr, prepared)
        else:
            ready.append((conn, corr, command, prepared))
    if not ready:
        return
    plans = core.planner.plan([entry[3].request for entry in ready], now_ms=now_ms)
    for (conn, corr, command, prepared), plan in zip(ready, plans, strict=True):
        place(core, conn, corr, command, prepared, plan, now_ms=now_ms)


def _is_repeat(core: ShardCore, conn: int, corr: int, slot: str, command: PlaceOrder) -> bool:
    """Answer a repeat of a key, or a second open order under one id; False = it is new."""
    part = core.state.slots.get(slot)
    if part is None:
        return core.two_phase.joins(conn, corr, slot, command)
    if command.key_hash:
        packed = part.dedupe.get(command.key_hash)
        if packed is not None:
            fingerprint, order_no, _ = unpack_dedupe(packed)
            answer_repeat(core, conn, corr, slot, order_no, fingerprint == command.fingerprint)
            return True
    if core.two_phase.joins(conn, corr, slot, command):
        return True
    known = part.order_ids.get(command.order.order_id)
    if known is not None:
        record = core.state.order(slot, known)
        if record is not None and record.state in (OrderState.HELD, OrderState.COMMITTED):
            open_id = public_id("res" if record.state == OrderState.HELD else "alc", OrderRef(slot, known))
            core.answer(
                conn,
                corr,
                refuse("duplicate_order", "/order_id", f"{command.order.order_id} is open as {open_id}", id=open_id),
            )
            return True
    return False


def answer_repeat(core: ShardCore, conn: int, corr: int, slot: str, order_no: int, same_body: bool) -> None:
    """A repeated key: the first answer, rebuilt from the order; or 422 where the body differs."""
    if not same_body:
        core.answer(conn, corr, Problem("key_reused", CODES["key_reused"].title))
        return
    record = core.state.order(slot, order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "the order of this key is no longer kept"))
        return
    core.count("replayed")
    core.answer(conn, corr, order_view(core.catalog, slot, order_no, record, token=core.token(), replayed=True))


def place(
    core: ShardCore, conn: int, corr: int, command: PlaceOrder, prepared: Prepared, plan: Plan, *, now_ms: int
) -> None:
    """Make a plan an order: at once where all its nodes are ours, else as a transaction."""
    state = core.state
    if plan.unfilled and (
        prepared.on_short == OnShort.REFUSE or (prepared.on_short == OnShort.PARTIAL and not plan.legs)
    ):
        core.count("refused")
        core.answer(conn, corr, shortage(state, prepared, plan))
        return
    if state.dedupe_count >= state.dedupe_max * 2 and command.key_hash:
        core.answer(conn, corr, Problem("dedupe_full", CODES["dedupe_full"].title, (), retry_after_ms=60_000))
        return
    owner = core.catalog.owner
    for leg in plan.legs:
        if owner[leg.node] != core.shard:
            core.two_phase.begin(conn, corr, command, prepared, plan, now_ms=now_ms)
            return
    finish_place(core, conn, corr, command, prepared, plan, now_ms=now_ms)


def finish_place(
    core: ShardCore,
    conn: int,
    corr: int,
    command: PlaceOrder,
    prepared: Prepared,
    plan: Plan,
    *,
    now_ms: int,
    txn: int = 0,
    points: dict[int, tuple[int, int]] | None = None,
) -> OrderRecord:
    """The commit point of an order: its record, its stock and its decision in one entry."""
    batch = core.batch(now_ms)
    slot = prepared.slot
    order_no = core.next_order_no(batch.time_ms) if not txn else core.two_phase.order_no(txn)
    record = build_record(core.state, command, prepared, plan, now_ms=batch.time_ms, txn=txn)
    if plan.record:
        record.decided_at = [(core.epoch, batch.seq, len(batch.decisions))]
        batch.decisions.append(plan.record)
        batch.size += len(plan.record)
    if txn and record.state == OrderState.COMMITTED:
        for leg in record.legs:
            leg.driving = not leg.local
    core.put(batch, open_order(slot, order_no, record, command))
    index_order(core.state, slot, order_no, record)
    if record.state == OrderState.HELD:
        core.state.open_holds += 1
        core.watch_expiry(record.expires_at_ms, slot, order_no)
    else:
        core.state.open_orders += 1
        for leg in record.legs:
            core.state.work.setdefault(leg.node, {})[(order_no, leg.leg_no)] = slot
    if txn:
        core.two_phase.drive(batch, slot, order_no, record)
    core.count("placed")
    core.count("legs", len(record.legs))
    token = core.token(batch.seq, points)
    core.answer(conn, corr, order_view(core.catalog, slot, order_no, record, token=token), batch)
    return record


# -- open orders --------------------------------------------------------------------------------------------------


def _moved(core: ShardCore, slot: str) -> Problem:
    owner = core.catalog.owner_of_slot(slot)
    return refuse("moved", "", f"slot {slot} belongs to shard {owner}", shard=owner, version=core.catalog.version)


def _find(core: ShardCore, conn: int, corr: int, command: Any) -> OrderRecord | None:
    """The order a command names, or None after answering: moved, repeat, or not found."""
    if not core.views.owns_slot(command.slot):
        core.answer(conn, corr, _moved(core, command.slot))
        return None
    part = core.state.slots.get(command.slot)
    if part is not None and command.key_hash:
        packed = part.dedupe.get(command.key_hash)
        if packed is not None:
            fingerprint, order_no, _ = unpack_dedupe(packed)
            answer_repeat(core, conn, corr, command.slot, order_no, fingerprint == command.fingerprint)
            return None
    record = core.state.order(command.slot, command.order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "no such order"))
    return record


def _settle(
    core: ShardCore, conn: int, corr: int, command: Any, record: OrderRecord, change: Change | Problem, now_ms: int
) -> bool:
    """Put a change of an order and answer with the order; a problem is answered as it is."""
    if isinstance(change, Problem):
        core.answer(conn, corr, change)
        return False
    batch = core.batch(now_ms)
    core.put_order(
        batch,
        change.cause,
        command.slot,
        command.order_no,
        record,
        change.stock,
        change.capacity,
        command.key_hash,
        command.fingerprint,
    )
    core.answer(
        conn,
        corr,
        order_view(core.catalog, command.slot, command.order_no, record, token=core.token(batch.seq)),
        batch,
    )
    return True


def _commit(core: ShardCore, conn: int, corr: int, command: CommitHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command)
    if record is None:
        return
    expires_at_ms = core.state.effective_expiry_ms(record)
    time_ms = max(core.state.time_ms, now_ms)
    if _settle(
        core,
        conn,
        corr,
        command,
        record,
        decide_legs.commit(record, command, now_ms=time_ms, expires_at_ms=expires_at_ms),
        now_ms,
    ):
        core.state.open_orders += 1
        core.count("committed")


def _release(core: ShardCore, conn: int, corr: int, command: ReleaseHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command)
    if record is None:
        return
    if record.state == OrderState.RELEASED:
        core.answer(conn, corr, order_view(core.catalog, command.slot, command.order_no, record, token=core.token()))
        return
    if _settle(core, conn, corr, command, record, decide_legs.end_hold(record, expired=False), now_ms):
        core.count("released")


def _extend(core: ShardCore, conn: int, corr: int, command: ExtendHold, now_ms: int) -> None:
    record = _find(core, conn, corr, command)
    if record is None:
        return
    change = decide_legs.extend(
        record,
        ttl_s=command.ttl_s,
        now_ms=max(core.state.time_ms, now_ms),
        expires_at_ms=core.state.effective_expiry_ms(record),
    )
    if _settle(core, conn, corr, command, record, change, now_ms):
        core.watch_expiry(record.expires_at_ms, command.slot, command.order_no)


def _cancel(core: ShardCore, conn: int, corr: int, command: CancelOrder, now_ms: int) -> None:
    record = _find(core, conn, corr, command)
    if record is None:
        return
    if record.state == OrderState.CANCELLED and command.lines is None:
        core.answer(conn, corr, order_view(core.catalog, command.slot, command.order_no, record, token=core.token()))
        return
    if _settle(core, conn, corr, command, record, decide_legs.cancel(record, command.lines), now_ms):
        core.count("cancelled")


def _act(core: ShardCore, conn: int, corr: int, command: ActOnLeg, now_ms: int) -> None:
    record = _find(core, conn, corr, command)
    if record is None:
        return
    time_ms = max(core.state.time_ms, now_ms)
    change = decide_legs.act(record, command, now_ms=time_ms)
    if change is None:
        core.answer(conn, corr, order_view(core.catalog, command.slot, command.order_no, record, token=core.token()))
        return
    if isinstance(change, Problem):
        core.answer(conn, corr, change)
        return
    core.count(command.action)
    if change.freed:
        decide_legs.park_freed(record, change.freed, reason="rejected", now_ms=time_ms)
        if command.stock_effect == "zero_until_count":
            _zero_until_count(core, record, command.leg_no, change)
    if _settle(core, conn, corr, command, record, change, now_ms) and change.freed:
        core.two_phase.replan(command.slot, command.order_no, now_ms=now_ms)


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


# -- stock --------------------------------------------------------------------------------------------------------


def _stock_repeat(core: ShardCore, conn: int, corr: int, command: Any) -> bool:
    node = core.catalog.node_of.get(command.node_id)
    part = core.state.nodes.get(node) if node is not None else None
    if part is None or not command.key_hash:
        return False
    packed = part.dedupe.get(command.key_hash)
    if packed is None:
        return False
    if packed >> 128 != command.fingerprint:
        core.answer(conn, corr, Problem("key_reused", CODES["key_reused"].title))
    else:
        core.answer(conn, corr, _stock_reply(core, (), replayed=True))
    return True


def _stock_reply(
    core: ShardCore, views: tuple[StockView, ...], *, replayed: bool = False, short: tuple[str, ...] = ()
) -> StockReply:
    return StockReply(views, core.shard, core.epoch, core.state.seq, core.token(), replayed, short)


def _stock_fact(
    core: ShardCore, conn: int, corr: int, event: StockMoved | StockCounted | PositionSet | Problem, now_ms: int
) -> None:
    if isinstance(event, Problem):
        core.answer(conn, corr, event)
        return
    batch = core.batch(now_ms)
    core.put(batch, event)
    batch.size += 16 * len(event.moves if isinstance(event, StockMoved) else event.rows)
    items = {row[0]: None for row in (event.moves if isinstance(event, StockMoved) else event.rows)}
    short = [item for item in items if (event.node, item) in core.state.short_positions]
    views = tuple(stock_view(core, event.node, item, now_ms) for item in list(items)[:PAGE_MAX])
    core.answer(conn, corr, _stock_reply(core, views, short=_legs_short(core, event.node, short)), batch)


def _legs_short(core: ShardCore, node: int, items: list[int]) -> tuple[str, ...]:
    """Unreleased legs at a node that hold short items: lowest priority and newest first."""
    if not items:
        return ()
    wanted = set(items)
    found = []
    for (order_no, leg_no), slot in core.state.work.get(node, {}).items():
        record = core.state.order(slot, order_no)
        leg = decide_legs.find_leg(record, leg_no) if record else None
        if (
            record
            and leg
            and leg.state == LegState.ALLOCATED
            and any(record.lines[i].item in wanted for i, _ in leg.lines)
        ):
            found.append((record.priority, -order_no, public_id("leg", OrderRef(slot, order_no), leg_no)))
    return tuple(name for _, _, name in sorted(found)[:1_000])


def _adjust(core: ShardCore, conn: int, corr: int, command: AdjustStock, now_ms: int) -> None:
    if not _stock_repeat(core, conn, corr, command):
        _stock_fact(core, conn, corr, decide_stock.adjust(core.state, command), now_ms)


def _count(core: ShardCore, conn: int, corr: int, command: CountStock, now_ms: int) -> None:
    if not _stock_repeat(core, conn, corr, command):
        time_ms = max(core.state.time_ms, now_ms)
        _stock_fact(core, conn, corr, decide_stock.count(core.state, command, now_ms=time_ms), now_ms)


def _set(core: ShardCore, conn: int, corr: int, command: SetPosition, now_ms: int) -> None:
    if not _stock_repeat(core, conn, corr, command):
        _stock_fact(core, conn, corr, decide_stock.set_position(core.state, command), now_ms)


# -- reads --------------------------------------------------------------------------------------------------------


def stock_view(core: ShardCore, node: int, item: int, now_ms: int, method: int = Method.SHIP) -> StockView:
    """One position with its numbers and the age of the count behind it."""
    positions = core.state.positions
    catalog: Catalog = core.catalog
    row = positions.find(item, node)
    document = catalog.nodes[node] if node < len(catalog.nodes) else None
    extra = document.safety_by_method.get(_METHOD_TAGS.get(Method(method), ""), 0) if document else 0
    part = core.state.nodes.get(node)
    setting = part.settings.get(item) if part else None
    counted_s = positions.v_counted_s[row]
    free = positions.free(row)
    return StockView(
        catalog.node_id(node),
        catalog.sku(item),
        positions.v_on_hand[row],
        positions.v_held[row],
        positions.v_allocated[row],
        positions.v_safety[row] + extra,
        max(0, free - extra),
        max(0, -free),
        setting[0] if setting else "counted",
        (now_ms - 1_577_836_800_000) // 1_000 - counted_s if counted_s else None,
    )


def _availability(core: ShardCore, conn: int, corr: int, command: GetAvailability, now_ms: int) -> None:
    catalog, positions = core.catalog, core.state.positions
    tag = _METHOD_TAGS.get(Method(command.method), "ship")
    views = []
    for n, sku in enumerate(command.skus):
        item = catalog.item_of.get(sku)
        if item is None:
            core.answer(conn, corr, refuse("unknown_sku", f"/sku/{n}", f"no item {sku!r}", sku=sku))
            return
        for row in positions.rows(item):
            node = positions.v_node[row]
            document = catalog.nodes[node] if node < len(catalog.nodes) else None
            if document is None or not catalog.owns_node(node):
                continue
            if command.node_id is not None and document.node_id != command.node_id:
                continue
            if (
                command.channel is not None
                and document.channels is not None
                and command.channel not in document.channels
            ):
                continue
            if tag not in document.offers or document.state != "on":
                continue
            views.append(stock_view(core, node, item, now_ms, command.method))
    views.sort(key=lambda v: (v.sku, v.node_id))
    core.answer(conn, corr, _stock_reply(core, tuple(views)))


def _get_order(core: ShardCore, conn: int, corr: int, command: GetOrder, now_ms: int) -> None:
    if not core.views.owns_slot(command.slot):
        core.answer(conn, corr, _moved(core, command.slot))
        return
    record = core.state.order(command.slot, command.order_no)
    if record is None:
        core.answer(conn, corr, refuse("not_found", "", "no such order"))
        return
    core.answer(conn, corr, order_view(core.catalog, command.slot, command.order_no, record, token=core.token()))


def _list_legs(core: ShardCore, conn: int, corr: int, command: ListLegs, now_ms: int) -> None:
    node = core.catalog.node_of.get(command.node_id)
    if node is None:
        core.answer(conn, corr, refuse("unknown_node", "/node_id", f"no node {command.node_id!r}"))
        return
    if command.state is not None and command.state not in LEG_LABELS:
        core.answer(conn, corr, refuse("invalid_field", "/state", f"one of {', '.join(LEG_LABELS)}"))
        return
    after = _parse_cursor(command.cursor)
    if after is None:
        core.answer(conn, corr, Problem("invalid_cursor", CODES["invalid_cursor"].title))
        return
    limit = max(1, min(command.limit, PAGE_MAX))
    page: list[tuple[str, int, str, LegView]] = []
    cursor = ""
    entries = core.state.work.get(node, {})
    for key in sorted(k for k in entries if k > after):
        record = core.state.order(entries[key], key[0])
        leg = decide_legs.find_leg(record, key[1]) if record else None
        if record is None or leg is None or (command.state is not None and LEG_LABELS[leg.state] != command.state):
            continue
        if len(page) == limit:
            cursor = f"{page[-1][1]}-{page[-1][3].leg_no}"
            break
        page.append((entries[key], key[0], record.order_id, leg_view(core.catalog, record, leg)))
    core.answer(conn, corr, LegList(tuple(page), cursor))


def _parse_cursor(cursor: str) -> tuple[int, int] | None:
    if not cursor:
        return (-1, -1)
    parts = cursor.split("-")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and len(p) < 20 for p in parts):
        return None
    return (int(parts[0]), int(parts[1]))


def _get_decision(core: ShardCore, conn: int, corr: int, command: GetDecision, now_ms: int) -> None:
    record = core.state.order(command.slot, command.order_no)
    if record is None or command.decision >= len(record.decided_at):
        core.answer(conn, corr, refuse("not_found", "", "no such decision"))
        return
    core.fetch(conn, corr, record.decided_at[command.decision])


def _status(core: ShardCore, conn: int, corr: int, command: GetStatus, now_ms: int) -> None:
    state = core.state
    core.answer(
        conn,
        corr,
        StatusReply(
            {
                "shard": core.shard,
                "epoch": core.epoch,
                "seq": state.seq,
                "durable_seq": core.durable_seq,
                "config_version": core.catalog.version,
                "positions": state.positions.size,
                "open_holds": state.open_holds,
                "open_orders": state.open_orders,
                "dedupe_entries": state.dedupe_count,
                "short_positions": len(state.short_positions),
                "dirty_parts": len(state.dirty),
                "transactions_pending": core.two_phase.pending_count,
                "view_lag_ms": core.views.lag_ms(now_ms),
                "time_ms": state.time_ms,
                **{f"count_{name}": value for name, value in sorted(core.counts.items())},
                **core.shell_facts,
            }
        ),
    )


def _dump(core: ShardCore, conn: int, corr: int, command: DumpPart, now_ms: int) -> None:
    """Rows for the auditor: `node` = own positions by (item, node); `slot` = orders; `foreign` = legs of other homes."""
    limit = max(1, min(command.limit, PAGE_MAX))
    after = _parse_cursor(command.cursor)
    if after is None:
        core.answer(conn, corr, Problem("invalid_cursor", CODES["invalid_cursor"].title))
        return
    rows: list[tuple[Any, ...]] = []
    cursor = ""
    state = core.state
    if command.kind == "node":
        positions = state.positions
        positions.merge()
        items = positions.items()
        start = 0
        if command.cursor:
            start = int(items.searchsorted(after[0], "left"))
            while start < positions.size and (int(items[start]), positions.v_node[start]) <= after:
                start += 1
        for row in range(start, positions.size):
            node = positions.v_node[row]
            if not core.catalog.owns_node(node):
                continue
            if len(rows) == limit:
                cursor = f"{rows[-1][0]}-{rows[-1][1]}"
                break
            rows.append(
                (
                    int(items[row]),
                    node,
                    positions.v_on_hand[row],
                    positions.v_held[row],
                    positions.v_allocated[row],
                    positions.v_safety[row],
                )
            )
    elif command.kind == "slot":
        keys = sorted((order_no, slot) for slot, part in state.slots.items() for order_no in part.orders)
        for order_no, slot in keys:
            if order_no <= after[0]:
                continue
            if len(rows) == limit:
                cursor = f"{rows[-1][1]}-0"
                break
            record = state.order(slot, order_no)
            if record is not None:
                legs = [(leg.leg_no, leg.node, leg.local, leg.state, leg.lines) for leg in record.legs]
                rows.append((slot, order_no, record.order_id, record.state, legs))
    elif command.kind == "foreign":
        for node, part in sorted(state.nodes.items()):
            rows += [
                (node, leg.slot, leg.order_no, leg.leg_no, leg.state, leg.lines)
                for _, leg in sorted(part.foreign.items())
            ]
    else:
        core.answer(conn, corr, refuse("invalid_field", "/kind", "one of node, slot, foreign"))
        return
    core.answer(conn, corr, DumpReply(tuple(rows), cursor, state.seq))


def _try(core: ShardCore, conn: int, corr: int, command: TryLegs, now_ms: int) -> None:
    core.two_phase.participate_try(conn, corr, command, now_ms)


def _drive(core: ShardCore, conn: int, corr: int, command: DriveLeg, now_ms: int) -> None:
    core.two_phase.participate_drive(conn, corr, command, now_ms)


def _resolve(core: ShardCore, conn: int, corr: int, command: ResolveTxn, now_ms: int) -> None:
    core.two_phase.resolve(conn, corr, command)


def _follow_view(core: ShardCore, conn: int, corr: int, command: FollowView, now_ms: int) -> None:
    core.views.follow(conn, corr, command)


_HANDLERS: dict[type, Callable[[Any, int, int, Any, int], None]] = {
    CommitHold: _commit,
    ReleaseHold: _release,
    ExtendHold: _extend,
    CancelOrder: _cancel,
    ActOnLeg: _act,
    AdjustStock: _adjust,
    CountStock: _count,
    SetPosition: _set,
    GetAvailability: _availability,
    GetOrder: _get_order,
    ListLegs: _list_legs,
    GetDecision: _get_decision,
    GetStatus: _status,
    DumpPart: _dump,
    TryLegs: _try,
    DriveLeg: _drive,
    ResolveTxn: _resolve,
    FollowView: _follow_view,
}
