"""A network into a running engine through the public client: documents, then one count of each node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

import quartermaster_client as qm
from engine.domain.config import Document
from loadtests.network import Network

COUNT_ROWS = 20_000
SAFETY_ROWS = 5_000
NODES_AT_ONCE = 4
Say = Callable[[str, int, int], None]
"""(what, done, of how many)."""
D = TypeVar("D", qm.Item, qm.Node, qm.Channel, qm.Carrier)


class FillError(RuntimeError):
    """The engine did not take all of it; the message says what and why."""


async def fill(client: qm.AsyncClient, network: Network, *, source: str = "filling", say: Say | None = None) -> None:
    """Put everything that orders need. Raises FillError, or the client's errors with the first refusal."""
    for carrier in network.carriers:
        await _put_new(client.put_carrier(as_client(carrier, qm.Carrier)))
    for channel in network.channels:
        await _put_new(client.put_channel(as_client(channel, qm.Channel)))
    await _import(client, "nodes", [as_client(node, qm.Node) for node in network.nodes], say)
    await fill_items(client, network, say=say)
    await count_stock(client, network, source=source, say=say)


async def fill_items(client: qm.AsyncClient, network: Network, *, say: Say | None = None) -> None:
    """Kits after what they are made of."""
    for kits in (False, True):
        items = [as_client(item, qm.Item) for item in network.items if bool(item.components) is kits]
        await _import(client, "items", items, say)


def as_client(document: Document, kind: type[D]) -> D:
    """A document of the engine as the client's: the same fields."""
    return msgspec.convert(msgspec.to_builtins(document), kind)


async def _put_new(putting: Coroutine[Any, Any, object]) -> None:
    """An engine that was filled before keeps the document that it has."""
    with suppress(qm.VersionMismatch):
        await putting


async def _import(client: qm.AsyncClient, what: str, documents: Sequence[D], say: Say | None) -> None:
    if not documents:
        return
    job = await client.import_documents(documents)
    while not job.is_over:
        await asyncio.sleep(0.1)
        job = await client.get_job(job.job_id)
        if say is not None:
            say(what, job.rows_done, len(documents))
    if job.state == "failed" or job.rows_failed:
        raise FillError(f"import of {what}: {job.problem} {job.errors[:3]}")


async def count_stock(
    client: qm.AsyncClient, network: Network, *, source: str, sequence: int = 1, say: Say | None = None
) -> None:
    """Count every node, and set safety units where there are any."""
    stock, items = network.stock, network.items
    as_of = datetime.now(UTC)
    done = 0

    async def count(node: int, rows: list[int]) -> None:
        nonlocal done
        node_id = network.nodes[node].node_id
        for n, first in enumerate(range(0, len(rows), COUNT_ROWS)):
            part = rows[first : first + COUNT_ROWS]
            counted = [qm.CountRow(sku=items[stock.item[row]].sku, quantity=int(stock.units[row])) for row in part]
            await client.count(node_id, counted, source=source, source_seq=sequence + n, as_of=as_of)
            safe = [row for row in part if stock.safety[row]]
            for at in range(0, len(safe), SAFETY_ROWS):
                positions = [
                    qm.PositionSettings(sku=items[stock.item[row]].sku, safety_units=int(stock.safety[row]))
                    for row in safe[at : at + SAFETY_ROWS]
                ]
                await client.set_positions(node_id, positions)
            done += len(part)
            if say is not None:
                say("positions", done, len(stock.node))

    work = [(node, rows.tolist()) for node, rows in stock.by_node()]
    for first in range(0, len(work), NODES_AT_ONCE):
        await asyncio.gather(*(count(node, rows) for node, rows in work[first : first + NODES_AT_ONCE]))
