"""What is on its way to nodes: stated, listed, received, cancelled; and availability by date."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from quartermaster_client._async.lists import AsyncLists, _query
from quartermaster_client.base import Method
from quartermaster_client.calling import Operation
from quartermaster_client.models_inbound import (
    DatedAvailability,
    DatedSku,
    Inbound,
    InboundBody,
    InboundCancelBody,
    InboundPage,
    InboundReceiptBody,
    InboundRow,
    InboundStated,
)
from quartermaster_client.models_stock import Stock


class AsyncSupply(AsyncLists):
    """Expected units are on hand only when they were received."""

    async def put_inbound(
        self, node_id: str, inbound: Iterable[InboundRow], *, idempotency_key: str = ""
    ) -> list[Inbound]:
        """State up to 1,000 records of a node; a known id is replaced by what is said now. Empty = a repeat of the key."""
        stated = await self.send(
            Operation(
                name="PUT /v1/inventory/inbound",
                path="/v1/inventory/inbound",
                read=lambda reply: reply.to(InboundStated),
                body=InboundBody(node_id=node_id, inbound=list(inbound)),
                key=idempotency_key,
            )
        )
        return stated.data

    async def cancel_inbound(self, node_id: str, inbound_id: str, *, idempotency_key: str = "") -> None:
        """It does not come. NotFound: nothing of that id is expected there."""
        await self.send(
            Operation(
                name="POST /v1/inventory/inbound/cancel",
                path="/v1/inventory/inbound/cancel",
                read=lambda reply: reply.to(InboundStated),
                body=InboundCancelBody(node_id=node_id, inbound_id=inbound_id),
                key=idempotency_key,
            )
        )

    async def receive_inbound(
        self,
        node_id: str,
        inbound_id: str,
        quantity: int | None = None,
        *,
        is_last: bool = False,
        idempotency_key: str = "",
    ) -> Stock:
        """Units have come, None = all that were expected; `is_last`: the rest is not expected any more."""
        body = InboundReceiptBody(node_id=node_id, inbound_id=inbound_id, quantity=quantity, is_last=is_last)
        return await self.send(
            Operation(
                name="POST /v1/inventory/inbound/receive",
                path="/v1/inventory/inbound/receive",
                read=lambda reply: reply.to(Stock),
                body=body,
                key=idempotency_key,
            )
        )

    async def list_inbound(
        self,
        *,
        node_id: str | None = None,
        sku: str | None = None,
        late: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> InboundPage:
        """What is on its way, next first; `late`: only what should have come by now."""
        params = _query(node_id=node_id, sku=sku, late="true" if late else None, limit=limit, cursor=cursor)
        return await self.send(
            Operation(
                name="GET /v1/inventory/inbound",
                path="/v1/inventory/inbound",
                read=lambda reply: reply.to(InboundPage),
                params=params,
            )
        )

    async def iter_inbound(
        self, *, node_id: str | None = None, sku: str | None = None, late: bool = False, page_size: int = 1_000
    ) -> AsyncIterator[Inbound]:
        """All of it, page by page."""
        cursor: str | None = None
        while True:
            page = await self.list_inbound(node_id=node_id, sku=sku, late=late, limit=page_size, cursor=cursor)
            for row in page.data:
                yield row
            cursor = page.next_cursor
            if not page.has_more or cursor is None:
                return

    async def dated_availability(
        self,
        skus: str | Sequence[str],
        *,
        node_id: str | None = None,
        channel: str | None = None,
        method: Method = "ship",
    ) -> list[DatedSku]:
        """What will be available to promise of up to 100 SKUs, by instant."""
        names = [skus] if isinstance(skus, str) else list(skus)
        params: tuple[tuple[str, str | int], ...] = tuple([("sku", sku) for sku in names])
        params += _query(node_id=node_id, channel=channel, method=method)
        found = await self.send(
            Operation(
                name="GET /v1/availability/dated",
                path="/v1/availability/dated",
                read=lambda reply: reply.to(DatedAvailability),
                params=params,
            )
        )
        return found.data
