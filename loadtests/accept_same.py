"""The same orders, one after another, on 1, 2 and 4 shards with 1 and 2 gateways: the same plans and costs.

Every request carries the token of the stock and of the order before it in X-QM-After, so that each order sees all that came before. The stock is
tight enough that orders compete, and the clock is kept out of it: all legs leave in the same week or the run says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtests.accepting import Acceptance, need
from loadtests.client import Client
from loadtests.network import NetworkSpec, build_network
from loadtests.traffic import Order, Renderer, Traffic, TrafficSpec

ORDERS = 300
LAYOUTS = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2))
"""(shards, gateways)."""


async def same(run: Acceptance, *, orders_count: int = ORDERS, layouts: Sequence[tuple[int, int]] = LAYOUTS) -> None:
    """Raises Failed where two layouts decide differently."""
    network = build_network(
        NetworkSpec(
            seed=run.seed,
            warehouses=8,
            stores=12,
            skus=60,
            orders=orders_count,
            units_per_order=3.1,
            coverage=0.9,
            handling_share=0.0,
        )
    )
    orders = Traffic(network, TrafficSpec(seed=run.seed)).draw(orders_count)
    renderer = Renderer(network, on_short="partial")
    first: list[Any] | None = None
    for shards, gateways in layouts:
        name = f"same-{shards}-{gateways}"
        async with run.engine(name, network, shards=shards, gateways=gateways) as engine:
            plans = await _plans(engine.facts["urls"], engine.key, renderer, orders, network.items[0].sku)
        if first is None:
            first = plans
            cost = sum(plan.get("cost_minor", 0) for plan in plans)
            split = sum(len(plan.get("legs", ())) > 1 for plan in plans)
            short = sum(bool(plan.get("unfilled", True)) for plan in plans)
            run.say(
                f"{orders_count} orders, cost {cost / 100:,.2f}, {split} split, {short} short or refused; the others are compared to it"
            )
            continue
        different = [n for n, (a, b) in enumerate(zip(first, plans, strict=True)) if a != b]
        need(
            not different,
            f"{shards} shards, {gateways} gateways: {len(different)} of {orders_count} plans differ, the first is order",
            different[:1],
            *(f"\n  {plans_[different[0]]}" for plans_ in (first, plans) if different),
        )
        run.say(
            f"{shards} shards, {gateways} gateway{'s' if gateways > 1 else ''}: all {orders_count} plans and costs the same"
        )


async def _plans(urls: list[str], key: str, renderer: Renderer, orders: list[Order], sku: str) -> list[dict[str, Any]]:
    """What was decided, without what names the engine (ids, tokens) or the instant. sku: any of those in stock."""
    clients = [Client(url, key, connections=1) for url in urls]
    out = []
    try:
        # The stock was counted a moment ago, and a shard plans with views of the others' that may be older than that.
        counted = await clients[0].request("GET", f"/v1/availability?sku={sku}&consistency=strict")
        need(counted.status == 200, "the owners say what they have", counted.status, counted.body[:300])
        loaded = token = counted.json()["token"]
        for n, order in enumerate(orders):
            headers = {"x-qm-after": f"{loaded},{token}"}
            body = renderer.body(order, f"same-{n}")
            response = await clients[n % len(clients)].request("POST", "/v1/allocations", body, headers=headers)
            if response.status == 409:
                problem = response.json()
                out.append({"refused": problem["code"], "errors": problem["errors"]})
                continue
            need(response.status == 201, f"order {n} was answered", response.status, response.body[:300])
            made = response.json()
            token = made["token"]
            out.append(
                {
                    "legs": [
                        {
                            name: leg[name]
                            for name in ("node_id", "lines", "carrier", "service", "parcels", "cost_minor")
                        }
                        for leg in made["legs"]
                    ],
                    "unfilled": [(line["line_id"], line["quantity"], line["reason"]) for line in made["unfilled"]],
                    **{
                        name: made[name]
                        for name in ("cost_minor", "service_minor", "policy_minor", "opportunity_minor", "score")
                    },
                }
            )
    finally:
        for client in clients:
            await client.close()
    return out
