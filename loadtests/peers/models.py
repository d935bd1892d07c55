"""The order as a FastAPI service would declare it: the same fields and limits as the engine's API, in pydantic."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~][ -~]*$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ShipTo(Strict):
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    postal_code: Annotated[str, Field(min_length=1, max_length=12)]
    region: Annotated[str, Field(max_length=64)] = ""
    residential: bool = True
    lat: Annotated[float, Field(ge=-90, le=90)] | None = None
    lon: Annotated[float, Field(ge=-180, le=180)] | None = None


class Line(Strict):
    line_id: Id
    sku: Id
    quantity: Annotated[int, Field(ge=1, le=1_000_000_000)]
    unit_price_minor: Annotated[int, Field(ge=0)] = 0
    method: Literal["ship", "pickup", "ship_to_store", "digital"] = "ship"
    pickup_node_id: Id | None = None
    group: Id | None = None
    splittable: bool = True
    tags: list[str] = []


class Order(Strict):
    order_id: Id
    channel: Id
    lines: Annotated[list[Line], Field(min_length=1, max_length=1_000)]
    service: Id = "standard"
    ship_to: ShipTo | None = None
    placed_at: datetime | None = None
    customer_id: Id | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    on_short: Literal["refuse", "partial", "park"] | None = None
    priority: Annotated[int, Field(ge=0, le=1_000)] = 0
    tags: list[str] = []


class LegLine(BaseModel):
    line_id: str
    sku: str
    quantity: int


class Leg(BaseModel):
    leg_id: str
    node_id: str
    state: str
    lines: list[LegLine]
    carrier: str
    service: str
    cost_minor: int


class Allocation(BaseModel):
    allocation_id: str
    order_id: str
    state: str
    legs: list[Leg]
    cost_minor: int
    currency: str
