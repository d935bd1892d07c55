"""Golden journals: what a version wrote, kept for ever, and the state that it meant.

A folder holds `shard-N.jsonl` for each shard (the control shard is 255): entries and snapshot parts as they were stored, base64;
and `expected.json`, what an operator would have seen. `python -m tests.golden.write FOLDER` makes one; it is made once for each
schema, by the version that wrote it, and never again. Kinds of events that come without a new schema get a folder of their own
(`python -m tests.golden.write_breadth FOLDER`), once they are settled.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.domain.catalog import Catalog
from engine.domain.config_state import ConfigState, Stored
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigDoc
from engine.domain.views import order_view
from engine.journal.chain import Verifier
from engine.journal.memory import MemoryServer
from engine.journal.port import Entry, PartRef
from engine.journal.upgrade import entry_payload, part_data
from engine.protocol.control_core import ControlCore
from engine.protocol.reads import stock_view
from engine.protocol.shard_core import ShardCore
from tests.sim.greedy_planner import GreedyPlanner

ROOT = Path(__file__).parent
ORDER_FIELDS = ("order_id", "state", "cost_minor", "currency", "channel", "customer_id", "expires_at_ms", "version")
LEG_FIELDS = (
    "leg_no",
    "node_id",
    "state",
    "carrier",
    "service",
    "parcels",
    "cost_minor",
    "tracking",
    "actual_cost_minor",
)
STOCK_FIELDS = ("on_hand", "held", "allocated", "safety", "available_to_promise", "short_by", "supply")


def folders() -> list[Path]:
    return sorted(path.parent for path in ROOT.glob("*/expected.json"))


def save(folder: Path, server: MemoryServer) -> None:
    """All journals of a memory server, one file each."""
    for number, shard in server.shards.items():
        parts = [
            (refs[0], shard.snapshots[part, refs[0].seq])
            for part, refs in sorted(shard.parts.items())
            if part != "floor"  # says where to begin reading; here everything is read
        ]
        save_shard(folder, number, shard.entries.values(), parts)


def save_shard(folder: Path, number: int, entries: Iterable[Entry], parts: Iterable[tuple[PartRef, bytes]]) -> None:
    """One journal: its entries, then the newest snapshot of each part."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [
        {
            "seq": e.seq,
            "epoch": e.epoch,
            "time_ms": e.time_ms,
            "schema": e.schema,
            "prev_hash": e.prev_hash.hex(),
            "hash": e.hash.hex(),
            "payload": base64.b64encode(e.payload).decode(),
        }
        for e in entries
    ]
    lines += [
        {"part": ref.part, "seq": ref.seq, "schema": ref.schema, "data": base64.b64encode(data).decode()}
        for ref, data in parts
    ]
    (folder / f"shard-{number}.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def load(path: Path) -> tuple[list[Entry], list[tuple[PartRef, bytes]]]:
    """(entries, parts with their bytes) of one file; the chain is verified."""
    entries, parts = [], []
    verifier = Verifier(after_seq=0)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "part" in row:
            data = base64.b64decode(row["data"])
            parts.append((PartRef(row["part"], row["seq"], b"", len(data), row["schema"]), data))
            continue
        entry = Entry(
            row["seq"],
            row["epoch"],
            row["time_ms"],
            row["schema"],
            bytes.fromhex(row["prev_hash"]),
            base64.b64decode(row["payload"]),
            bytes.fromhex(row["hash"]),
        )
        verifier.check(entry)
        entries.append(entry)
    return entries, parts


def recover(folder: Path, *, from_parts: bool) -> dict[int, Any]:
    """Cores by shard after reading a golden folder: from the first entry, or from the snapshots and what came after them."""
    cores: dict[int, Any] = {}
    paths = sorted(folder.glob("shard-*.jsonl"), key=lambda path: int(path.stem.split("-")[1]), reverse=True)
    assert paths[0].stem == f"shard-{CONTROL_SHARD}", "the configuration comes first"
    for path in paths:
        number = int(path.stem.split("-")[1])
        core: Any = (
            ControlCore() if number == CONTROL_SHARD else ShardCore(number, catalog_of(cores, number), GreedyPlanner)
        )
        entries, parts = load(path)
        if from_parts:
            for ref, data in parts:
                core.load_part(ref.part, ref.seq, part_data(ref.part, ref.schema, data))
        for entry in entries:  # what a part contains already is skipped by the core itself
            core.replay(entry.seq, entry.time_ms, entry_payload(entry.schema, entry.payload))
        last = entries[-1]
        core.recovered(epoch=last.epoch, seq=last.seq, time_ms=last.time_ms, now_ms=last.time_ms)
        cores[number] = core
    return cores


def catalog_of(cores: dict[int, Any], shard: int) -> Catalog:
    """The configuration that the control shard has."""
    catalog = Catalog(shard)
    state = cores[CONTROL_SHARD].state
    documents = [ConfigDoc(kind, doc.name, index, doc.version, doc.document) for kind, index, doc in _documents(state)]
    catalog.apply(documents, state.version)
    return catalog


def facts(cores: dict[int, Any]) -> dict[str, Any]:
    """What an operator sees: orders with their legs, positions, documents; and what is on its way, where anything is."""
    inbound: dict[str, Any] = {}
    orders: dict[str, Any] = {}
    stock: dict[str, Any] = {}
    for number, core in sorted(cores.items()):
        if number == CONTROL_SHARD:
            continue
        state, catalog = core.state, core.catalog
        for slot, part in sorted(state.slots.items()):
            for order_no in part.orders:
                record = state.order(slot, order_no)
                view = order_view(catalog, slot, order_no, record, token="")
                shown = {name: getattr(view, name) for name in ORDER_FIELDS}
                shown["legs"] = [
                    {
                        **{name: getattr(leg, name) for name in LEG_FIELDS},
                        "lines": [[line.line_id, line.sku, line.quantity] for line in leg.lines],
                    }
                    for leg in view.legs
                ]
                shown["unfilled"] = [[u.line_id, u.quantity, u.reason] for u in view.unfilled]
                orders[f"{slot}/{order_no}"] = shown
        for node in sorted(state.nodes):
            for name, row in sorted(state.node(node).inbound.items()):
                inbound[f"{catalog.nodes[node].node_id}/{name}"] = list(row)
            for item in range(len(catalog.items)):
                if state.positions.find(item, node) >= 0:
                    seen = stock_view(core, node, item, 0)
                    name = f"{seen.node_id}/{seen.sku}"
                    stock[name] = {field: getattr(seen, field) for field in STOCK_FIELDS}
    control = cores[CONTROL_SHARD].state
    documents = {f"{kind}/{doc.name}": [index, doc.version] for kind, index, doc in _documents(control)}
    found = {"orders": orders, "stock": stock, "documents": documents, **({"inbound": inbound} if inbound else {})}
    return json.loads(json.dumps(found))


def _documents(state: ConfigState) -> Iterator[tuple[str, int, Stored]]:
    for kind, table in sorted(state.kinds.items()):
        for index, doc in enumerate(table.docs):
            if doc is not None:
                yield kind, index, doc
