"""Caps on held units: a hold costs its holder nothing, so whoever hoards must be stopped by number.

H1  Units of open holds by API key and by customer are counted by their home shard: a cap is one of each home, over all its slots.
H2  Units held of a position are capped as a share of what is on its shelf, by the position's owner; for legs elsewhere the TRY
    carries the share. All that is held counts, whoever holds it.
H3  The counts are a function of the records of open holds: made anew at recovery, given back with the entry that ends a hold.
H4  Only new holds, and edits that make a hold larger, are refused. An order that is allocated at once, a commit, an extension, and
    new legs for units that wait are not.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.commands import PlaceOrder
from engine.domain.decide_orders import Prepared
from engine.domain.orders import OrderRecord
from engine.domain.plan import Plan
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem

if TYPE_CHECKING:
    from engine.protocol.shard_core import ShardCore

WHOLE_BP = 10_000
OverCap = tuple[int, int, int, int]
"""(item, node, units held, most that may be held)"""


class HoldLimits(NamedTuple):
    """0 units, or the whole share = no cap."""

    units_per_key: int = 0
    units_per_customer: int = 0
    position_share_bp: int = WHOLE_BP


def over_share(core: ShardCore, need: dict[tuple[int, int], int], share_bp: int) -> tuple[OverCap, ...]:
    """Own positions, units wanted by (item, node), of which more would be held than the share allows (H2)."""
    positions = core.state.positions
    over = []
    for (item, node), units in need.items():
        row = positions.find(item, node)
        if row < 0:
            continue  # it has no units at all: refused for that
        held, most = positions.v_held[row], max(0, positions.v_on_hand[row]) * share_bp // WHOLE_BP
        if units and held + units > most:
            over.append((item, node, held, most))
    return tuple(over)


class HoldCaps:
    """The caps of one home shard and what counts against them."""

    def __init__(self, core: ShardCore, limits: HoldLimits) -> None:
        self._core = core
        self.limits = limits
        self.by_key: Counter[str] = Counter()
        self.by_customer: Counter[str] = Counter()

    @property
    def try_share_bp(self) -> int:
        """The share for a TRY; 0 = no cap."""
        share_bp = self.limits.position_share_bp
        return share_bp if share_bp < WHOLE_BP else 0

    def refusal(self, command: PlaceOrder, prepared: Prepared, plan: Plan) -> Problem | None:
        """Why a planned hold would be too much; None = it would not."""
        units = sum(units for leg in plan.legs for _, units in leg.lines)
        return self._refusal(command.holder, command.order.customer_id, units, prepared, plan, {})

    def refusal_of_more(
        self, record: OrderRecord, prepared: Prepared, plan: Plan, units: int, own: dict[tuple[int, int], int]
    ) -> Problem | None:
        """Why a hold must not become `units` larger; own = what it holds already, by (item, node)."""
        return self._refusal(record.held_by, record.customer_id, units, prepared, plan, own)

    def _refusal(
        self,
        holder: str,
        customer_id: str | None,
        units: int,
        prepared: Prepared,
        plan: Plan,
        own: dict[tuple[int, int], int],
    ) -> Problem | None:
        core, limits = self._core, self.limits
        errors = []
        for cap, limit, pointer, count, name in (
            ("key", limits.units_per_key, "", self.by_key, holder),
            ("customer", limits.units_per_customer, "/customer_id", self.by_customer, customer_id),
        ):
            if limit and name and count[name] + units > limit:
                facts = {"cap": cap, cap: name, "held": count[name], "requested": units, "limit": limit}
                detail = f"this {cap} holds {count[name]} units and may hold {limit}"
                errors.append(ProblemItem(pointer, detail, facts))
        if not errors and limits.position_share_bp < WHOLE_BP:
            need: dict[tuple[int, int], int] = {}
            for leg in plan.legs:
                if core.catalog.owns_node(leg.node):
                    for i, wanted in leg.lines:
                        key = (prepared.request.lines[i].item, leg.node)
                        need[key] = need.get(key, 0) + wanted
            more = {key: max(0, wanted - own.get(key, 0)) for key, wanted in need.items()}
            return self.position_problem(prepared, plan, over_share(core, more, limits.position_share_bp))
        return _problem(errors)

    def position_problem(self, prepared: Prepared, plan: Plan, over: tuple[OverCap, ...]) -> Problem | None:
        """The refusal of a hold that takes too much of positions, by line."""
        catalog = self._core.catalog
        pointer_of = {line.line_id: i for i, line in enumerate(prepared.request.order.lines)}
        errors = []
        for item, node, held, most in over:
            wanted: dict[int, int] = {}
            for leg in plan.legs:
                for i, units in leg.lines if leg.node == node else ():
                    if prepared.request.lines[i].item == item:
                        wanted[i] = wanted.get(i, 0) + units
            for i, units in wanted.items():
                sku, node_id = catalog.sku(item), catalog.node_id(node)
                facts = {"cap": "position", "sku": sku, "node_id": node_id, "held": held, "requested": units}
                detail = f"of {sku} at {node_id} {held} units are held and {most} may be"
                at = pointer_of.get(prepared.request.lines[i].line_id, 0)
                errors.append(ProblemItem(f"/lines/{at}", detail, {**facts, "limit": most}))
        return _problem(errors)

    def opened(self, record: OrderRecord) -> None:
        self._move(record, 1)

    def ended(self, record: OrderRecord) -> None:
        """`record` = as it was while it was held."""
        self._move(record, -1)

    def _move(self, record: OrderRecord, sign: int) -> None:
        units = sum(units for leg in record.legs for _, units in leg.lines)
        for count, name in ((self.by_key, record.held_by), (self.by_customer, record.customer_id)):
            if name:
                count[name] += sign * units
                assert count[name] >= 0, f"H3: {name} holds {count[name]} units"
                if not count[name]:
                    del count[name]


def _problem(errors: list[ProblemItem]) -> Problem | None:
    return Problem("hold_cap", CODES["hold_cap"].title, tuple(errors)) if errors else None
