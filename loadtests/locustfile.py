"""Locust scenario with the storefront mix, thin on purpose: the mix is storefront_mix.py, the orders are traffic.py.

Bodies are rendered ahead and FastHttpUser sends them: a storefront would use clients/python, which costs sixteen times the CPU.

    quartermaster demo &                       # or `up`, with a network of your own
    QM_API_KEY=qm_... locust -f loadtests/locustfile.py --host http://127.0.0.1:8080 --headless -u 50 -r 50 -t 60s

Users are a closed loop; for an open loop and latencies from the intended start use `python -m loadtests.driver`.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets

import gevent
from locust import FastHttpUser, constant_throughput, task

from loadtests.network import NetworkSpec, build_network
from loadtests.storefront_mix import HOLD_TTL_S, LEG_STEPS, READ_SHARE, draw_path
from loadtests.traffic import Order, Renderer, Traffic, TrafficSpec

SEED = int(os.environ.get("QM_SEED", "1"))
SKUS = int(os.environ.get("QM_SKUS", "2000"))
NETWORK = build_network(NetworkSpec(seed=SEED, warehouses=2, stores=2, skus=SKUS))
"""Only for its SKUs and places: the engine has its own nodes and stock."""
RENDERER = Renderer(NETWORK)
ORDERS: list[Order] = Traffic(NETWORK, TrafficSpec(seed=SEED)).draw(2_000)
RUN = secrets.token_hex(4)
NUMBERS = itertools.count(1)
gevent.get_hub().loop.update_now()
"""Building these took seconds in which the loop's clock stood still: `-t 8s` would be over before the first request."""


class Storefront(FastHttpUser):
    """One customer after another."""

    wait_time = constant_throughput(2)
    headers = {"authorization": f"Bearer {os.environ.get('QM_API_KEY', '')}", "content-type": "application/json"}

    @task
    def order(self) -> None:
        path = draw_path(random.Random())
        number = next(NUMBERS)
        order = ORDERS[number % len(ORDERS)]
        order_id = f"locust-{RUN}-{number}"
        if random.random() < READ_SHARE:
            sku = NETWORK.items[order.lines[0][0]].sku
            self.client.get(f"/v1/availability?sku={sku}", headers=self.headers, name="/v1/availability")
        if not path.reserve:
            made = self._post("/v1/allocations", RENDERER.body(order, order_id), order_id)
        else:
            extra = b',"ttl_s":%d' % HOLD_TTL_S
            made = self._post("/v1/reservations", RENDERER.body(order, order_id, extra), order_id)
            if made and path.outcome == "commit":
                target = f"/v1/reservations/{made['reservation_id']}/commit"
                made = self._post(target, b"{}", f"{order_id}-c", name="/v1/reservations/{id}/commit")
            elif made and path.outcome == "release":
                target = f"/v1/reservations/{made['reservation_id']}"
                headers = {**self.headers, "idempotency-key": f"{order_id}-r"}
                self.client.delete(target, headers=headers, name="/v1/reservations/{id}")
        if made and path.cancel:
            target = f"/v1/allocations/{made['allocation_id']}/cancel"
            self._post(target, b"{}", f"{order_id}-x", name="/v1/allocations/{id}/cancel")
        elif made and path.ship:
            for leg in made["legs"]:
                for step in LEG_STEPS:
                    target = f"/v1/legs/{leg['leg_id']}/{step}"
                    self._post(target, b"{}", f"{leg['leg_id']}-{step}", name=f"/v1/legs/{{id}}/{step}")

    def _post(self, target: str, body: bytes, key: str, *, name: str | None = None) -> dict | None:
        """The answer, or None where it was refused. Running out of stock is an answer, not a failure."""
        headers = {**self.headers, "idempotency-key": key}
        with self.client.post(target, data=body, headers=headers, name=name or target, catch_response=True) as response:
            if response.status_code in (200, 201):
                return response.json()
            if response.status_code == 409:
                response.success()
            return None
