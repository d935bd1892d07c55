"""500 clients race for one unit: exactly one winner, the others get 409 out_of_stock with the numbers, in each of 20 runs."""

from __future__ import annotations

import asyncio
from collections import Counter

from loadtests.accepting import Acceptance, need
from loadtests.client import Client, Response
from loadtests.network import NetworkSpec, build_network
from loadtests.runs import verify

CLIENTS = 500
RUNS = 20


async def race(run: Acceptance) -> None:
    network = build_network(
        NetworkSpec(
            seed=run.seed, warehouses=4, stores=4, skus=RUNS, warehouse_carry=0.0, store_carry=0.0, flat_units=1
        )
    )
    # Nobody carries anything by chance, so every SKU has one node, with one unit.
    need(len(network.stock.node) == RUNS, "one position each expected, got", len(network.stock.node))
    winners = []
    async with run.engine("race", network, shards=2) as engine:
        async with Client(engine.url, engine.key, connections=CLIENTS) as client:
            for n in range(RUNS):
                responses = await asyncio.gather(
                    *(_buy(client, network.items[n].sku, f"race-{n}-{i}", i) for i in range(CLIENTS))
                )
                codes = Counter(response.code or str(response.status) for response in responses)
                need(codes["201"] == 1, f"run {n}: winners and codes", dict(codes))
                need(codes["out_of_stock"] == CLIENTS - 1, f"run {n}: codes", dict(codes))
                for response in responses:
                    if response.status == 409:
                        error = response.json()["errors"][0]
                        need(
                            error["requested"] == 1 and error["available_to_promise"] == 0,
                            f"run {n}: the numbers of a refusal",
                            error,
                        )
                winners += [r.json()["order_id"] for r in responses if r.status == 201]
        ids = run.folder / "winners"
        ids.write_text("".join(f"{order_id}\n" for order_id in winners))
        report = await asyncio.to_thread(verify, engine, [ids], folder=run.folder)
    run.say(f"{RUNS} runs of {CLIENTS} clients: one winner each, {CLIENTS - 1} refusals with numbers; drift 0")
    need(report["acknowledged"] == RUNS, "winners found", report["acknowledged"])


async def _buy(client: Client, sku: str, order_id: str, i: int) -> Response:
    body = {
        "order_id": order_id,
        "channel": "web",
        # Customers everywhere: some at the shard that owns the unit, some at the other one.
        "ship_to": {"country": "US", "postal_code": ("10001", "60614", "90001", "98101")[i % 4]},
        "lines": [{"line_id": "1", "sku": sku, "quantity": 1}],
        "on_short": "refuse",
    }
    return await client.request("POST", "/v1/allocations", body)
