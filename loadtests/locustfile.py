"""Locust scenario with the storefront mix, thin on purpose: the mix is storefront_mix.py, the orders are traffic.py, the calls are the
public Python client's, over locust's own connections (FastHttpUser).

    quartermaster demo &                       # or `up`, with a network of your own
    QM_API_KEY=qm_... locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 --headless -u 50 -r 50 -t 60s

Every attempt is in the statistics under its route; what the client retries shows as a failed attempt and a good one. Users are a
closed loop; for an open loop and latencies from the intended start use `python -m loadtests.driver`.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets

import gevent
from locust import FastHttpUser, constant_throughput, task

import quartermaster_client as qm
from loadtests.client_orders import order_of
from loadtests.locust_transport import LocustTransport
from loadtests.network import NetworkSpec, build_network
from loadtests.storefront_mix import HOLD_TTL_S, READ_SHARE, draw_path
from loadtests.traffic import Order, Traffic, TrafficSpec

SEED = int(os.environ.get("QM_SEED", "1"))
SKUS = int(os.environ.get("QM_SKUS", "2000"))
NETWORK = build_network(NetworkSpec(seed=SEED, warehouses=2, stores=2, skus=SKUS))
"""Only for its SKUs and places: the engine has its own nodes and stock."""
ORDERS: list[Order] = Traffic(NETWORK, TrafficSpec(seed=SEED)).draw(2_000)
RUN = secrets.token_hex(4)
NUMBERS = itertools.count(1)
BUDGET = qm.RetryBudget()
"""All users are one process: they retry within one budget."""
gevent.get_hub().loop.update_now()
"""Building these took seconds in which the loop's clock stood still: `-t 8s` would be over before the first request."""


class Storefront(FastHttpUser):
    """One customer after another."""

    wait_time = constant_throughput(2)

    def on_start(self) -> None:
        self.shop = qm.Client(
            self.host, os.environ.get("QM_API_KEY", ""), budget=BUDGET, transport=LocustTransport(self.client)
        )

    @task
    def order(self) -> None:
        number = next(NUMBERS)
        order = order_of(NETWORK, ORDERS[number % len(ORDERS)], f"locust-{RUN}-{number}")
        try:
            self._sell(order)
        except qm.QuartermasterError:
            return  # the transport has counted it: a refusal with 409 as an answer, anything else as a failure

    def _sell(self, order: qm.Order) -> None:
        path = draw_path(random.Random())
        if random.random() < READ_SHARE:
            self.shop.availability(order.lines[0].sku)
        if not path.reserve:
            made = self.shop.allocate(order)
        else:
            held = self.shop.reserve(order, ttl_s=HOLD_TTL_S)
            if path.outcome == "release":
                self.shop.release(held.reservation_id)
            if path.outcome != "commit":
                return
            made = self.shop.commit(held.reservation_id)
        if path.cancel:
            self.shop.cancel(made.allocation_id, reason="customer")
        elif path.ship:
            self._ship(made)

    def _ship(self, made: qm.Allocation) -> None:
        """The way of every leg through its node."""
        for leg in made.legs:
            for step in (self.shop.release_leg, self.shop.accept_leg, self.shop.pick_leg):
                step(leg.leg_id)
            self.shop.ship_leg(leg.leg_id, parcels=max(1, leg.parcels))
