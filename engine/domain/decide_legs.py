"""Changing an open order: commit, release, expire, extend, cancel, and the steps of a leg's life. Pure.

Each function takes the unpacked record, changes it, and returns a Change (the stock and capacity it moves at this shard) or a
Problem and nothing changed. Legs at other shards carry no stock here: they are marked `driving`, and the protocol drives
their shards to what the record says until they acknowledge.
One file: each takes units out of legs, lines and demand by the same few rules, which stand beside them.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.catalog import Catalog
from engine.domain.commands import ActOnLeg, CommitHold
from engine.domain.decide_orders import given_up_at_ms, refuse
from engine.domain.events import Cause
from engine.domain.ids import OrderRef, public_id
from engine.domain.labels import order_label
from engine.domain.orders import (
    DemandRecord,
    LegRecord,
    LegState,
    LineRecord,
    Method,
    OrderRecord,
    OrderState,
    nothing_left,
)
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem
from engine.domain.state import HOLD_LIFE_MAX_MS, LEG_NO_MAX

CANCELLABLE = (LegState.HELD, LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED)
UNRELEASED = (LegState.HELD, LegState.ALLOCATED)
_ENDED = (LegState.CANCELLED, LegState.REJECTED)
_LEFT = (LegState.SHIPPED, LegState.DELIVERED)
STOCK_EFFECTS = ("none", "zero_until_count", "write_off")


class Change(NamedTuple):
    """What a change of a record does here. `freed` = (line index, units) that a rejection left without a node."""

    cause: int
    stock: list[int]
    capacity: list[int]
    freed: list[tuple[int, int]]


class Step(NamedTuple):
    sources: tuple[int, ...]
    target: int
    cause: int


STEPS = {
    "release": Step((LegState.ALLOCATED,), LegState.RELEASED, Cause.LEG_RELEASED),
    "accept": Step((LegState.RELEASED,), LegState.ACCEPTED, Cause.LEG_ACCEPTED),
    "pick": Step((LegState.RELEASED, LegState.ACCEPTED), LegState.PICKING, Cause.LEG_PICKED),
    "ship": Step((LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING), LegState.SHIPPED, Cause.LEG_SHIPPED),
    "deliver": Step((LegState.SHIPPED,), LegState.DELIVERED, Cause.LEG_DELIVERED),
    "reject": Step(
        (LegState.ALLOCATED, LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING),
        LegState.REJECTED,
        Cause.LEG_REJECTED,
    ),
}


def wrong_state(record: OrderRecord, wanted: str, why: str = "", **facts: str) -> Problem:
    """The order's state does not allow it; says which state it is in, as answers show it."""
    label = order_label(record)
    code = "expired" if record.state == OrderState.EXPIRED else "wrong_state"
    return Problem(
        code,
        CODES[code].title,
        (ProblemItem("", f"cannot {wanted}: {why or f'the order is {label}'}", {"state": label, **facts}),),
    )


def take_from_leg(record: OrderRecord, leg: LegRecord, line: int, units: int, change: Change) -> int:
    """Take up to `units` of a line out of a leg; returns how many were taken. Frees stock and capacity of local legs."""
    have = sum(there for index, there in leg.lines if index == line)
    taken = min(have, units)
    if not taken:
        return 0
    before_units, before_lines = sum(there for _, there in leg.lines), len(leg.lines)
    kept: list[tuple[int, int]] = []
    left = taken
    for index, there in leg.lines:
        gone = min(there, left) if index == line else 0
        left -= gone
        if there > gone:
            kept.append((index, there - gone))
    leg.lines = kept
    if leg.local:
        item = record.lines[line].item
        if leg.state == LegState.HELD:
            change.stock.extend((leg.node, item, 0, -taken, 0))
        else:
            change.stock.extend((leg.node, item, 0, 0, -taken))
    else:
        leg.driving = True
    _shrink_capacity(leg, before_units, before_lines, change)
    return taken


def _shrink_capacity(leg: LegRecord, before_units: int, before_lines: int, change: Change) -> None:
    """Give back capacity in the unit it was taken in: all with the last line, else by units or lines where it counts those."""
    had = leg.capacity_units
    left = capacity_left(had, (before_units, before_lines), (sum(u for _, u in leg.lines), len(leg.lines)))
    leg.capacity_units = left
    if leg.local and left != had:
        change.capacity.extend((leg.node, leg.ship_day, left - had))


def capacity_left(had: int, before: tuple[int, int], after: tuple[int, int]) -> int:
    """Capacity a leg still takes when it shrinks from (units, lines) to (units, lines): counted as it was taken."""
    if after[0] == 0:
        return 0
    if had == before[0]:
        return after[0]
    if had == before[1]:
        return after[1]
    return had


def _end_empty(record: OrderRecord, state: int) -> None:
    for leg in record.legs:
        if not leg.lines and leg.state not in _ENDED:
            leg.state = state
    live = [leg for leg in record.legs if leg.state not in _ENDED]
    record.money_minor = (sum(sum(leg.cash_minor) for leg in live), *record.money_minor[1:])


def by_line(
    record: OrderRecord, lines: tuple[tuple[str, int], ...], limits: list[int], pointer: str
) -> list[int] | Problem:
    """Units by line index from (line id, units) pairs; kits count in kits. More than the limit of a line is a problem.

    A kit's component that needs no stock is in no leg: there it goes with the others and limits nothing.
    """
    wanted = [0] * len(record.lines)
    loose = without_stock(record)
    for n, (line_id, units) in enumerate(lines):
        found = [i for i, line in enumerate(record.lines) if line.line_id == line_id]
        if not found:
            return refuse("invalid_field", f"{pointer}/{n}/line_id", f"the order has no line {line_id!r}")
        if units < 1:
            return refuse("invalid_field", f"{pointer}/{n}/quantity", f"{units} is not a quantity", line_id=line_id)
        for i in found:
            line = record.lines[i]
            if line.kits and loose[i] and not limits[i]:
                continue
            wanted[i] += units * (line.quantity // line.kits) if line.kits else units
            if wanted[i] > limits[i]:
                return refuse(
                    "invalid_field",
                    f"{pointer}/{n}/quantity",
                    f"{units} asked, {limits[i]} there",
                    line_id=line_id,
                    asked=units,
                    limit=limits[i],
                )
    return wanted


def units_in_legs(record: OrderRecord, states: tuple[int, ...]) -> list[int]:
    """Units of each line in legs of the given states."""
    units = [0] * len(record.lines)
    for leg in record.legs:
        if leg.state in states:
            for i, have in leg.lines:
                units[i] += have
    return units


def kept_by(record: OrderRecord, command: CommitHold, *, now_ms: int, expires_at_ms: int) -> list[int] | Problem:
    """Units by line that a commit keeps of a hold, whether they are held, wait or need no stock: all, or those that it names."""
    if record.state == OrderState.COMMITTED:  # whoever comes second learns what the first made
        made = public_id("alc", OrderRef(command.slot, command.order_no))
        return wrong_state(record, "commit", allocation_id=made)
    if record.state != OrderState.HELD:
        return wrong_state(record, "commit")
    if now_ms >= expires_at_ms:
        return Problem("expired", CODES["expired"].title, (ProblemItem("", "the hold has expired", {}),))
    there = [line.quantity - line.cancelled for line in record.lines]
    if command.lines is None:
        return there
    keep = by_line(record, command.lines, there, "/lines")
    if isinstance(keep, list) and not any(keep):
        return refuse("invalid_field", "/lines", "nothing to commit: release the hold instead")
    return keep


def commit(
    record: OrderRecord, command: CommitHold, catalog: Catalog, *, now_ms: int, expires_at_ms: int
) -> Change | Problem:
    """held -> committed, wholly or in part: what is not committed is released in the same step."""
    keep = kept_by(record, command, now_ms=now_ms, expires_at_ms=expires_at_ms)
    if isinstance(keep, Problem):
        return keep
    if record.ship_to is None and any(is_sent(line) and keep[i] for i, line in enumerate(record.lines)):
        detail = "it was held without a destination: lines that are shipped need one to be committed"
        return refuse("invalid_field", "/ship_to", detail)
    change = Change(Cause.COMMITTED, [], [], [])
    leave_out(record, keep, change)
    begin_waiting(record, catalog, now_ms=now_ms)
    record.state = OrderState.COMMITTED
    record.expires_at_ms = 0
    for leg in record.legs:
        if leg.state != LegState.HELD or not leg.lines:
            continue
        leg.state = LegState.ALLOCATED
        if leg.local:
            for i, units in leg.lines:
                change.stock.extend((leg.node, record.lines[i].item, 0, -units, units))
        else:
            leg.driving = True
    cancel_loose(record)
    _end_empty(record, LegState.CANCELLED)
    return change


def leave_out(record: OrderRecord, keep: list[int], change: Change) -> None:
    """Cancel what a commit does not keep of a hold: units without a node first, then held ones, last leg first."""
    for i, line in enumerate(record.lines):
        drop = line.quantity - line.cancelled - keep[i]
        line.cancelled += drop
        drop -= _take_waiting(record, i, drop)
        for leg in reversed(record.legs):
            if drop <= 0:
                break
            drop -= take_from_leg(record, leg, i, drop, change)
    record.demand = [demand for demand in record.demand if demand.quantity]


def begin_waiting(record: OrderRecord, catalog: Catalog, *, now_ms: int) -> None:
    """What waits of a hold does so from its commit on (demand.py, W1): until then no date comes for it."""
    for demand in record.demand:
        demand.cancel_at_ms = given_up_at_ms(catalog, record, since_ms=now_ms)


def _take_waiting(record: OrderRecord, line: int, units: int) -> int:
    """Take up to `units` of a line out of what waits; returns how many were taken. Demand may be left without units."""
    left = units
    for demand in record.demand:
        if demand.line == line:
            taken = min(left, demand.quantity)
            demand.quantity -= taken
            left -= taken
    return units - left


def is_sent(line: LineRecord) -> bool:
    """Whether the line goes to the customer's address."""
    return line.method == Method.SHIP and line.pickup_node < 0


def give_up_held(record: OrderRecord, change: Change) -> None:
    """Cancel every held leg of a record whose units are taken elsewhere in the same entry."""
    _free_all(record, change, (LegState.HELD,))
    _end_empty(record, LegState.CANCELLED)


def end_hold(record: OrderRecord, *, expired: bool) -> Change | Problem:
    """held -> released | expired: everything goes back."""
    if record.state != OrderState.HELD:
        return wrong_state(record, "expire" if expired else "release")
    change = Change(Cause.EXPIRED if expired else Cause.RELEASED, [], [], [])
    _free_all(record, change, (LegState.HELD,))
    record.state = OrderState.EXPIRED if expired else OrderState.RELEASED
    record.demand = []
    _end_empty(record, LegState.CANCELLED)
    return change


def _free_all(record: OrderRecord, change: Change, states: tuple[int, ...]) -> None:
    for leg in record.legs:
        if leg.state in states:
            for i, units in list(leg.lines):
                take_from_leg(record, leg, i, units, change)


def extend(record: OrderRecord, *, ttl_s: int, now_ms: int, expires_at_ms: int, opened_at_ms: int) -> Change | Problem:
    """A later expiry, never an earlier one, at most to the hold's longest life."""
    if record.state != OrderState.HELD:
        return wrong_state(record, "extend")
    if now_ms >= expires_at_ms:
        return Problem("expired", CODES["expired"].title, (ProblemItem("", "the hold has expired", {}),))
    record.expires_at_ms = max(record.expires_at_ms, min(now_ms + ttl_s * 1_000, opened_at_ms + HOLD_LIFE_MAX_MS))
    return Change(Cause.EXTENDED, [], [], [])


def cancel(
    record: OrderRecord,
    lines: tuple[tuple[str, int], ...] | None,
    *,
    is_duplicate: bool = False,
    of_hold: bool | None = None,
) -> Change | Problem:
    """Cancel units of a committed order: those without a node first, then legs that picking has not reached, last leg first.

    What was made ready for a customer to collect can be cancelled until it is handed over: it lies at the node. Of a duplicate
    only legs that were not released are cancelled: nobody asked its node.
    """
    if of_hold is False and record.state in (OrderState.HELD, OrderState.RELEASED, OrderState.EXPIRED):
        return refuse("not_found", "", "no such allocation")
    if record.state == OrderState.HELD:
        return end_hold(record, expired=False)
    if record.state != OrderState.COMMITTED:
        return wrong_state(record, "cancel")
    open_units = [0] * len(record.lines)
    for leg in record.legs:
        if _is_cancellable(record, leg, is_duplicate):
            for i, have in leg.lines:
                open_units[i] += have
    for demand in record.demand:
        open_units[demand.line] += demand.quantity
    stays = tuple(state for state in LegState if state not in (*UNRELEASED, *_ENDED)) if is_duplicate else _LEFT
    if not any(leg.state in stays for leg in record.legs):  # digital lines leave with the first shipment
        for i, units in enumerate(without_stock(record)):
            open_units[i] += units
    if lines is None:
        drop = list(open_units)
    else:
        wanted = by_line(record, lines, open_units, "/lines")
        if isinstance(wanted, Problem):
            return wanted
        drop = wanted
    if not any(drop):
        return wrong_state(
            record, "cancel", f"all of it has left, is being picked or is cancelled; the order is {order_label(record)}"
        )
    change = Change(Cause.DUPLICATE_ORDER if is_duplicate else Cause.CANCELLED, [], [], [])
    for i, units in enumerate(drop):
        record.lines[i].cancelled += units
        units -= _take_waiting(record, i, units)
        for leg in reversed(record.legs):
            if units <= 0:
                break
            if _is_cancellable(record, leg, is_duplicate):
                units -= take_from_leg(record, leg, i, units, change)
    record.demand = [d for d in record.demand if d.quantity]
    cancel_loose(record)
    _end_empty(record, LegState.CANCELLED)
    if nothing_left(record):
        record.state = OrderState.CANCELLED
    return change


def cancel_loose(record: OrderRecord) -> None:
    """Cancel components that need no stock as far as the others of their kit are (W3)."""
    for line, units in zip(record.lines, without_stock(record), strict=True):
        if line.kits and units:
            kit = [other for other in record.lines if other.line_id == line.line_id]
            line.cancelled = max(other.cancelled * line.quantity // other.quantity for other in kit)


def _is_cancellable(record: OrderRecord, leg: LegRecord, is_duplicate: bool) -> bool:
    """Whether its units can still be cancelled: picking has not reached them, or they wait at the counter for a customer."""
    if is_duplicate:
        return leg.state in UNRELEASED
    if leg.state in CANCELLABLE:
        return True
    return leg.state == LegState.PICKING and all(record.lines[i].pickup_node == leg.node for i, _ in leg.lines)


def clear_holds(record: OrderRecord, reasons: tuple[str, ...] | None) -> Change | Problem | None:
    """Take hold reasons off a committed order. None = none of them is there: a repeat, nothing to do."""
    left = tuple([reason for reason in record.hold_reasons if reasons is not None and reason not in reasons])
    if left == record.hold_reasons:
        return None
    if record.state != OrderState.COMMITTED:
        return wrong_state(record, "clear holds")
    record.hold_reasons = left
    return Change(Cause.HOLDS_CLEARED, [], [], [])


def without_stock(record: OrderRecord) -> list[int]:
    """Units by line that neither a leg nor demand speaks of: digital lines and items that are not tracked."""
    units = [line.quantity - line.cancelled for line in record.lines]
    for leg in record.legs:
        for i, have in leg.lines:
            units[i] -= have
    for demand in record.demand:
        units[demand.line] -= demand.quantity
    return units


def find_leg(record: OrderRecord, leg_no: int) -> LegRecord | None:
    return next((leg for leg in record.legs if leg.leg_no == leg_no), None)


def act(record: OrderRecord, command: ActOnLeg, *, now_ms: int) -> Change | Problem | None:
    """One step of a leg. None = the leg is there already: a repeat, nothing to do."""
    step = STEPS.get(command.action)
    leg = find_leg(record, command.leg_no)
    if step is None or leg is None:
        return refuse("not_found", "", "no such leg or action")
    if leg.state == step.target and command.lines is None:
        return None
    if leg.state not in step.sources:
        label = LegState(leg.state).name.lower()
        detail = f"cannot {command.action} a leg that is {label}"
        return Problem("wrong_state", CODES["wrong_state"].title, (ProblemItem("", detail, {"state": label}),))
    if command.action == "release" and record.hold_reasons:
        reasons = ", ".join(record.hold_reasons)
        return Problem(
            "wrong_state", CODES["wrong_state"].title, (ProblemItem("", f"the order is on hold: {reasons}", {}),)
        )
    change = Change(step.cause, [], [], [])
    if command.action in ("accept", "pick", "ship"):
        leg.accept_by_s, leg.overdue = 0, False
    if command.action == "ship":
        return _ship(record, leg, command, change, now_ms)
    if command.action == "reject":
        return _reject(record, leg, command, change)
    leg.state = step.target
    return change


def _chosen(record: OrderRecord, leg: LegRecord, command: ActOnLeg) -> list[int] | Problem:
    limits = [0] * len(record.lines)
    for i, units in leg.lines:
        limits[i] += units
    return limits if command.lines is None else by_line(record, command.lines, limits, "/lines")


def _ship(record: OrderRecord, leg: LegRecord, command: ActOnLeg, change: Change, now_ms: int) -> Change | Problem:
    """Units leave the shelf. Part of a leg leaves as a shipment of its own; the rest stays in the leg."""
    chosen = _chosen(record, leg, command)
    if isinstance(chosen, Problem):
        return chosen
    if not any(chosen):
        return refuse("invalid_field", "/lines", "nothing to ship")
    leaving = [(i, units) for i, units in enumerate(chosen) if units]
    units_in_leg = dict.fromkeys((i for i, _ in leg.lines), 0)
    for i, have in leg.lines:
        units_in_leg[i] += have
    staying = [(i, have - chosen[i]) for i, have in units_in_leg.items() if have > chosen[i]]
    shipped = leg
    if staying:
        leg_no = max(other.leg_no for other in record.legs) + 1
        if leg_no > LEG_NO_MAX:
            return refuse("invalid_field", "/lines", f"an order has at most {LEG_NO_MAX} legs: ship the rest whole")
        shipped = LegRecord(
            leg_no,
            leg.node,
            leg.local,
            LegState.SHIPPED,
            leaving,
            leg.service,
            ship_day=leg.ship_day,
            ship_by_s=leg.ship_by_s,
            deliver_by_s=leg.deliver_by_s,
            source_leg=leg.leg_no,
            ship_to=leg.ship_to,
            ready_s=leg.ready_s,
        )
        _split_capacity(leg, shipped, staying)
        # What a leg costs is as planned until it is empty, however few of its units are left: so with what leaves first.
        shipped.cash_minor, leg.cash_minor = leg.cash_minor, ()
        leg.lines = staying
        record.legs.append(shipped)
    shipped.state = LegState.SHIPPED
    shipped.shipped_at_ms = now_ms
    shipped.tracking = command.tracking
    shipped.actual_cost_minor = command.actual_cost_minor
    if command.parcels is not None:
        shipped.parcels = command.parcels
    if leg.local:
        for i, units in leaving:
            change.stock.extend((leg.node, record.lines[i].item, -units, 0, -units))
    else:
        leg.driving = True
    return change


def _split_capacity(leg: LegRecord, shipped: LegRecord, staying: list[tuple[int, int]]) -> None:
    """A shipment keeps what it used of the day; where capacity counts orders, the first shipment keeps it all."""
    before = (sum(units for _, units in leg.lines), len(leg.lines))
    left = capacity_left(leg.capacity_units, before, (sum(units for _, units in staying), len(staying)))
    if left == leg.capacity_units:
        left = 0
    shipped.capacity_units = leg.capacity_units - left
    leg.capacity_units = left


def _reject(record: OrderRecord, leg: LegRecord, command: ActOnLeg, change: Change) -> Change | Problem:
    """Units that the node will not ship lose their node; it is not asked again for this order."""
    if command.stock_effect not in STOCK_EFFECTS:
        return refuse("invalid_field", "/stock_effect", f"one of {', '.join(STOCK_EFFECTS)}")
    chosen = _chosen(record, leg, command)
    if isinstance(chosen, Problem):
        return chosen
    if not any(chosen):
        return refuse("invalid_field", "/lines", "nothing to reject")
    for i, units in enumerate(chosen):
        if units:
            take_from_leg(record, leg, i, units, change)
            change.freed.append((i, units))
            _book_effect(record, leg, command.stock_effect, i, units, change)
    leg.stock_effect = command.stock_effect
    if leg.node not in record.rejected_nodes:
        record.rejected_nodes = (*record.rejected_nodes, leg.node)
    _end_empty(record, LegState.REJECTED)
    return change


def _book_effect(record: OrderRecord, leg: LegRecord, effect: str, line: int, units: int, change: Change) -> None:
    """What a rejection says about the shelf. At another shard it is part of what the leg is driven to, in all so far."""
    item = record.lines[line].item
    if effect == "write_off":
        if leg.local:
            change.stock.extend((leg.node, item, -units, 0, 0))
        else:
            leg.written_off = [*leg.written_off, (line, units)]
    elif effect == "zero_until_count" and not leg.local and item not in leg.emptied:
        leg.emptied = (*leg.emptied, item)


def resource(record: OrderRecord, leg: LegRecord, item: int, units: int) -> Change:
    """Take up to so many units of an item out of a leg because its node does not have them.

    A line that may not be split goes whole, and with it its group. What the customer collects at that node stays.
    """
    change = Change(Cause.RESOURCED, [], [], [])
    wanted: dict[int, int] = {}
    left = units
    for i, have in reversed(leg.lines):
        line = record.lines[i]
        if line.item == item and left > 0 and line.method != Method.PICKUP:
            some = have if line.group or not line.splittable else min(have, left)
            wanted[i] = wanted.get(i, 0) + some
            left -= some
    groups = {record.lines[i].group: None for i in wanted if record.lines[i].group}
    for i, have in leg.lines:
        if record.lines[i].group in groups:
            wanted[i] = have
    for i, some in sorted(wanted.items()):
        taken = take_from_leg(record, leg, i, some, change)
        if taken:
            change.freed.append((i, taken))
    _end_empty(record, LegState.CANCELLED)
    return change


def resourceable_units(record: OrderRecord, leg: LegRecord, item: int) -> int:
    """Units of an item that a leg could give up: it is not released, and no other shard has yet to hear of it."""
    if leg.state != LegState.ALLOCATED or leg.driving:
        return 0
    lines = record.lines
    return sum(units for i, units in leg.lines if lines[i].item == item and lines[i].method != Method.PICKUP)


def park_freed(
    catalog: Catalog, record: OrderRecord, freed: list[tuple[int, int]], *, reason: str, now_ms: int
) -> None:
    """Units that lost their node become parked demand of the order until a plan finds them another one."""
    cancel_at_ms = given_up_at_ms(catalog, record, since_ms=now_ms)
    for i, units in freed:
        record.demand.append(DemandRecord(i, units, reason, now_ms, True, cancel_at_ms))


class DriveTarget(NamedTuple):
    """What a leg's own shard must be brought to, by item: units that stay, shipped in all, written off in all, emptied."""

    to: int
    lines: tuple[tuple[int, int], ...]
    shipped: tuple[tuple[int, int], ...]
    written_off: tuple[tuple[int, int], ...]
    emptied: tuple[int, ...]


def drive_target(record: OrderRecord, leg: LegRecord) -> DriveTarget:
    """The whole of what home has decided about a leg at another shard, so that one repeatable command says it all."""
    shipped = [
        line
        for other in record.legs
        if other.state in _LEFT and leg.leg_no in (other.leg_no, other.source_leg)
        for line in other.lines
    ]
    staying = leg.lines if leg.state not in _LEFT and leg.state not in _ENDED else []
    if leg.state in _LEFT:
        to = int(LegState.SHIPPED)
    elif leg.state in _ENDED:
        to = leg.state
    else:
        to = int(LegState.HELD if leg.state == LegState.HELD else LegState.ALLOCATED)
    return DriveTarget(
        to,
        _by_item(record, staying),
        _by_item(record, shipped),
        _by_item(record, leg.written_off),
        leg.emptied,
    )


def _by_item(record: OrderRecord, lines: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    units_of: dict[int, int] = {}
    for i, units in lines:
        item = record.lines[i].item
        units_of[item] = units_of.get(item, 0) + units
    return tuple(sorted(units_of.items()))
