"""Writes a golden journal: `python -m tests.golden.write tests/golden/FOLDER`, once for each schema, by the code that has it.

A scripted day at two shards, over HTTP: configuration, counts and movements, holds that are committed, extended, released and left
to expire, orders within and across shards, kits, a parked line, cancellations, rejections, partial shipments, and a restart.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.domain.config import NodeCapacity
from tests.builders import a_network, a_node, an_item
from tests.contract.shard_host import HostedShard
from tests.golden.golden_files import facts, recover, save
from tests.integration.gateway_engine import GatewayEngine, an_order_body

_numbers = itertools.count(1)


async def _day(engine: GatewayEngine) -> None:
    async def call(method: str, path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> Any:
        headers = {"idempotency-key": f"golden-{next(_numbers)}"} if method != "GET" else {}
        response = await engine.client.request(method, path, json=body, headers=headers)
        assert response.status_code == status, (path, response.status_code, response.text)
        return response.json()

    async def order(name: str, quantity: int = 1, *, status: int = 201, **fields: Any) -> Any:
        return await call("POST", "/v1/allocations", an_order_body(name, quantity=quantity, **fields), status=status)

    async def hold(name: str, quantity: int = 1, **fields: Any) -> Any:
        return await call("POST", "/v1/reservations", an_order_body(name, quantity=quantity, **fields), status=201)

    def lines(line_id: str, units: int) -> dict[str, Any]:
        return {"lines": [{"line_id": line_id, "quantity": units}]}

    for node in range(4):
        for sku in ("SKU-0", "SKU-1", "SKU-2"):
            await engine.stock_up(f"N-{node}", sku, 20)
    for kind, units in (("damaged", 1), ("found", 2), ("sold_in_store", 3), ("adjusted", -1)):
        move = {"node_id": "N-1", "sku": "SKU-1", "kind": kind, "quantity": units, "reason": "golden"}
        await call("POST", "/v1/inventory/adjustments", move)
    safety = {
        "node_id": "N-2",
        "positions": [{"sku": "SKU-2", "safety_units": 4}, {"sku": "SKU-1", "supply": "trusted", "trust_bp": 5_000}],
    }
    await call("PUT", "/v1/inventory/positions", safety)
    count = {
        "node_id": "N-3",
        "source": "wms",
        "as_of": datetime.now(UTC).isoformat(),
        "source_seq": 7,
        "scope": "delta",
        "rows": [{"sku": "SKU-0", "quantity": 17}],
    }
    await call("POST", "/v1/inventory/counts", count)

    shipped = await order("G-SHIP", 3, customer_id="C-1", priority=5)
    leg = shipped["legs"][0]["leg_id"]
    for step in ("release", "accept", "pick"):
        await call("POST", f"/v1/legs/{leg}/{step}", {})
    part = await call(
        "POST", f"/v1/legs/{leg}/ship", {**lines("1", 2), "parcels": 1, "tracking": ["1Z1"], "actual_cost_minor": 870}
    )
    gone = next(one for one in part["allocation"]["legs"] if one["state"] == "shipped")
    await call("POST", f"/v1/legs/{gone['leg_id']}/deliver", {})

    far = {"country": "US", "postal_code": "60601"}
    for number in range(3):
        await order(f"G-FAR-{number}", 2, ship_to=far)
    two = [{"line_id": "1", "sku": "SKU-0", "quantity": 30}, {"line_id": "2", "sku": "KIT", "quantity": 2}]
    await order("G-SPLIT", lines=two, max_legs=4)

    held = await hold("G-COMMIT", 4, ttl_s=600)
    await call("POST", f"/v1/reservations/{held['reservation_id']}/extend", {"ttl_s": 1_200})
    await call("POST", f"/v1/reservations/{held['reservation_id']}/commit", lines("1", 3))
    released = await hold("G-RELEASE")
    await call("DELETE", f"/v1/reservations/{released['reservation_id']}")
    expiring = await hold("G-EXPIRE", ttl_s=1)
    await hold("G-OPEN", 2, ttl_s=3_600, ship_to=far)

    cancelled = await order("G-CANCEL", 2)
    await call("POST", f"/v1/allocations/{cancelled['allocation_id']}/cancel", {**lines("1", 1), "reason": "golden"})
    ended = await order("G-CANCEL-ALL", sku="SKU-1")
    await call("POST", f"/v1/allocations/{ended['allocation_id']}/cancel", {})
    rejected = await order("G-REJECT", 1, sku="SKU-2")
    refusal = {"reason": "empty shelf", "stock_effect": "zero_until_count"}
    await call("POST", f"/v1/legs/{rejected['legs'][0]['leg_id']}/reject", refusal)
    await order("G-PARK", 500, sku="SKU-1", on_short="park")
    await order("G-PARTIAL", 100, sku="SKU-2", on_short="partial")

    for _ in range(400):
        state = (await call("GET", f"/v1/reservations/{expiring['reservation_id']}"))["state"]
        if state == "expired":
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the hold did not expire")


async def write(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as sockets:
        engine = GatewayEngine(Path(sockets), shards=2)
        items = [
            *[an_item(f"SKU-{n}", weight_g=500) for n in range(3)],
            an_item("KIT", components={"SKU-0": 1, "SKU-1": 2}),
        ]
        nodes = [
            a_node(
                f"N-{n}",
                postal_code=f"{(n % 2) * 500 + 10:03d}01",
                lat=40.0 + n,
                lon=-74.0 - n,
                capacity=NodeCapacity(per_day=50) if n == 0 else None,
            )
            for n in range(4)
        ]
        await engine.start(a_network(nodes=nodes, items=items, shards=2))
        await _day(engine)
        old = engine.stock[1]
        await asyncio.sleep(0.5)  # snapshots are written meanwhile; which ones does not matter
        await old.stop()
        engine.stock[1] = await HostedShard(1, Path(sockets), engine.server, engine.directory).start()
        await engine.stock_up("N-1", "SKU-1", 5)
        await engine.close()
        save(folder, engine.server)
    found = facts(recover(folder, from_parts=False))
    (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
