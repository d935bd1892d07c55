"""A network into a running engine, through its HTTP API: documents, then one count of each node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.domain.config import KEY_FIELD, Document
from loadtests.client import Client, ClientError
from loadtests.network import Network

COUNT_ROWS = 20_000
JOB_POLL_S = 0.1
Say = Callable[[str, int, int], None]
"""(what, done, of how many)."""


async def load_network(client: Client, network: Network, *, source: str = "loader", say: Say | None = None) -> None:
    """Put everything that orders need. Raises ClientError with the first refusal."""
    await load_documents(client, "carrier", network.carriers, say=say)
    await load_documents(client, "channel", network.channels, say=say)
    await load_documents(client, "node", network.nodes, say=say)
    plain = [item for item in network.items if not item.components]
    await load_documents(client, "item", plain, say=say)
    await load_documents(client, "item", [item for item in network.items if item.components], say=say)
    await load_stock(client, network, source=source, say=say)


async def load_documents(client: Client, kind: str, documents: Sequence[Document], *, say: Say | None = None) -> None:
    """Put documents of one kind: items and nodes by an import job, the few others one by one."""
    if not documents:
        return
    if kind in ("item", "node"):
        await _import(client, kind, documents, say)
        return
    for document in documents:
        name = getattr(document, KEY_FIELD[kind])
        response = await client.request("PUT", f"/v1/{kind}s/{name}", document, headers={"if-none-match": "*"})
        if response.status not in (200, 201, 412):
            raise ClientError(f"{kind} {name}: {response.status} {response.body[:400].decode(errors='replace')}")


async def _import(client: Client, kind: str, documents: Sequence[Document], say: Say | None) -> None:
    body = msgspec.json.Encoder().encode_lines(documents)
    job = await client.expect("POST", f"/v1/{kind}s/import", body, content_type="application/x-ndjson")
    while job["state"] not in ("done", "failed"):
        await asyncio.sleep(JOB_POLL_S)
        job = await client.expect("GET", f"/v1/jobs/{job['job_id']}")
        if say is not None:
            say(f"{kind}s", job["rows_done"], len(documents))
    if job["state"] == "failed" or job["rows_failed"]:
        raise ClientError(f"import of {kind}s: {job['problem']} {job['errors'][:3]}")


async def load_stock(
    client: Client, network: Network, *, source: str = "loader", sequence: int = 1, say: Say | None = None
) -> None:
    """Count every node, and set safety units where there are any."""
    stock, nodes, items = network.stock, network.nodes, network.items
    as_of = datetime.now(UTC).isoformat()
    done = 0

    async def count(node: int, rows: list[int]) -> None:
        nonlocal done
        node_id = nodes[node].node_id
        for n, first in enumerate(range(0, len(rows), COUNT_ROWS)):
            part = rows[first : first + COUNT_ROWS]
            body: dict[str, Any] = {
                "node_id": node_id,
                "source": source,
                "source_seq": sequence + n,
                "as_of": as_of,
                "scope": "delta",
                "rows": [{"sku": items[stock.item[row]].sku, "quantity": int(stock.units[row])} for row in part],
            }
            await client.expect("POST", "/v1/inventory/counts", msgspec.json.encode(body))
            safe = [row for row in part if stock.safety[row]]
            for at in range(0, len(safe), 5_000):
                positions = [
                    {"sku": items[stock.item[row]].sku, "safety_units": int(stock.safety[row])}
                    for row in safe[at : at + 5_000]
                ]
                await client.expect("PUT", "/v1/inventory/positions", {"node_id": node_id, "positions": positions})
            done += len(part)
            if say is not None:
                say("positions", done, len(stock.node))

    work = [(node, rows.tolist()) for node, rows in stock.by_node()]
    for first in range(0, len(work), 8):
        await asyncio.gather(*(count(node, rows) for node, rows in work[first : first + 8]))
