"""Peer: what most would build. FastAPI, pydantic, scoring, and one Redis script per order, durable before it answers.

The script checks and takes the units and stores the idempotency key and the reservation in one step; the server runs with
`appendfsync always`. `python -m loadtests.peers.fastapi_lua PORT`
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import redis.asyncio
import uvicorn
from fastapi import Depends, FastAPI, HTTPException

from loadtests.peers.auth import authorized
from loadtests.peers.models import Allocation, Leg, LegLine, Order
from loadtests.peers.scoring import Scorer
from loadtests.peers.stock import IDEMPOTENCY_S, REDIS_ENV, RETRIES, SCRIPT, peer_network, position_key


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    network = peer_network()
    app.state.node_ids = [node.node_id for node in network.nodes]
    app.state.scorer = Scorer(network)
    app.state.redis = redis.asyncio.Redis.from_url(os.environ[REDIS_ENV])
    app.state.sha = await app.state.redis.script_load(SCRIPT)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/v1/allocations", status_code=201)
async def allocate(order: Order, key: Annotated[str, Depends(authorized)]) -> Allocation:
    scorer: Scorer = app.state.scorer
    if order.ship_to is None or order.ship_to.postal_code not in scorer.place_of:
        raise HTTPException(422, "unknown_destination")
    try:
        items = [scorer.item_of[line.sku] for line in order.lines]
    except KeyError as error:
        raise HTTPException(422, f"unknown_sku {error}") from error
    units = [line.quantity for line in order.lines]
    allocation_id = f"alc_{uuid.uuid4().hex}"
    for attempt in range(RETRIES):
        chosen = scorer.choose(order.ship_to.postal_code, order.service, items, units, attempt)
        if not chosen:
            break
        legs = [
            Leg(
                leg_id=f"{allocation_id}_{n}",
                node_id=app.state.node_ids[leg.node],
                state="allocated",
                lines=[
                    LegLine(line_id=order.lines[i].line_id, sku=order.lines[i].sku, quantity=units[i])
                    for i in leg.lines
                ],
                carrier="coastline",
                service="ground",
                cost_minor=leg.cost_minor,
            )
            for n, leg in enumerate(chosen, 1)
        ]
        allocation = Allocation(
            allocation_id=allocation_id,
            order_id=order.order_id,
            state="allocated",
            legs=legs,
            cost_minor=sum(leg.cost_minor for leg in legs),
            currency=order.currency,
        )
        pairs = [(leg.node, i) for leg in chosen for i in leg.lines]
        keys = ["i:" + key, "r:" + allocation_id, *(position_key(node, items[i]) for node, i in pairs)]
        record = allocation.model_dump_json()
        answer = await app.state.redis.evalsha(
            app.state.sha, len(keys), *keys, record, IDEMPOTENCY_S, *(units[i] for _, i in pairs)
        )
        if answer[0] == 1:
            return allocation
        if answer[0] == 2:
            return Allocation.model_validate_json(await app.state.redis.get(answer[1]))
    raise HTTPException(409, "out_of_stock")


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
