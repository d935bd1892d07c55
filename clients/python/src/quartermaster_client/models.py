"""Orders, their legs and the decisions behind them, as typed structs: what goes in and what comes back."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from quartermaster_client.base import Answer, Method, OnShort, Request

# -- orders: requests ---------------------------------------------------------------------------------------------


class ShipTo(Request, kw_only=True):
    country: str
    postal_code: str
    region: str = ""
    residential: bool = True
    lat: float | None = None
    lon: float | None = None


class OrderLine(Request, kw_only=True):
    """One line. `group`: lines of one group leave together from one node."""

    line_id: str
    sku: str
    quantity: int
    unit_price_minor: int = 0
    method: Method = "ship"
    pickup_node_id: str | None = None
    group: str | None = None
    splittable: bool = True
    tags: tuple[str, ...] = ()


class Order(Request, kw_only=True):
    """An order as the storefront states it. `order_id` is yours."""

    order_id: str
    channel: str
    lines: list[OrderLine]
    service: str = "standard"
    ship_to: ShipTo | None = None
    placed_at: datetime | None = None
    customer_id: str | None = None
    currency: str = "USD"
    on_short: OnShort | None = None
    priority: int = 0
    tags: tuple[str, ...] = ()
    promised_by: datetime | None = None
    ship_after: datetime | None = None
    max_legs: int | None = None
    hold_reasons: tuple[str, ...] = ()
    quote_id: str | None = None
    quote_option: str | None = None
    paid: bool = False
    cancel_after: datetime | None = None
    """What still waits for stock then is cancelled."""

    def collected_at(self, node_id: str) -> Order:
        """The same order, with the lines that would be shipped collected at a node instead."""
        lines = [
            replace(line, method="pickup", pickup_node_id=node_id) if line.method == "ship" else line
            for line in self.lines
        ]
        return replace(self, lines=lines)


class LineQuantity(Request, kw_only=True):
    line_id: str
    quantity: int


# -- orders: answers ----------------------------------------------------------------------------------------------


class LegLine(Answer, kw_only=True, frozen=True):
    line_id: str
    sku: str
    quantity: int


class CostParts(Answer, kw_only=True, frozen=True):
    """Expected cash of a leg by part."""

    parcels_minor: int
    handling_lines_minor: int
    handling_units_minor: int
    node_surcharge_minor: int


class Leg(Answer, kw_only=True, frozen=True):
    """What one node ships of one order, or hands over to the customer (`ready_at`)."""

    leg_id: str
    node_id: str
    state: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: datetime | None
    deliver_by: datetime | None
    cost_minor: int
    cost_parts: CostParts
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None
    ready_at: datetime | None = None
    accept_by: datetime | None = None
    """Until when its node is to accept it, once it is released."""
    overdue: bool = False
    """It was not accepted in time and no other node can serve it."""
    end_reason: str = ""
    ship_to: ShipTo | None = None
    """Where it goes, where the order's address was changed after it had been released."""
    method: Method = "ship"
    pickup_node_id: str | None = None
    """The store where the customer collects it."""


class Unfilled(Answer, kw_only=True, frozen=True):
    """Units of a line that no leg covers, and why; `demand_id` where they are parked."""

    line_id: str
    quantity: int
    reason: str
    demand_id: str | None


class Promise(Answer, kw_only=True, frozen=True):
    ship_by: datetime | None
    deliver_by: datetime | None


class Edit(Answer, kw_only=True, frozen=True):
    """The newest edit of an order: what it cost before, the difference, and the released legs that stayed as they were."""

    cost_before_minor: int
    cost_change_minor: int
    fixed_legs: list[str]


class OrderedLine(Answer, kw_only=True, frozen=True):
    """A line as it was ordered: a kit is one line here, its components are in the legs. Of `quantity`, `cancelled` are off."""

    line_id: str
    sku: str
    quantity: int
    cancelled: int = 0
    method: Method = "ship"
    pickup_node_id: str | None = None


def _live(legs: list[Leg]) -> list[Leg]:
    return [leg for leg in legs if leg.state not in ("cancelled", "rejected")]


class Allocation(Answer, kw_only=True, frozen=True):
    """A committed order. `cost_minor` is expected cash, `score` the sum that was minimised."""

    allocation_id: str
    order_id: str
    state: str
    channel: str
    customer_id: str | None
    legs: list[Leg]
    unfilled: list[Unfilled]
    cost_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score: int
    currency: str
    promise: Promise
    decision_id: str
    rung: str
    version: int
    token: str
    opened_at: datetime
    ship_to: ShipTo | None
    """Where it goes, as far as the engine keeps it: no name and no street, they are yours to keep under `order_id`."""
    lines: list[OrderedLine]
    edit: Edit | None = None

    @property
    def live_legs(self) -> list[Leg]:
        """Without those that were cancelled or rejected, which have no units: an edit or another address leaves such legs behind."""
        return _live(self.legs)


class Reservation(Answer, kw_only=True, frozen=True):
    """Held units of an order. `state`: held, committed, released or expired; once committed it names its allocation."""

    reservation_id: str
    order_id: str
    state: str
    expires_at: datetime | None
    allocation_id: str | None
    channel: str
    customer_id: str | None
    legs: list[Leg]
    unfilled: list[Unfilled]
    cost_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score: int
    currency: str
    promise: Promise
    decision_id: str
    rung: str
    version: int
    token: str
    opened_at: datetime
    ship_to: ShipTo | None
    """Where it goes, as far as the engine keeps it: no name and no street, they are yours to keep under `order_id`."""
    lines: list[OrderedLine]
    edit: Edit | None = None

    @property
    def live_legs(self) -> list[Leg]:
        """Without those that were cancelled or rejected, which have no units: an edit or another address leaves such legs behind."""
        return _live(self.legs)


class OrderLeg(Answer, kw_only=True, frozen=True):
    """A leg with the order it belongs to. `allocation_id` is None while the order is only held."""

    leg_id: str
    order_id: str
    allocation_id: str | None
    node_id: str
    state: str
    lines: list[LegLine]
    carrier: str | None
    service: str | None
    parcels: int
    ship_by: datetime | None
    deliver_by: datetime | None
    cost_minor: int
    cost_parts: CostParts
    tracking: tuple[str, ...] = ()
    actual_cost_minor: int | None = None
    ready_at: datetime | None = None
    channel: str = ""
    method: Method = "ship"
    pickup_node_id: str | None = None
    """The store where the customer collects it: its own goods, or what another node sends there."""
    ship_to: ShipTo | None = None
    """Where it is sent; None where it goes to a store or nowhere."""


class LegStep(Answer, kw_only=True, frozen=True):
    """The leg after a step, and its order: a rejection or a partial shipment changes other legs too."""

    leg: OrderLeg
    allocation: Allocation


class LegPage(Answer, kw_only=True, frozen=True):
    data: list[OrderLeg]
    next_cursor: str | None
    has_more: bool


class NodeSummary(Answer, kw_only=True, frozen=True):
    """What a node has still to do. `finished`: no unit is held or allocated there, and no leg waits to be shipped."""

    node_id: str
    node_state: str
    units_held: int
    units_allocated: int
    legs: dict[str, int]
    """Legs of committed orders by state; shipped ones until they are delivered."""
    legs_to_ship: int
    legs_overdue: int
    legs_more: bool
    finished: bool


# -- decisions -----------------------------------------------------------------------------------------------------


class Money(Answer, kw_only=True, frozen=True):
    """The four kinds of money that a plan is weighed by; `score_minor` is their sum."""

    cash_minor: int
    service_minor: int
    policy_minor: int
    opportunity_minor: int
    score_minor: int


class DecidedLeg(Answer, kw_only=True, frozen=True):
    node_id: str
    carrier: str | None
    service: str | None
    ships_on: str
    days_to_door: int
    parcels: int
    cost_parts: CostParts
    service_minor: int
    policy_minor: int
    opportunity_minor: int


class RunnerUp(Answer, kw_only=True, frozen=True):
    """The best plan with another set of nodes; its money against the chosen one's (positive = dearer)."""

    nodes: str
    difference: Money


class Candidate(Answer, kw_only=True, frozen=True):
    node_id: str
    distance_km: int
    verdict: str
    reason: str


class Looked(Answer, kw_only=True, frozen=True):
    what: str
    count: int


class Fact(Answer, kw_only=True, frozen=True):
    name: str
    value: str


class Decision(Answer, kw_only=True, frozen=True):
    """Why an order went where it went; `why` answers the `node_id` that was asked about."""

    decision_id: str
    order_id: str
    allocation_id: str
    channel: str
    sentence: str
    decided_at: datetime
    rung: str
    scope: str
    currency: str
    money: Money
    legs: list[DecidedLeg]
    runner_up: RunnerUp | None
    candidates: list[Candidate]
    looked_at: list[Looked]
    solver: list[Fact]
    versions: list[Fact]
    why: str | None
