"""No entry grows past what the journal takes, whatever arrives at once: a shard whose entry is refused cannot go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.actors.clock import wall_ms
from engine.domain.commands import AdjustStock, CountStock, StockMove
from engine.domain.replies import OrderView, Problem, StockReply
from engine.protocol.shard_core import BATCH_BYTES_MAX
from tests.builders import a_line, a_network, a_place, an_item, an_order
from tests.contract.shard_host import Engine

ITEMS = 1_000


@pytest.fixture
async def engine(tmp_path: Path, left: list[str]) -> AsyncIterator[Engine]:
    items = [an_item(f"SKU-{n}", weight_g=500) for n in range(ITEMS)]
    engine = Engine(tmp_path, 1, snapshot_interval_s=3_600.0)
    await engine.start(a_network(nodes=2, items=items))
    yield engine
    await engine.close()
    assert left == []


def gate(engine: Engine) -> asyncio.Event:
    """While it is closed nothing is appended, so that what is asked gathers."""
    runner = engine.stock[0].runner
    assert runner is not None
    append, open_gate = runner.journal.append, asyncio.Event()

    async def gated(*arguments: object, **more: object) -> object:
        await open_gate.wait()
        return await append(*arguments, **more)  # type: ignore[arg-type]

    runner.journal.append = gated  # type: ignore[method-assign, assignment]
    return open_gate


def largest_entry(engine: Engine) -> int:
    return max(len(entry.payload) for entry in engine.server.shard(0).entries.values())


async def test_many_large_stock_changes_take_several_entries(engine: Engine) -> None:
    moves = tuple([StockMove(f"SKU-{n}", "received", 1_000_000) for n in range(ITEMS)])
    rows = tuple([(f"SKU-{n}", 100_000) for n in range(ITEMS)])
    now_ms = wall_ms()
    open_gate = gate(engine)
    asked = [engine.cluster.submit(0, AdjustStock("N-0", moves, key_hash=n + 1)) for n in range(60)]
    asked += [
        engine.cluster.submit(0, CountStock("N-1", "erp", now_ms + n, n + 1, "delta", rows, key_hash=100 + n))
        for n in range(60)
    ]
    await asyncio.sleep(0.2)
    open_gate.set()
    replies = await asyncio.gather(*asked)
    assert all(isinstance(reply, StockReply) for reply in replies), [r for r in replies if isinstance(r, Problem)][:1]
    assert largest_entry(engine) < BATCH_BYTES_MAX


async def test_many_large_orders_take_several_entries(engine: Engine) -> None:
    await engine.cluster.ask(
        0, AdjustStock("N-0", tuple([StockMove(f"SKU-{n}", "received", 1_000_000) for n in range(ITEMS)]))
    )
    lines = [a_line(f"SKU-{n}", 1, line_id=f"line-{n}") for n in range(500)]
    open_gate = gate(engine)
    asked = [engine.cluster.submit(0, a_place(an_order(f"A-{n}", lines), key=n + 1)) for n in range(40)]
    await asyncio.sleep(0.2)
    open_gate.set()
    replies = await asyncio.gather(*asked)
    assert all(isinstance(reply, OrderView) for reply in replies), [r for r in replies if isinstance(r, Problem)][:1]
    assert largest_entry(engine) < BATCH_BYTES_MAX
