"""What a storefront's customers and its warehouses do with an order, as shares. The demo and the locust scenario play this."""

from __future__ import annotations

import random
from typing import NamedTuple

RESERVE_SHARE = 0.15
"""Orders that begin as a reservation (a checkout); the others are allocated at once."""
COMMIT_SHARE = 0.75
"""Reservations that are committed; of the rest, half are released and half left to expire."""
CANCEL_SHARE = 0.03
SHIP_SHARE = 0.30
"""Orders whose legs a node releases, picks and ships while the demo runs."""
READ_SHARE = 0.10
"""Availability reads beside the orders."""
HOLD_TTL_S = 6
THINK_S = (0.5, 4.0)
"""Time a customer takes between reserving and paying."""
WAREHOUSE_S = (1.0, 6.0)
"""Time between an order and its first step in the warehouse."""
RECOUNT_EVERY_S = 1.0
RECOUNT_SKUS = 10


class Path(NamedTuple):
    """What becomes of one order."""

    reserve: bool
    outcome: str
    """allocate, commit, release or expire."""
    cancel: bool
    ship: bool
    think_s: float
    warehouse_s: float


def draw_path(rng: random.Random) -> Path:
    """One order's way through the storefront."""
    reserve = rng.random() < RESERVE_SHARE
    outcome = "allocate"
    if reserve:
        fate = rng.random()
        outcome = "commit" if fate < COMMIT_SHARE else "release" if fate < (1 + COMMIT_SHARE) / 2 else "expire"
    lives = outcome in ("allocate", "commit")
    cancel = lives and rng.random() < CANCEL_SHARE
    ship = lives and not cancel and rng.random() < SHIP_SHARE
    return Path(reserve, outcome, cancel, ship, rng.uniform(*THINK_S), rng.uniform(*WAREHOUSE_S))
