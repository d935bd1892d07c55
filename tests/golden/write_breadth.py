"""Writes the golden journal of what came after the first: `python -m tests.golden.write_breadth tests/golden/FOLDER`, once.

A simulated life at two shards without faults: nodes and slots that move, waves, legs that change hands, edits, quotes; then stock that is
expected and comes, a shard that is killed, and orders that leave memory because the index has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.domain.commands import CancelInbound, PutInbound, ReceiveInbound
from engine.domain.placement import shard_of_node
from engine.journal.chain import GENESIS, PART_SCHEMA, next_tail
from engine.journal.port import SCHEMA_VERSION, Entry, PartRef
from tests.golden.golden_files import facts, recover, save_shard
from tests.sim.clients import Clients
from tests.sim.harness import CALM, World
from tests.sim.journal import SimJournal
from tests.sim.run_seed import run_seed

SEED = 2
CLOSE_AFTER_MS = 3_600_000


def a_life() -> World:
    world = run_seed(SEED, shards=2, faults=CALM, commands=100)
    clients: Clients = world.clients  # type: ignore[attr-defined]
    for node in clients.nodes[:2]:
        rows = tuple((f"PO-{n}", f"SKU-{n}", 5 + n, world.now_ms + (n + 1) * 1_000) for n in range(3))
        for command in (
            PutInbound(node.node_id, rows, **clients.key()),
            ReceiveInbound(node.node_id, "PO-1", 2, **clients.key()),
            CancelInbound(node.node_id, "PO-2", **clients.key()),
        ):
            clients.send(shard_of_node(world.placement, node), command)
            world.run(200)
    world.crash(world.processes[1])
    world.calm_down(for_ms=1_000)
    for _ in range(3):
        world.run(CLOSE_AFTER_MS // 2)
        for core in world.cores():
            core.archived(core.state.seq, core.state.time_ms, index_is_whole=True)
        for node in clients.nodes:  # an entry after the news, so that what is due may go
            row = ("PO-9", "SKU-0", 1, world.now_ms + 60_000)
            clients.send(shard_of_node(world.placement, node), PutInbound(node.node_id, (row,), **clients.key()))
        world.run(1_000)
    world.calm_down(for_ms=1_000)
    assert not clients.open
    return world


def _save(folder: Path, number: int, journal: SimJournal) -> None:
    tail, entries = GENESIS, []
    for entry in journal.entries:
        before, tail = tail, next_tail(tail, epoch=entry.epoch, time_ms=entry.time_ms, payload=entry.payload)
        entries.append(
            Entry(entry.seq, entry.epoch, entry.time_ms, SCHEMA_VERSION, before.hash, entry.payload, tail.hash)
        )
    parts = []
    for part, kept in sorted(journal.parts.items()):
        seq, data = kept[0]
        parts.append((PartRef(part, seq, b"", len(data), PART_SCHEMA), data))
    save_shard(folder, number, entries, parts)


def write(folder: Path) -> None:
    world = a_life()
    for number, journal in world.journals.items():
        _save(folder, number, journal)
    found = facts(recover(folder, from_parts=False))
    assert found == facts({number: process.core for number, process in world.processes.items()})
    (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
