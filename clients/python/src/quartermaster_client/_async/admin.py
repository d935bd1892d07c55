"""Stock and configuration: availability, movements, counts, items, nodes, channels, carriers, imports, health."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

from quartermaster_client import bodies
from quartermaster_client._async.inbound import AsyncSupply
from quartermaster_client._async.orders import _part
from quartermaster_client._async.streaming import AsyncStreaming
from quartermaster_client.base import CountScope, Method, MoveKind
from quartermaster_client.calling import NDJSON, Operation, Reply
from quartermaster_client.documents import DOCUMENTS, Document, Stored
from quartermaster_client.errors import QuartermasterError
from quartermaster_client.models_config import Carrier, Channel, Item, Node
from quartermaster_client.models_stock import (
    Availability,
    CountRow,
    Job,
    Move,
    PositionSettings,
    Ready,
    Stock,
    Stores,
    Version,
)

JOB_POLL_MAX_S = 1.0
D = TypeVar("D", Item, Node, Channel, Carrier)


class AsyncClient(AsyncSupply, AsyncStreaming):
    """A Quartermaster engine over HTTP. Safe to share between tasks; close it, or use it as a context manager."""

    # -- stock ----------------------------------------------------------------------------------------------------

    async def availability(
        self,
        skus: str | Sequence[str],
        *,
        node_id: str | None = None,
        channel: str | None = None,
        method: Method = "ship",
        postal_code: str | None = None,
        country: str = "US",
        at: tuple[float, float] | None = None,
        after: str | None = None,
        strict: bool = False,
    ) -> Availability:
        """What can be promised of up to 100 SKUs, by node and in all, and which state of which shard says so.

        The gateway answers from its own view, `as_of` says how old; `strict` asks the shards that own the stock.
        With a postal code, or `at` (lat, lon): at nodes that could ship there at all, nearest first, as the owners say.
        """
        names = [skus] if isinstance(skus, str) else list(skus)
        params: list[tuple[str, str | int]] = [("sku", sku) for sku in names]
        params += [(name, value) for name, value in (("node_id", node_id), ("channel", channel)) if value]
        if method != "ship":
            params.append(("method", method))
        if postal_code is not None or at is not None:
            params.append(("country", country))
        if postal_code is not None:
            params.append(("postal_code", postal_code))
        if at is not None:
            params += [("lat", str(at[0])), ("lon", str(at[1]))]
        if strict:
            params.append(("consistency", "strict"))
        return await self.send(
            Operation(
                name="GET /v1/availability",
                path="/v1/availability",
                read=lambda reply: reply.to(Availability),
                params=tuple(params),
                after=after,
            )
        )

    async def stores(
        self,
        wanted: str | Mapping[str, int],
        *,
        postal_code: str | None = None,
        country: str = "US",
        at: tuple[float, float] | None = None,
        radius_km: int = 50,
        method: Literal["pickup", "ship_to_store"] = "pickup",
        channel: str | None = None,
        in_stock: bool = False,
        limit: int = 20,
        cursor: str | None = None,
    ) -> Stores:
        """Stores near a postal code, or near `at` (lat, lon), by distance: what they have of `wanted` (units by SKU) and when it
        would be ready."""
        units = {wanted: 1} if isinstance(wanted, str) else dict(wanted)
        params: list[tuple[str, str | int]] = [("sku", sku) for sku in units]
        params += [("quantity", quantity) for quantity in units.values()]
        params += [("country", country), ("radius_km", radius_km), ("method", method), ("limit", limit)]
        params += [(k, v) for k, v in (("postal_code", postal_code), ("channel", channel), ("cursor", cursor)) if v]
        if at is not None:
            params += [("lat", str(at[0])), ("lon", str(at[1]))]
        if in_stock:
            params.append(("in_stock", "true"))
        return await self.send(
            Operation(
                name="GET /v1/availability/stores",
                path="/v1/availability/stores",
                read=lambda reply: reply.to(Stores),
                params=tuple(params),
            )
        )

    async def adjust(
        self,
        node_id: str,
        sku: str,
        kind: MoveKind,
        quantity: int,
        *,
        reason: str = "",
        expected_on_hand: int | None = None,
        idempotency_key: str = "",
    ) -> Stock:
        """Book one movement. Facts are never refused: `short_by` and `legs_short` show what they broke.

        `expected_on_hand`: only if so many units are on hand now (else Conflict, `stock_changed`).
        """
        move = Move(sku=sku, kind=kind, quantity=quantity, reason=reason, expected_on_hand=expected_on_hand)
        return await self.adjust_many(node_id, [move], idempotency_key=idempotency_key)

    async def adjust_many(self, node_id: str, moves: Iterable[Move], *, idempotency_key: str = "") -> Stock:
        """Book up to 1,000 movements of one node, all or none."""
        return await self.send(
            Operation(
                name="POST /v1/inventory/adjustments",
                path="/v1/inventory/adjustments",
                read=lambda reply: reply.to(Stock),
                body=bodies.AdjustmentBody(node_id=node_id, moves=list(moves)),
                key=idempotency_key,
            )
        )

    async def count(
        self,
        node_id: str,
        rows: Iterable[CountRow],
        *,
        source: str,
        source_seq: int,
        as_of: datetime | None = None,
        scope: CountScope = "delta",
        idempotency_key: str = "",
    ) -> Stock:
        """What the shelf held as of an instant (now if not said); what the engine booked after it stays booked.

        A `source` counts its counts up in `source_seq`, for each node by itself; an older one is refused (Conflict, `stale_count`).
        A SKU that is not known refuses the whole count. Give `as_of` with a key of yours: without it each call is another one. A
        repeat of a key shows no positions.
        """
        body = bodies.CountBody(
            node_id=node_id,
            source=source,
            as_of=as_of or datetime.now(UTC),
            source_seq=source_seq,
            rows=list(rows),
            scope=scope,
        )
        return await self.send(
            Operation(
                name="POST /v1/inventory/counts",
                path="/v1/inventory/counts",
                read=lambda reply: reply.to(Stock),
                body=body,
                key=idempotency_key,
            )
        )

    async def set_positions(
        self, node_id: str, positions: Iterable[PositionSettings], *, idempotency_key: str = ""
    ) -> Stock:
        """Set safety stock and supply mode."""
        return await self.send(
            Operation(
                name="PUT /v1/inventory/positions",
                path="/v1/inventory/positions",
                read=lambda reply: reply.to(Stock),
                body=bodies.PositionsBody(node_id=node_id, positions=list(positions)),
                key=idempotency_key,
            )
        )

    # -- configuration --------------------------------------------------------------------------------------------

    async def get_item(self, sku: str) -> Stored[Item]:
        return await self._get(Item, sku)

    async def put_item(self, item: Item, *, if_version: int | None = None) -> Stored[Item]:
        """Create an item, or replace the version that you read. Raises VersionMismatch where it is another by now."""
        return await self._put(item, if_version)

    def iter_items(self) -> AsyncIterator[Item]:
        return self._iter(Item)

    async def get_node(self, node_id: str) -> Stored[Node]:
        return await self._get(Node, node_id)

    async def put_node(self, node: Node, *, if_version: int | None = None) -> Stored[Node]:
        """As `put_item`."""
        return await self._put(node, if_version)

    def iter_nodes(self) -> AsyncIterator[Node]:
        return self._iter(Node)

    async def get_channel(self, channel_id: str) -> Stored[Channel]:
        return await self._get(Channel, channel_id)

    async def put_channel(self, channel: Channel, *, if_version: int | None = None) -> Stored[Channel]:
        """As `put_item`."""
        return await self._put(channel, if_version)

    def iter_channels(self) -> AsyncIterator[Channel]:
        return self._iter(Channel)

    async def get_carrier(self, carrier_id: str) -> Stored[Carrier]:
        return await self._get(Carrier, carrier_id)

    async def put_carrier(self, carrier: Carrier, *, if_version: int | None = None) -> Stored[Carrier]:
        """As `put_item`."""
        return await self._put(carrier, if_version)

    def iter_carriers(self) -> AsyncIterator[Carrier]:
        return self._iter(Carrier)

    async def _get(self, kind: type[D], name: str) -> Stored[D]:
        at = DOCUMENTS[kind]
        return await self.send(
            Operation(
                name=f"GET /v1/{at.path}/{{{at.key}}}",
                path=f"/v1/{at.path}/{_part(name)}",
                read=lambda reply: Stored(reply.to(kind), reply.version, False),
            )
        )

    async def _put(self, document: D, if_version: int | None) -> Stored[D]:
        kind: type[D] = type(document)
        at = DOCUMENTS[kind]
        etag = f'"{if_version}{"-m" if self._config.packed else ""}"'
        return await self.send(
            Operation(
                name=f"PUT /v1/{at.path}/{{{at.key}}}",
                path=f"/v1/{at.path}/{_part(getattr(document, at.key))}",
                read=lambda reply: Stored(reply.to(kind), reply.version, reply.status == 201),
                body=document,
                key="",
                headers=(("if-match", etag),) if if_version is not None else (),
            )
        )

    async def _iter(self, kind: type[D]) -> AsyncIterator[D]:
        """Every document of a kind, page by page, in the order of their ids."""
        path = f"/v1/{DOCUMENTS[kind].path}"
        cursor: str | None = None
        while True:
            params: list[tuple[str, str | int]] = [("limit", 1_000)]
            if cursor is not None:
                params.append(("cursor", cursor))
            documents, cursor = await self.send(
                Operation(name=f"GET {path}", path=path, read=lambda reply: _page(reply, kind), params=tuple(params))
            )
            for document in documents:
                yield document
            if cursor is None:
                return

    # -- imports --------------------------------------------------------------------------------------------------

    async def import_documents(self, documents: Iterable[Document], *, idempotency_key: str = "") -> Job:
        """Put many documents of one kind as a job. See `wait_for`."""
        rows = list(documents)
        kinds = {type(row) for row in rows}
        if len(kinds) != 1:
            raise ValueError("documents of one kind, and at least one")
        path = f"/v1/{DOCUMENTS[kinds.pop()].path}/import"
        return await self._import(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows), (), idempotency_key)

    async def import_counts(
        self,
        rows: Iterable[tuple[str, str, int]],
        *,
        scope: CountScope = "delta",
        source: str | None = None,
        source_seq: int | None = None,
        as_of: datetime | None = None,
        dry_run: bool = False,
        idempotency_key: str = "",
    ) -> Job:
        """Counts of many nodes, (node id, SKU, units) each, as a job. See `wait_for`.

        `dry_run`: change nothing; the job's `would_change` says what they would.
        """
        encode = msgspec.json.Encoder().encode
        body = b"".join(encode({"node_id": n, "sku": s, "quantity": q}) + b"\n" for n, s, q in rows)
        stated = (("source", source), ("source_seq", source_seq), ("as_of", as_of.isoformat() if as_of else None))
        params: list[tuple[str, str | int]] = [("scope", scope)]
        if dry_run:
            params.append(("dry_run", "true"))
        params += [(name, value) for name, value in stated if value is not None]
        return await self._import("/v1/inventory/import", body, tuple(params), idempotency_key)

    async def _import(self, path: str, body: bytes, params: tuple[tuple[str, str | int], ...], key: str) -> Job:
        return await self.send(
            Operation(
                name=f"POST {path}",
                path=path,
                read=lambda reply: reply.to(Job),
                body=body,
                content_type=NDJSON,
                params=params,
                key=key,
            )
        )

    async def get_job(self, job_id: str) -> Job:
        return await self.send(
            Operation(name="GET /v1/jobs/{job_id}", path=f"/v1/jobs/{_part(job_id)}", read=lambda reply: reply.to(Job))
        )

    async def wait_for(self, job: Job, *, timeout_s: float = 600.0) -> Job:
        """The job when it is over. Raises QuartermasterError after `timeout_s`; the job itself goes on."""
        deadline_s = time.monotonic() + timeout_s
        wait_s = 0.02
        while not job.is_over:
            if time.monotonic() > deadline_s:
                raise QuartermasterError(f"{job.job_id} is not over after {timeout_s:g} s: {job.rows_done} rows done")
            await self._sleep(wait_s)
            wait_s = min(JOB_POLL_MAX_S, wait_s * 2)
            job = await self.get_job(job.job_id)
        return job

    # -- health ---------------------------------------------------------------------------------------------------

    async def ready(self) -> Ready:
        """Raises Unavailable while the engine is not ready."""
        return await self.send(Operation(name="GET /readyz", path="/readyz", read=lambda reply: reply.to(Ready)))

    async def version(self) -> Version:
        return await self.send(Operation(name="GET /version", path="/version", read=lambda reply: reply.to(Version)))


def _page(reply: Reply, kind: type[D]) -> tuple[list[D], str | None]:
    page = reply.to(bodies.Page)
    documents = [reply._replace(body=bytes(raw)).to(kind) for raw in page.data]
    return documents, page.next_cursor if page.has_more else None
