"""Peer: FastAPI and pydantic take the order, check the key, and give it back. No stock, no decision, nothing kept.

`python -m loadtests.peers.fastapi_echo PORT`
"""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI

from loadtests.peers.auth import authorized
from loadtests.peers.models import Order

app = FastAPI()


@app.post("/v1/allocations", status_code=201)
async def allocate(order: Order, _: Annotated[str, Depends(authorized)]) -> Order:
    return order


@app.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
