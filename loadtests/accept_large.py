"""Orders of 500 lines alone on the machine: answered within 50 ms at p99, split where they must be."""

from __future__ import annotations

import time

import numpy as np

from loadtests.accepting import Acceptance, need
from loadtests.client import Client
from loadtests.histogram import Histogram
from loadtests.network import NetworkSpec, build_network
from loadtests.traffic import Renderer, Traffic, TrafficSpec

LINES = 500
ORDERS = 200
WARMUP = 20
P99_MS = 50.0
MAX_LEGS = 12


async def large(run: Acceptance) -> None:
    network = build_network(
        NetworkSpec(
            seed=run.seed,
            warehouses=20,
            stores=80,
            skus=4_000,
            warehouse_carry=0.5,
            store_carry=0.3,
            handling_share=0.0,
            flat_units=100_000,
        )
    )
    orders = Traffic(network, TrafficSpec(seed=run.seed, lines=LINES)).draw(ORDERS + WARMUP)
    renderer = Renderer(network)
    extra = b',"max_legs":%d' % MAX_LEGS
    latency, legs = [], []
    async with (
        run.engine("large", network, shards=1) as engine,
        Client(engine.url, engine.key, connections=1) as client,
    ):
        for n, order in enumerate(orders):
            body = renderer.body(order, f"large-{n}", extra)
            started = time.perf_counter()
            response = await client.request("POST", "/v1/allocations", body)
            taken_us = int((time.perf_counter() - started) * 1e6)
            need(response.status == 201, f"order {n} was answered", response.status, response.body[:300])
            made = response.json()
            units = {line["line_id"]: 0 for leg in made["legs"] for line in leg["lines"]}
            need(len(units) == LINES and not made["unfilled"], f"order {n}: lines served", len(units))
            if n >= WARMUP:
                latency.append(taken_us)
                legs.append(len(made["legs"]))
    histogram = Histogram()
    histogram.record(latency)
    p50, p99 = histogram.percentile_us(50) / 1_000, histogram.percentile_us(99) / 1_000
    run.say(
        f"{ORDERS} orders of {LINES} lines: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {np.mean(legs):.1f} legs on average"
    )
    need(max(legs) > 1, "no order was split")
    need(p99 <= P99_MS, f"p99 within {P99_MS} ms expected, got", f"{p99:.1f} ms")
