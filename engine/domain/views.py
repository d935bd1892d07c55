"""Records as the API shows them: names for indexes, labels derived from legs and demand."""

from __future__ import annotations

from engine.domain.catalog import Catalog
from engine.domain.demand import by_line
from engine.domain.labels import LEG_LABELS, STATE_LABELS, order_label
from engine.domain.orders import LegRecord, LegState, LineRecord, OrderRecord, OrderRequest, OrderState, Rung
from engine.domain.replies import EditView, LegLineView, LegView, Opened, OrderLineView, OrderView, UnfilledView

RUNG_LABELS = tuple(rung.name.lower() for rung in Rung)


def leg_view(catalog: Catalog, record: OrderRecord, leg: LegRecord) -> LegView:
    lines, sku = record.lines, catalog.sku
    carrier, service = catalog.service_name(leg.service)
    shown = []
    for i, units in leg.lines:
        line = lines[i]
        shown.append(LegLineView(line.line_id, sku(line.item), units))
    first = lines[leg.lines[0][0]] if leg.lines else None
    return LegView(
        leg.leg_no,
        catalog.node_id(leg.node),
        LEG_LABELS[leg.state],
        tuple(shown),
        carrier,
        service,
        leg.parcels,
        leg.ship_by_s * 1_000,
        leg.deliver_by_s * 1_000,
        sum(leg.cash_minor),
        leg.cash_minor,
        leg.tracking,
        leg.actual_cost_minor,
        leg.ready_s * 1_000,
        accept_by_ms=leg.accept_by_s * 1_000,
        overdue=leg.overdue,
        end_reason=leg.end_reason,
        ship_to=leg.ship_to,
        method=first.method if first is not None else 0,
        pickup_node_id=catalog.node_id(first.pickup_node) if first is not None and first.pickup_node >= 0 else None,
    )


def order_view(
    catalog: Catalog, slot: str, order_no: int, record: OrderRecord, *, token: str, replayed: bool = False
) -> OrderView:
    channel = catalog.channels[record.channel]
    cash, service, policy, opportunity = record.money_minor
    ship_by_ms, deliver_by_ms = record.promise
    edit = record.last_edit
    return OrderView(
        slot,
        order_no,
        record.order_id,
        order_label(record),
        tuple([leg_view(catalog, record, leg) for leg in record.legs]),
        _unfilled(record) if record.demand else (),
        cash,
        service,
        policy,
        opportunity,
        record.currency,
        ship_by_ms,
        deliver_by_ms,
        record.decision,
        RUNG_LABELS[record.rung],
        token,
        record.expires_at_ms,
        record.version,
        replayed,
        channel.channel_id if channel else "",
        record.customer_id,
        EditView(edit.cost_before_minor, edit.cost_after_minor, edit.fixed) if edit is not None else None,
        record.ship_to,
        line_views(catalog, record.lines),
    )


def line_views(catalog: Catalog, lines: list[LineRecord]) -> tuple[OrderLineView, ...]:
    """Lines as they were ordered: the components of a kit, which share its line id, are one line again."""
    shown: dict[str | int, OrderLineView] = {}
    for i, line in enumerate(lines):
        is_kit = line.kits > 0 and line.kit >= 0
        each = line.quantity // line.kits if is_kit else 1
        pickup_node_id = catalog.node_id(line.pickup_node) if line.pickup_node >= 0 else None
        view = OrderLineView(
            line.line_id,
            catalog.sku(line.kit if is_kit else line.item),
            line.kits if is_kit else line.quantity,
            line.method,
            pickup_node_id,
            line.cancelled // each,
        )
        shown.setdefault(line.line_id if is_kit else i, view)
    return tuple(shown.values())


def _unfilled(record: OrderRecord) -> tuple[UnfilledView, ...]:
    """Demand by line; a kit is short by as many kits as its scarcest component is."""
    return tuple([UnfilledView(w.line_id, w.quantity, w.reason, w.no) for w in by_line(record)])


def promise_opened(opened: Opened) -> tuple[int, int]:
    """(ship by, deliver by) in ms."""
    if opened.promise_ms != (0, 0):
        return opened.promise_ms
    ship_by_ms = max([leg.ship_by_ms for leg in opened.legs], default=0)
    return ship_by_ms, max([leg.deliver_by_ms for leg in opened.legs], default=0)


def whole_view(order: OrderRequest, opened: Opened) -> OrderView:
    """The same as `order_view` of the record of a plain order, from what was asked for and what its shard added."""
    lines = order.lines
    label = LEG_LABELS[LegState.HELD if opened.expires_at_ms else LegState.ALLOCATED]
    legs = []
    for leg_no, leg in enumerate(opened.legs, 1):
        shown = []
        for i, units in leg.lines:
            line = lines[i]
            shown.append(LegLineView(line.line_id, line.sku, units))
        legs.append(
            LegView(
                leg_no,
                leg.node_id,
                label,
                tuple(shown),
                leg.carrier,
                leg.service,
                leg.parcels,
                leg.ship_by_ms,
                leg.deliver_by_ms,
                sum(leg.cost_parts),
                leg.cost_parts,
            )
        )
    cash, service_minor, policy, opportunity = opened.money_minor
    ship_by_ms, deliver_by_ms = promise_opened(opened)
    return OrderView(
        opened.slot,
        opened.order_no,
        order.order_id,
        STATE_LABELS[OrderState.HELD] if opened.expires_at_ms else label,
        tuple(legs),
        (),
        cash,
        service_minor,
        policy,
        opportunity,
        order.currency,
        ship_by_ms,
        deliver_by_ms,
        0,
        RUNG_LABELS[opened.rung],
        opened.token,
        opened.expires_at_ms,
        1,
        False,
        order.channel,
        order.customer_id,
        None,
        order.ship_to,
        tuple([OrderLineView(line.line_id, line.sku, line.quantity) for line in lines]),
    )
