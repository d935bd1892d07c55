"""Deciding an edit of an open order: what it asks, what of the order stays as it is, and what is to be planned again. Pure.

E1  Legs that were released, and what has left, stay as they are; no line shrinks below them. Held and allocated legs, and demand,
    are planned again together.
E2  An edit never takes a unit away from an order that it does not name: what a leg covered is covered afterwards, or nothing is
    changed. Units that waited may go on waiting; `on_short` speaks of added units only.
E3  A line keeps its place in the record for ever: a removed line is one whose units are all cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from engine.domain.catalog import Catalog
from engine.domain.commands import EditOrder
from engine.domain.decide_legs import Change, is_sent, take_from_leg, units_in_legs, without_stock, wrong_state
from engine.domain.decide_orders import LINES_MAX, UNITS_MAX, look_up_lines, refuse, unserved
from engine.domain.orders import (
    Destination,
    LegRecord,
    LegState,
    LineRecord,
    Method,
    OnShort,
    OrderRecord,
    OrderState,
)
from engine.domain.plan import Plan, PlannedLeg
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem

MOVABLE = (int(LegState.HELD), int(LegState.ALLOCATED))
FIXED = tuple(
    int(state)
    for state in (LegState.RELEASED, LegState.ACCEPTED, LegState.PICKING, LegState.SHIPPED, LegState.DELIVERED)
)
_ON_THE_WAY = FIXED[:3]
_LEFT = FIXED[3:]
_COUNTED = 3
"""Legs that a problem names."""


class Edited(NamedTuple):
    """An order as an edit wants it. `lines` replace those of the record, with the same places."""

    lines: list[LineRecord]
    ship_to: Destination | None
    service: str
    wanted: list[int]
    """Units by line to plan: all that stay and are in no fixed leg."""
    may_wait: list[int]
    """How many of them may stay without a leg (E2)."""
    movable: tuple[int, ...]
    """Numbers of the legs that are given up for it."""
    on_short: int
    pointers: dict[str, str]
    """Where the edit speaks of a line, by line id."""


def edit(
    record: OrderRecord, command: EditOrder, catalog: Catalog, *, name_of: Callable[[int], str]
) -> Edited | Problem:
    """What an edit asks, or the first fault. `name_of` = public id of a leg number. The record is not changed."""
    is_hold = record.state in (OrderState.HELD, OrderState.RELEASED, OrderState.EXPIRED)
    if command.of_hold is False and is_hold:
        return refuse("not_found", "", "no such allocation")
    if record.state not in (OrderState.HELD, OrderState.COMMITTED) or (command.of_hold and not is_hold):
        return wrong_state(record, "edit")
    if command.if_version is not None and command.if_version != record.version:
        detail = f"the order is at version {record.version}"
        return refuse("version_mismatch", "", detail, version=record.version, if_match=command.if_version)
    fault = _contradiction(record, command)
    if fault is not None:
        return fault
    service = command.service if command.service is not None else record.service
    ship_to = command.ship_to if command.ship_to is not None else record.ship_to
    added = _added(record, command, catalog)
    if isinstance(added, Problem):
        return added
    if record.state == OrderState.COMMITTED and ship_to is None and any(is_sent(line) for line in added):
        return refuse("invalid_field", "/ship_to", "lines that are shipped need a destination")
    lines = [replace(line) for line in record.lines] + added
    before = [line.quantity - line.cancelled for line in lines]
    after = _quantities(record, command)
    if isinstance(after, Problem):
        return after
    after += [line.quantity for line in added]
    pointers = {line_id: f"/lines/{n}/quantity" for n, (line_id, _) in enumerate(command.lines)}
    pointers |= {line_id: f"/remove_lines/{n}" for n, line_id in enumerate(command.removed)}
    pointers |= {line.line_id: f"/add_lines/{n}" for n, line in enumerate(command.added)}
    fixed = units_in_legs(record, FIXED) + [0] * len(added)
    fault = _below_fixed(record, after, fixed, pointers, name_of)
    if fault is not None:
        return fault
    if not any(after):
        pointer = "/remove_lines/0" if command.removed else "/lines"
        return refuse("invalid_field", pointer, "an edit leaves at least one unit: cancel the order instead")
    on_short = command.on_short if command.on_short is not None else record.on_short
    covered = units_in_legs(record, MOVABLE) + [0] * len(added)
    waiting = [0] * len(lines)
    for demand in record.demand:
        waiting[demand.line] += demand.quantity
    loose = without_stock(record) + [0] * len(added)
    wanted, may_wait = [0] * len(lines), [0] * len(lines)
    for i, line in enumerate(lines):
        _resize(line, before[i], after[i])
        if not loose[i] and _needs_stock(line, catalog, is_covered=bool(fixed[i] or covered[i] or waiting[i])):
            wanted[i] = after[i] - fixed[i]
            beyond = max(0, wanted[i] - covered[i])
            may_wait[i] = min(beyond, waiting[i]) if on_short == OnShort.REFUSE else beyond
    if command.service is not None or command.ship_to is not None or added:
        fault = unserved(catalog, service, record.currency, [line for line in lines if line.quantity > line.cancelled])
        if fault is not None:
            return fault
    movable = tuple([leg.leg_no for leg in record.legs if leg.state in MOVABLE])
    return Edited(lines, ship_to, service, wanted, may_wait, movable, on_short, pointers)


def _contradiction(record: OrderRecord, command: EditOrder) -> Problem | None:
    """An edit that says nothing, says one thing twice, or names what is not there."""
    if not (command.lines or command.added or command.removed) and command.ship_to is None and command.service is None:
        return refuse("invalid_field", "", "say what to change: ship_to, service, lines, add_lines or remove_lines")
    known = dict.fromkeys(line.line_id for line in record.lines)
    seen: dict[str, str] = {}
    for pointer, line_id in (
        *[(f"/lines/{n}/line_id", line_id) for n, (line_id, _) in enumerate(command.lines)],
        *[(f"/remove_lines/{n}", line_id) for n, line_id in enumerate(command.removed)],
    ):
        if line_id in seen:
            detail = f"line {line_id!r} is spoken of twice"
            return refuse("invalid_field", pointer, detail, line_id=line_id, first=seen[line_id])
        if line_id not in known:
            return refuse("invalid_field", pointer, f"the order has no line {line_id!r}", line_id=line_id)
        seen[line_id] = pointer
    for n, line in enumerate(command.added):
        if line.line_id in known:
            detail = f"the order has a line {line.line_id!r}: say its new quantity in lines"
            return refuse("invalid_field", f"/add_lines/{n}/line_id", detail, line_id=line.line_id)
    if len(record.lines) + len(command.added) > LINES_MAX:
        return refuse("too_many_lines", "/add_lines", f"an order has at most {LINES_MAX} lines", limit=LINES_MAX)
    return None


def _added(record: OrderRecord, command: EditOrder, catalog: Catalog) -> list[LineRecord] | Problem:
    """Records of the added lines. Their groups are their own: an added line joins no group that was there before."""
    if not command.added:
        return []
    looked_up = look_up_lines(catalog, command.added)
    if isinstance(looked_up, Problem):
        items = [replace(item, pointer=item.pointer.replace("/lines", "/add_lines", 1)) for item in looked_up.errors]
        return replace(looked_up, errors=tuple(items))
    newest = max((line.group for line in record.lines), default=0)
    return [replace(line, group=line.group + newest) if line.group else line for line in looked_up[0]]


def _quantities(record: OrderRecord, command: EditOrder) -> list[int] | Problem:
    """Units that each line of the record is to have; kits count in kits."""
    after = [line.quantity - line.cancelled for line in record.lines]
    changed = {line_id: (n, units) for n, (line_id, units) in enumerate(command.lines)}
    removed = dict.fromkeys(command.removed)
    for i, line in enumerate(record.lines):
        if line.line_id in removed:
            after[i] = 0
        elif line.line_id in changed:
            n, units = changed[line.line_id]
            each = line.quantity // line.kits if line.kits else 1
            if not 0 < units * each <= UNITS_MAX:
                return refuse("invalid_field", f"/lines/{n}/quantity", f"1 to {UNITS_MAX} units", line_id=line.line_id)
            after[i] = units * each
    return after


def _below_fixed(
    record: OrderRecord,
    after: list[int],
    fixed: list[int],
    pointers: dict[str, str],
    name_of: Callable[[int], str],
) -> Problem | None:
    """E1."""
    has_left = any(leg.state in _LEFT for leg in record.legs)
    loose = without_stock(record)
    for i, line in enumerate(record.lines):
        least = fixed[i] + (loose[i] if has_left else 0)
        if after[i] >= least:
            continue
        legs = [leg for leg in record.legs if leg.state in FIXED and any(index == i for index, _ in leg.lines)]
        names = [name_of(leg.leg_no) for leg in legs[:_COUNTED]]
        each = line.quantity // line.kits if line.kits else 1
        said = ", ".join(
            f"{name} is {LegState(leg.state).name.lower()}" for name, leg in zip(names, legs, strict=False)
        )
        detail = f"line {line.line_id!r} cannot have fewer than {-(-least // each)}: {said or 'it has left'}"
        facts = {
            "line_id": line.line_id,
            "requested": after[i] // each,
            "at_least": -(-least // each),
            "legs": [
                {"leg_id": name, "state": LegState(leg.state).name.lower()}
                for name, leg in zip(names, legs, strict=False)
            ],
        }
        item = ProblemItem(pointers.get(line.line_id, ""), detail, facts)
        return Problem("wrong_state", CODES["wrong_state"].title, (item,))
    return None


def _needs_stock(line: LineRecord, catalog: Catalog, *, is_covered: bool) -> bool:
    if line.method == Method.DIGITAL:
        return False
    item = catalog.items[line.item]
    return is_covered or item is None or item.tracked


def _resize(line: LineRecord, before: int, after: int) -> None:
    """More is asked for, or some of it is cancelled; kits with their components (E3)."""
    if after < before:
        line.cancelled += before - after
    elif after > before:
        each = line.quantity // line.kits if line.kits else 0
        line.quantity += after - before
        if each:
            line.kits = line.quantity // each


def shorter_than(edited: Edited, short: dict[int, int]) -> bool:
    """Whether fewer units would be covered than may be (E2); `short` = units by line that a plan leaves without a leg."""
    return any(units > edited.may_wait[line] for line, units in short.items())


# -- putting it into a record ---------------------------------------------------------------------------------------


def keepable(
    record: OrderRecord, movable: tuple[int, ...], planned: list[int], legs: list[PlannedLeg]
) -> dict[int, int]:
    """Legs of a plan that the order has already, by place in the plan: the leg's number. Same node, units and ship day."""
    kept: dict[int, int] = {}
    for leg in record.legs:
        if leg.leg_no not in movable or leg.driving:
            continue
        for n, new in enumerate(legs):
            if (
                n not in kept
                and new.node == leg.node
                and new.ship_day == leg.ship_day
                and new.capacity_units == leg.capacity_units
                and sorted((planned[i], units) for i, units in new.lines) == sorted(leg.lines)
            ):
                kept[n] = leg.leg_no
                break
    return kept


def refresh(leg: LegRecord, plan: Plan, place: int) -> None:
    """A leg that stays where it is, as it is planned now: `place` is its place in the plan."""
    new = plan.legs[place]
    leg.service = new.service
    leg.parcels = new.parcels
    leg.ship_by_s = new.ship_by_ms // 1_000
    leg.deliver_by_s = new.deliver_by_ms // 1_000
    leg.ready_s = plan.terms[place].ready_ms // 1_000 if plan.terms else 0
    leg.cash_minor = new.cash_minor


def give_up(record: OrderRecord, leg: LegRecord, change: Change, *, reason: str, state: int) -> None:
    """End a leg whose units are served by others in the same entry."""
    for i, units in list(leg.lines):
        take_from_leg(record, leg, i, units, change)
    leg.state = state
    leg.end_reason = reason
    leg.accept_by_s = 0
    leg.overdue = False


def pin_address(record: OrderRecord, ship_to: Destination | None) -> None:
    """The order's address changes: legs that are released and have not left still go to the old one."""
    if ship_to == record.ship_to:
        return
    for leg in record.legs:
        if leg.state in _ON_THE_WAY and leg.ship_to is None:
            leg.ship_to = record.ship_to
