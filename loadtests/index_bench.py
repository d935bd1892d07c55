"""Searching an index of closed orders: `python -m loadtests.index_bench --orders 1000000 [--url postgresql://...]`.

Makes the index (orders of 3 lines at one node of 100, 10,000 SKUs, 200,000 customers, 4 channels, all closed) through the archiver's own
writer, then asks it as a gateway does, record decoding included, and prints the 50th, 95th and highest time of each question. The
budget: any order found by id, customer, SKU or node under 50 ms; a page of 100 with two filters under 100 ms. Exit code 1 = missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine.archive.fold import Fold
from engine.archive.index import IndexWriter, connect_index, migrate, sqlite_url
from engine.archive.reader import IndexReader, OrderFilter, OrderRow, Window
from engine.domain.events import Cause, ConfigPut, OrderPut, OrdersClosed
from engine.domain.ids import make_order_no
from engine.domain.orders import (
    Destination,
    LegRecord,
    LegState,
    LineRecord,
    OrderRecord,
    OrderState,
    decode_record,
    encode_record,
)
from engine.domain.placement import CONTROL_SHARD
from engine.journal.port import Entry
from loadtests.figures import machine

NODES, SKUS, CUSTOMERS, CHANNELS = 100, 10_000, 200_000, 4
ORDERS_PER_ENTRY, ENTRIES_PER_BATCH = 64, 32
START_MS = 1_790_000_000_000
ORDERS_PER_MS = 0.1
"""A hundred a second."""
FIND_MS, PAGE_MS = 50.0, 100.0
_encode = msgspec.msgpack.Encoder().encode


def order_record(n: int, draw: random.Random) -> OrderRecord:
    """One order that came to its end: delivered, or cancelled (2 %)."""
    node = min(int(draw.expovariate(6 / NODES)), NODES - 1)
    lines = [LineRecord(str(i), int(SKUS * draw.random() ** 2), draw.randint(1, 3), 2_500) for i in range(1, 4)]
    leg = LegRecord(
        1,
        node,
        True,
        int(LegState.CANCELLED if draw.random() < 0.02 else LegState.DELIVERED),
        [(i, line.quantity) for i, line in enumerate(lines)],
        service=64,
        parcels=1,
        ship_day=20_700,
        ship_by_s=START_MS // 1_000,
        deliver_by_s=START_MS // 1_000 + 172_800,
        cash_minor=(800, 150, 0),
    )
    state = OrderState.CANCELLED if leg.state == LegState.CANCELLED else OrderState.COMMITTED
    return OrderRecord(
        f"A-{n:08d}",
        draw.randrange(CHANNELS),
        "standard",
        int(state),
        START_MS,
        5,
        Destination("US", "10001", "NY"),
        lines,
        [leg],
        decided_at=[(1, n // ORDERS_PER_ENTRY + 1, n % ORDERS_PER_ENTRY)],
        money_minor=(950, 0, 0, 0),
        customer_id=f"C-{draw.randrange(CUSTOMERS):07d}",
    )


def entries(orders: int, seed: int) -> Iterator[Entry]:
    """Entries of one shard: each opens, changes stock, ends and closes 64 orders."""
    draw = random.Random(seed)
    for seq in range(1, orders // ORDERS_PER_ENTRY + 1):
        events: list[OrderPut | OrdersClosed] = []
        numbers = []
        first = (seq - 1) * ORDERS_PER_ENTRY
        time_ms = START_MS + int(first / ORDERS_PER_MS)
        for n in range(first, first + ORDERS_PER_ENTRY):
            record = order_record(n, draw)
            number = make_order_no(time_ms=time_ms, shard=0, counter=n - first)
            stock: list[int] = []
            for line in record.lines:
                stock += (record.legs[0].node, line.item, -line.quantity, 0, 0)
            events.append(OrderPut(Cause.ALLOCATED, "US100", number, encode_record(record), tuple(stock)))
            numbers.append(number)
        events.append(OrdersClosed("US100", tuple(numbers)))
        yield Entry(seq, 1, time_ms, 1, b"", _encode(events), b"")


def build(url: str, orders: int, seed: int) -> float:
    """Fill an empty index; returns seconds."""
    engine = connect_index(url)
    migrate(engine)
    writer = IndexWriter(engine)
    names = [ConfigPut("item", tuple((i, f"SKU-{i}", i + 1, b"{}") for i in range(SKUS)))]
    fold = Fold(CONTROL_SHARD)
    fold.add(Entry(1, 1, START_MS, 1, b"", _encode(names), b""))
    writer.write(fold)
    started = time.monotonic()
    fold = Fold(0)
    for entry in entries(orders, seed):
        fold.add(entry)
        if fold.entries == ENTRIES_PER_BATCH:
            writer.write(fold)
            fold = Fold(0)
    if fold.entries:
        writer.write(fold)
    spent = time.monotonic() - started
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    engine.dispose()
    return spent


def questions(orders: int) -> dict[str, tuple[float, Callable[[IndexReader, random.Random], int]]]:
    """Budget (ms) and question by name; a question returns how many rows it showed."""
    page, one = Window(100), Window(1)

    def shown(reader: IndexReader, rows: list[OrderRow]) -> int:
        records = [decode_record(row.record) for row in rows]
        reader.names_of("item", {line.item for record in records for line in record.lines})
        return len(rows)

    def find(
        window: Window, wanted: Callable[[random.Random], OrderFilter]
    ) -> Callable[[IndexReader, random.Random], int]:
        return lambda reader, draw: shown(reader, reader.orders(wanted(draw), window))

    def order_id(draw: random.Random) -> OrderFilter:
        return OrderFilter(order_id=f"A-{draw.randrange(orders // ORDERS_PER_ENTRY * ORDERS_PER_ENTRY):08d}")

    def customer(draw: random.Random) -> OrderFilter:
        return OrderFilter(customer_id=f"C-{draw.randrange(CUSTOMERS):07d}")

    def item(draw: random.Random, **more: object) -> OrderFilter:
        return OrderFilter(item=draw.randrange(SKUS), **more)  # type: ignore[arg-type]

    def node(draw: random.Random, **more: object) -> OrderFilter:
        return OrderFilter(node=draw.randrange(NODES), **more)  # type: ignore[arg-type]

    def middle(draw: random.Random) -> Window:
        at_ms = START_MS + int(draw.random() * orders / ORDERS_PER_MS)
        return page._replace(to_ms=at_ms)

    return {
        "by order id": (FIND_MS, find(one, order_id)),
        "by customer": (FIND_MS, find(page, customer)),
        "by SKU": (FIND_MS, find(page, item)),
        "by node": (FIND_MS, find(page, node)),
        "state + channel": (
            PAGE_MS,
            find(page, lambda draw: OrderFilter(states=("cancelled",), channels=(draw.randrange(CHANNELS),))),
        ),
        "node + state": (PAGE_MS, find(page, lambda draw: node(draw, states=("cancelled",)))),
        "SKU + state": (PAGE_MS, find(page, lambda draw: item(draw, states=("cancelled",)))),
        "SKU + node": (PAGE_MS, find(page, lambda draw: item(draw)._replace(node=draw.randrange(NODES)))),
        "state no order has + channel": (
            PAGE_MS,
            find(page, lambda draw: OrderFilter(states=("parked",), channels=(draw.randrange(CHANNELS),))),
        ),
        "node + opened before": (
            PAGE_MS,
            lambda reader, draw: shown(reader, reader.orders(node(draw), middle(draw))),
        ),
        "legs: node + state": (
            PAGE_MS,
            lambda reader, draw: len(reader.legs(node(draw), page, "cancelled")),
        ),
        "movements of a position": (
            PAGE_MS,
            lambda reader, draw: len(
                reader.movements(draw.randrange(NODES), int(SKUS * draw.random() ** 2), limit=100)
            ),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.index_bench", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=50, help="times that each question is asked, with other values")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", default="", help="an empty database (default: SQLite in a temporary folder)")
    parser.add_argument("--built", action="store_true", help="the database of --url holds these orders already")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    if arguments.built and not arguments.url:
        parser.error("--built needs --url")
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="qm-index-bench-") as folder:
        url = arguments.url or sqlite_url(Path(folder) / "index.db")
        if not arguments.built:
            spent = build(url, arguments.orders, arguments.seed)
            print(f"{arguments.orders} orders indexed in {spent:.0f} s ({spent / arguments.orders * 1e6:.0f} us each)")
        if not arguments.url:
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(f"{size / arguments.orders:.0f} bytes an order on disk")
        reader, draw = IndexReader(url), random.Random(arguments.seed)
        missed = []
        for name, (budget_ms, question) in questions(arguments.orders).items():
            times, rows = [], 0
            for _ in range(arguments.repeats):
                started = time.perf_counter()
                rows += question(reader, draw)
                times.append((time.perf_counter() - started) * 1_000)
            times.sort()
            middle, high = times[len(times) // 2], times[len(times) * 95 // 100]
            verdict = "ok" if times[-1] < budget_ms else "MISSED"
            print(
                f"{name:30} p50 {middle:7.2f}  p95 {high:7.2f}  max {times[-1]:7.2f} ms  (budget {budget_ms:.0f})  "
                f"{rows / len(times):6.1f} rows  {verdict}"
            )
            if verdict != "ok":
                missed.append(name)
            measured = {"p50_ms": middle, "p95_ms": high, "max_ms": times[-1], "budget_ms": budget_ms}
            figures[name] = {key: round(value, 2) for key, value in measured.items()} | {"rows": rows / len(times)}
        reader.close()
    result = {"machine": machine(), "seed": arguments.seed, "orders": arguments.orders, "missed": missed}
    print(json.dumps(result))
    if arguments.out is not None:
        database = "PostgreSQL" if url.startswith("postgresql") else "SQLite"
        arguments.out.write_text(json.dumps({**result, "database": database, "figures": figures}, indent=1) + "\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
