"""Looking for things: orders, decisions, legs, movements, what waits for stock, what is short."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from quartermaster_client._async.orders import AsyncOrders, _part
from quartermaster_client.calling import Operation
from quartermaster_client.models import Allocation, OrderLeg
from quartermaster_client.models_lists import (
    CancelDemandBody,
    DecisionListed,
    DemandLine,
    DemandLog,
    ExceptionListed,
    ListPage,
    Movement,
    PrioritiseBody,
    ReasonGiven,
    ShortPosition,
)

Sort = Literal["-opened_at", "opened_at"]


class AsyncLists(AsyncOrders):
    """Lists come in pages, newest first: give `next_cursor` back as `cursor` until `has_more` is False."""

    async def list_allocations(
        self,
        *,
        order_id: str | None = None,
        customer_id: str | None = None,
        sku: str | None = None,
        node_id: str | None = None,
        channel: str | None = None,
        state: str | None = None,
        opened_from: datetime | None = None,
        opened_to: datetime | None = None,
        sort: Sort = "-opened_at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[Allocation]:
        """Orders, open and closed; what is said is all true of each."""
        return await self.send(
            Operation(
                name="GET /v1/allocations",
                path="/v1/allocations",
                read=lambda reply: reply.to(ListPage[Allocation]),
                params=_query(
                    order_id=order_id,
                    customer_id=customer_id,
                    sku=sku,
                    node_id=node_id,
                    channel=channel,
                    state=state,
                    opened_from=opened_from,
                    opened_to=opened_to,
                    sort=sort,
                    limit=limit,
                    cursor=cursor,
                ),
            )
        )

    async def list_decisions(
        self,
        *,
        order_id: str | None = None,
        customer_id: str | None = None,
        sku: str | None = None,
        node_id: str | None = None,
        channel: str | None = None,
        rung: str | None = None,
        opened_from: datetime | None = None,
        opened_to: datetime | None = None,
        sort: Sort = "-opened_at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[DecisionListed]:
        return await self.send(
            Operation(
                name="GET /v1/decisions",
                path="/v1/decisions",
                read=lambda reply: reply.to(ListPage[DecisionListed]),
                params=_query(
                    order_id=order_id,
                    customer_id=customer_id,
                    sku=sku,
                    node_id=node_id,
                    channel=channel,
                    rung=rung,
                    opened_from=opened_from,
                    opened_to=opened_to,
                    sort=sort,
                    limit=limit,
                    cursor=cursor,
                ),
            )
        )

    async def exceptions(
        self,
        *,
        kind: str | None = None,
        is_open: bool | None = None,
        order_id: str | None = None,
        channel: str | None = None,
        opened_from: datetime | None = None,
        opened_to: datetime | None = None,
        sort: Sort = "-opened_at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[ExceptionListed]:
        """What people should look at: orders whose id was in use by another open order."""
        return await self.send(
            Operation(
                name="GET /v1/exceptions",
                path="/v1/exceptions",
                read=lambda reply: reply.to(ListPage[ExceptionListed]),
                params=_query(
                    kind=kind,
                    is_open=is_open,
                    order_id=order_id,
                    channel=channel,
                    opened_from=opened_from,
                    opened_to=opened_to,
                    sort=sort,
                    limit=limit,
                    cursor=cursor,
                ),
            )
        )

    async def leg_history(
        self,
        *,
        order_id: str | None = None,
        customer_id: str | None = None,
        sku: str | None = None,
        node_id: str | None = None,
        channel: str | None = None,
        state: str | None = None,
        opened_from: datetime | None = None,
        opened_to: datetime | None = None,
        sort: Sort = "-opened_at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[OrderLeg]:
        """Legs of all times; `list_legs` is the work that a node has now."""
        return await self.send(
            Operation(
                name="GET /v1/legs/history",
                path="/v1/legs/history",
                read=lambda reply: reply.to(ListPage[OrderLeg]),
                params=_query(
                    order_id=order_id,
                    customer_id=customer_id,
                    sku=sku,
                    node_id=node_id,
                    channel=channel,
                    state=state,
                    opened_from=opened_from,
                    opened_to=opened_to,
                    sort=sort,
                    limit=limit,
                    cursor=cursor,
                ),
            )
        )

    async def movements(
        self,
        node_id: str,
        sku: str,
        *,
        kind: str | None = None,
        at_from: datetime | None = None,
        at_to: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[Movement]:
        """Why a position is what it is: every change of it, newest first."""
        return await self.send(
            Operation(
                name="GET /v1/inventory/movements",
                path="/v1/inventory/movements",
                read=lambda reply: reply.to(ListPage[Movement]),
                params=_query(
                    node_id=node_id, sku=sku, kind=kind, at_from=at_from, at_to=at_to, limit=limit, cursor=cursor
                ),
            )
        )

    async def reasons(
        self, allocation_id: str, *, limit: int = 100, cursor: str | None = None
    ) -> ListPage[ReasonGiven]:
        """Why an order changed, as far as somebody gave a reason, newest first."""
        return await self.send(
            Operation(
                name="GET /v1/allocations/{allocation_id}/reasons",
                path=f"/v1/allocations/{_part(allocation_id)}/reasons",
                read=lambda reply: reply.to(ListPage[ReasonGiven]),
                params=_query(limit=limit, cursor=cursor),
            )
        )

    async def short_positions(
        self, *, node_id: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> ListPage[ShortPosition]:
        """Positions that promised more than they have."""
        return await self.send(
            Operation(
                name="GET /v1/inventory/short",
                path="/v1/inventory/short",
                read=lambda reply: reply.to(ListPage[ShortPosition]),
                params=_query(node_id=node_id, limit=limit, cursor=cursor),
            )
        )

    # -- demand ---------------------------------------------------------------------------------------------------

    async def list_demand(
        self,
        *,
        sku: str | None = None,
        channel: str | None = None,
        state: Literal["parked", "partial"] | None = None,
        reason: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage[DemandLine]:
        """Lines that wait for stock, foremost first."""
        return await self.send(
            Operation(
                name="GET /v1/demand",
                path="/v1/demand",
                read=lambda reply: reply.to(ListPage[DemandLine]),
                params=_query(sku=sku, channel=channel, state=state, reason=reason, limit=limit, cursor=cursor),
            )
        )

    async def cancel_demand(self, demand_id: str, *, reason: str = "", idempotency_key: str = "") -> Allocation:
        """Give up waiting: the line's missing units are cancelled."""
        return await self.send(
            Operation(
                name="POST /v1/demand/{demand_id}/cancel",
                path=f"/v1/demand/{_part(demand_id)}/cancel",
                read=lambda reply: reply.to(Allocation),
                body=CancelDemandBody(reason=reason),
                key=idempotency_key,
            )
        )

    async def prioritise_demand(self, demand_id: str, priority: int, *, idempotency_key: str = "") -> Allocation:
        """Move a waiting line ahead: 0 to 1,000, the highest is served first."""
        return await self.send(
            Operation(
                name="POST /v1/demand/{demand_id}/prioritise",
                path=f"/v1/demand/{_part(demand_id)}/prioritise",
                read=lambda reply: reply.to(Allocation),
                body=PrioritiseBody(priority=priority),
                key=idempotency_key,
            )
        )

    async def demand_log(self, *, limit: int = 100, cursor: str | None = None) -> DemandLog:
        """What was asked for, and what became of it: refused, quoted, parked, served."""
        return await self.send(
            Operation(
                name="GET /v1/demand/log",
                path="/v1/demand/log",
                read=lambda reply: reply.to(DemandLog),
                params=_query(limit=limit, cursor=cursor),
            )
        )


def _query(**values: str | int | datetime | None) -> tuple[tuple[str, str | int], ...]:
    """Parameters that are said, instants as text."""
    return tuple(
        (name, value.isoformat() if isinstance(value, datetime) else value)
        for name, value in values.items()
        if value is not None
    )
