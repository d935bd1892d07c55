"""Placing new orders: look up, plan together, and make each plan an order, a transaction, a claim, or a refusal.

Who gets the last unit is settled by priority, then arrival, before any cost. Every plan is checked against the state before it
becomes an order: planners and solvers are asked, never believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.domain.commands import PlaceOrder, PlaceQuoted
from engine.domain.decide_orders import (
    Prepared,
    build_record,
    fits,
    is_refused,
    open_order,
    prepare,
    refuse,
    shortage,
    slot_for,
)
from engine.domain.demand import units_by_item
from engine.domain.events import OrderPut
from engine.domain.ids import OrderRef, public_id
from engine.domain.keys import KeyTable, hash_of
from engine.domain.opening import apply_opened, find_rows, is_plain, open_event, opened
from engine.domain.orders import OrderRecord, OrderState
from engine.domain.plan import Plan, PlanRequest
from engine.domain.problems import CODES
from engine.domain.ready import with_ready_times
from engine.domain.replies import Problem, Reply
from engine.domain.state import HOLD_LIFE_MAX_MS, index_order
from engine.domain.views import order_view, whole_view
from engine.protocol.effects import Answer
from engine.protocol.flights import Flight

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

_HELD, _COMMITTED = int(OrderState.HELD), int(OrderState.COMMITTED)
_UNKNOWN_PLACE = None, None
Asked = tuple[int, int, PlaceOrder]
"""(conn, corr, command)"""


def place_group(core: ShardCore, group: list[Asked], *, now_ms: int, quoted: bool = False) -> None:
    """Place orders that arrived together; quoted = some of them with a quote."""
    state, planner, places, slots = core.state, core.planner, core.views.own_places(), core.state.slots
    under_way = len(core.flights) > 0
    if any(command.order.priority for _, _, command in group):
        group.sort(key=lambda entry: -entry[2].order.priority)
    flights: list[Flight] = []
    seen: set[int] = set()
    """Key hashes and hashes of order ids of this group, together: a chance meeting of two costs one more turn."""
    for conn, corr, command in group:
        order = command.order
        id_hash = hash_of(order.order_id)
        ship_to = order.ship_to
        at_point = ship_to is not None and ship_to.lat is not None and ship_to.lon is not None
        slot, point = None, None
        if ship_to is not None and not at_point:
            place = ship_to.country, ship_to.postal_code
            slot, point = places.get(place, _UNKNOWN_PLACE)
        if slot is None:
            slot = slot_for(state, command)
            if slot is not None and not core.views.owns_slot(slot):
                core.moves.turn_away(conn, corr, command, moved(core, slot), slot=slot)
                continue
        if slot is not None:
            key_hash = command.key_hash
            part = slots.get(slot)
            maybe_known = part is not None and (
                id_hash in part.ids
                or (key_hash != 0 and key_hash in part.dedupe.places)
                or 0 < command.key_ms < part.dedupe.cutoff_ms
            )
            if (maybe_known or under_way) and _is_known(core, conn, corr, slot, command, now_ms):
                continue
            expected = len(seen) + (2 if key_hash else 1)
            seen.add(id_hash)
            if key_hash:
                seen.add(key_hash)
            # What came before it in this group decides what it is. Nothing did: its own two are one, and would be at every turn.
            if len(seen) < expected and flights:
                core.requeue(conn, corr, command)
                continue
        prepared = prepare(state, planner, command, slot, point)
        if isinstance(prepared, Problem):
            core.answer(conn, corr, prepared)
            continue
        if point is None and ship_to is not None and not at_point:
            places[place] = prepared.slot, prepared.request.point
        flights.append(Flight([(conn, corr)], command, prepared, id_hash))
    if quoted:
        flights = core.quoting.admit(flights, now_ms)
    if flights and state.kept:
        flights = core.demand.place_before(flights, now_ms=now_ms)
    if flights:
        plan_flights(core, flights, now_ms=now_ms)


def plan_flights(core: ShardCore, flights: list[Flight], *, now_ms: int) -> None:
    """Plan orders together and decide each."""
    plans = core.planner.plan([flight.prepared.request for flight in flights], now_ms=now_ms)
    components: dict[int, list[tuple[Flight, Plan]]] = {}
    for flight, plan in zip(flights, plans, strict=True):
        if plan.component:
            components.setdefault(plan.component, []).append((flight, plan))
    for component, members in components.items():
        core.claims.begin(component, members, now_ms=now_ms)
    for flight, plan in open_plain(core, flights, plans, now_ms=now_ms):
        place(core, flight, plan, now_ms=now_ms)


def open_plain(core: ShardCore, flights: list[Flight], plans: list[Plan], *, now_ms: int) -> list[tuple[Flight, Plan]]:
    """Open the plain orders of a batch in few steps (domain/opening.py); the others are returned, components left away."""
    state, catalog = core.state, core.catalog
    rest: list[tuple[Flight, Plan]] = []
    chosen: list[Flight] = []
    wanted: list[tuple[PlaceOrder, Prepared, Plan]] = []
    has_caps = core.hold_caps is not None
    for flight, plan in zip(flights, plans, strict=True):
        is_capped = has_caps and flight.command.ttl_s > 0
        if is_plain(catalog, flight.prepared, plan) and not flight.order_no and not is_capped:
            chosen.append(flight)
            wanted.append((flight.command, flight.prepared, plan))
        elif not plan.component:
            rest.append((flight, plan))
    openings = find_rows(state, wanted) if state.dedupe_count + len(wanted) < state.dedupe_max else None
    if openings is None:  # one by one, each with its own answer
        return [(flight, plan) for flight, plan in zip(flights, plans, strict=True) if not plan.component]
    if not openings:
        return rest
    batch = core.batch(now_ms)
    time_ms, seq, epoch, config = batch.time_ms, batch.seq, core.epoch, catalog.version
    decisions, events = batch.decisions, batch.events
    order_nos = core.order_nos(time_ms, len(openings))
    # Step by step over all of them: a step's code and tables stay in the cache.
    made: list[OrderPut] = []
    size = 0
    for opening, order_no in zip(openings, order_nos, strict=True):
        why = opening.plan.record
        decided_at = None
        if why:
            decided_at = (epoch, seq, len(decisions))
            decisions.append(why)
            size += len(why)
        event = open_event(opening, order_no, now_ms=time_ms, config=config, decided_at=decided_at)
        size += 96 + len(event.record)
        made.append(event)
    batch.size += size
    for flight, opening, event in zip(chosen, openings, made, strict=True):
        apply_opened(state, opening, event, flight.id_hash, time_ms=time_ms)
    legs, token, answers = 0, batch.token, batch.answers
    for flight, opening, order_no in zip(chosen, openings, order_nos, strict=True):
        command = opening.command
        ttl_s = command.ttl_s
        expires_at_ms = 0
        if ttl_s > 0:
            expires_at_ms = time_ms + min(ttl_s * 1_000, HOLD_LIFE_MAX_MS)
            core.watch_expiry(expires_at_ms, opening.prepared.slot, order_no)
        legs += len(opening.plan.legs)
        news = opened(catalog, opening, order_no, token=token, expires_at_ms=expires_at_ms)
        askers = flight.askers
        brief = command.brief and len(askers) == 1  # who joined may want the whole
        reply: Reply = news if brief else whole_view(command.order, news)
        for conn, corr in askers:
            answers.append(Answer(conn, corr, reply))
        if flight.registered:
            core.flights.close(flight)
    events += made
    if core.moves.watching:
        core.moves.note(made)
    core.counts["placed"] += len(openings)
    core.counts["legs"] += legs
    return rest


def plan_alone(core: ShardCore, request: PlanRequest, *, now_ms: int) -> Plan:
    """A plan of one order, final, with what collection adds to it."""
    (plan,) = core.planner.plan([request], now_ms=now_ms)
    if plan.component:
        (plan,) = core.planner.improved(plan.component, None)
    return with_ready_times(core.catalog, request, plan, now_ms=now_ms)


def place(core: ShardCore, flight: Flight, plan: Plan, *, now_ms: int) -> None:
    """Make a plan an order: at once where all its nodes are ours, else as a transaction."""
    prepared = flight.prepared
    if not prepared.plain:
        plan = with_ready_times(core.catalog, prepared.request, plan, now_ms=now_ms)
        if type(flight.command) is PlaceQuoted:
            if plan.unfilled and core.claims.waits(flight, plan, now_ms=now_ms):
                return
            kept = core.quoting.kept(flight, plan, now_ms=now_ms)
            if kept is None:
                return
            plan, prepared = kept, flight.prepared
    if plan.unfilled:
        if core.claims.waits(flight, plan, now_ms=now_ms):
            return
        if is_refused(flight.command, prepared, plan):
            core.count("refused")
            core.demand_log.refused(flight, plan, core.time_ms(now_ms))
            settle(core, flight, shortage(core.state, prepared, plan, now_ms=now_ms))
            return
    state = core.state
    no_room = no_room_for_key(core, flight.command.key_hash, now_ms)
    if no_room is not None:
        settle(core, flight, no_room)
        return
    if flight.command.ttl_s and core.hold_caps is not None:
        too_much = core.hold_caps.refusal(flight.command, prepared, plan)
        if too_much is not None:
            core.count("holds_capped")
            settle(core, flight, too_much)
            return
    if not fits(state, [(prepared, plan.legs)]):
        core.count("plans_unfit")
        flight.replans += 1
        if flight.replans > 1:
            settle(core, flight, Problem("internal", "the planner's plan does not fit the stock"))
        else:
            place(core, flight, plan_alone(core, prepared.request, now_ms=now_ms), now_ms=now_ms)
        return
    owner = core.catalog.owner
    for leg in plan.legs:
        if owner[leg.node] != core.shard:
            core.two_phase.begin(flight, plan, now_ms=now_ms)
            return
    finish_place(core, flight, plan, now_ms=now_ms)


def finish_place(
    core: ShardCore,
    flight: Flight,
    plan: Plan,
    *,
    now_ms: int,
    txn: int = 0,
    points: dict[int, tuple[int, int]] | None = None,
) -> OrderRecord:
    """The commit point of an order: its record, its stock and its decision in one entry."""
    state, slot, command = core.state, flight.prepared.slot, flight.command
    batch = core.batch(now_ms)
    order_no = flight.order_no or core.next_order_no(batch.time_ms)
    record = build_record(state, command, flight.prepared, plan, now_ms=batch.time_ms, txn=txn)
    if plan.record:
        record.decided_at = [(core.epoch, batch.seq, len(batch.decisions))]
        batch.decisions.append(plan.record)
        batch.size += len(plan.record)
    if type(command) is PlaceQuoted:
        core.quoting.bind(record, command, now_ms)
    held = record.state == _HELD
    if txn and not held:
        for leg in record.legs:
            leg.driving = not leg.local
    core.put(batch, open_order(slot, order_no, record, command))
    index_order(state, slot, order_no, record)
    if record.demand:
        core.demand.placed(slot, order_no, record, now_ms=now_ms)
        if flight.registered:  # its plan is of a moment ago: what came back since woke nobody
            for item in units_by_item(record):
                core.demand.stirred(item)
        core.demand_log.waits(slot, record, batch.time_ms)
    if held:
        state.open_holds += 1
        if core.hold_caps is not None:
            core.hold_caps.opened(record)
        core.watch_expiry(record.expires_at_ms, slot, order_no)
    else:
        state.open_orders += 1
        for leg in record.legs:
            state.work.setdefault(leg.node, {})[order_no << 12 | leg.leg_no] = slot
        if txn:
            core.driver.drive(batch.seq, slot, order_no, record)
    counts = core.counts
    counts["placed"] += 1
    counts["legs"] += len(record.legs)
    token = core.token(batch.seq, points) if points else batch.token
    settle(core, flight, order_view(core.catalog, slot, order_no, record, token=token))
    return record


def settle(core: ShardCore, flight: Flight, reply: Reply) -> None:
    """Answer everyone who waits for an order, once what the answer rests on is durable."""
    for conn, corr in flight.askers:
        core.answer(conn, corr, reply)
    core.flights.close(flight)


def no_room_for_key(core: ShardCore, key_hash: int, now_ms: int) -> Problem | None:
    """Why a new key cannot be remembered; None = it can be, or there is none.

    Asked for what adds work: orders, edits, longer holds, stock facts. What finishes or frees (commit, release, cancel, a leg's steps)
    is taken at any time, its key above the limit: refused, it would keep what it gives back, and an order has few such steps.
    """
    if not key_hash or core.state.make_room(core.time_ms(now_ms)):
        return None
    return Problem("dedupe_full", CODES["dedupe_full"].title, (), retry_after_ms=60_000)


def key_too_old(core: ShardCore, table: KeyTable | None, key_ms: int, now_ms: int) -> Problem | None:
    """Why a key that is not in a table cannot be told from one that was forgotten early; None = it can, or does not say its age."""
    if table is None or not 0 < key_ms < table.cutoff_ms:
        return None
    detail = "this time-ordered key was made before the window in which keys are remembered"
    window_ms = core.time_ms(now_ms) - table.cutoff_ms
    return refuse("key_too_old", "", detail, made_at_ms=key_ms, window_ms=window_ms)


def moved(core: ShardCore, slot: str) -> Problem:
    owner = core.catalog.owner_of_slot(slot)
    return refuse("moved", "", f"slot {slot} belongs to shard {owner}", shard=owner, version=core.catalog.version)


def _is_known(core: ShardCore, conn: int, corr: int, slot: str, command: PlaceOrder, now_ms: int) -> bool:
    """Answer a repeat of a key, a second open order under one id, or a key that may be a forgotten one; False = it is new."""
    part = core.state.slots.get(slot)
    if part is not None and command.key_hash:
        known = part.dedupe.get(command.key_hash)
        if known is not None:
            answer_repeat(core, conn, corr, slot, known[1], known[0] == command.fingerprint)
            return True
    joined = core.flights.join(conn, corr, slot, command)
    if joined is not False:
        if isinstance(joined, Problem):
            core.answer(conn, corr, joined)
        return True
    found = core.state.order_of_id(slot, command.order.order_id) if part is not None else None
    if found is None or found[1].state not in (_HELD, _COMMITTED):
        too_old = key_too_old(core, part.dedupe if part is not None else None, command.key_ms, now_ms)
        if too_old is not None:
            core.answer(conn, corr, too_old)
        return too_old is not None
    order_no, record = found
    open_id = public_id("res" if record.state == OrderState.HELD else "alc", OrderRef(slot, order_no))
    detail = f"{command.order.order_id} is open as {open_id}"
    core.answer(conn, corr, refuse("duplicate_order", "/order_id", detail, id=open_id))
    return True


def answer_repeat(core: ShardCore, conn: int, corr: int, slot: str, order_no: int, same_body: bool) -> None:
    """A repeated key: the first answer, rebuilt from the order; or 422 where the body differs."""
    if not same_body:
        core.answer(conn, corr, Problem("key_reused", CODES["key_reused"].title))
        return
    record = core.state.order(slot, order_no)
    if record is None:
        detail = "the order of this key has left the shard"  # what the key made is in the index: it is asked by these numbers
        core.answer(conn, corr, refuse("not_found", "", detail, slot=slot, order_no=order_no))
        return
    core.count("replayed")
    core.answer(conn, corr, core.view(slot, order_no, record, replayed=True))
