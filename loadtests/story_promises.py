"""Scenes about what must never happen: two winners of one unit, a lost order after kill -9, a paid order that is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field

import quartermaster_client as qm
from loadtests.story import Stage, counted
from loadtests.story_routing import NO_ANSWER_TO_STOCK, until
from loadtests.traffic import Order

KILL_AFTER_S = 2.0
BACK_TIMEOUT_S = 90.0
CALM_S = 2.0
SERVED_TIMEOUT_S = 30.0
PATIENT = qm.RetryPolicy(attempts=200, base_s=0.1, cap_s=0.5, deadline_s=120.0)
"""A storefront that would rather wait than lose an order: the same key on every attempt."""


async def last_unit(stage: Stage) -> None:
    """Many shoppers, one unit."""
    tell, client = stage.teller, stage.client
    tell.scene(f"{stage.shoppers} shoppers and the last unit")
    sku, node = f"{stage.run}-LAST", stage.setting.network.nodes[0]
    await client.put_item(qm.Item(sku=sku, name="the last one", weight_g=400, unit_value_minor=9_900))
    await client.adjust(node.node_id, sku, "received", 1, reason="the last one")
    tell.say(
        f"{stage.named(node.node_id)} has one unit of {sku}. {stage.shoppers} shoppers all over the country press the button."
    )
    places, tokens = stage.setting.orders, list[str]()

    async def shop(n: int) -> tuple[str, float]:
        order = stage.order(places[n % len(places)], f"f{n}")
        order.lines = [qm.OrderLine(line_id="1", sku=sku, quantity=1, unit_price_minor=9_900)]
        order.service = "standard"
        began_s = time.monotonic()
        try:
            made = await client.allocate(order)
        except qm.OutOfStock as error:
            (short,) = error.shortages
            numbers = (short.sku, short.requested, short.available_to_promise) == (sku, 1, 0)
            return "told" if numbers else "told without numbers", time.monotonic() - began_s
        except qm.QuartermasterError as error:
            return type(error).__name__, time.monotonic() - began_s
        tokens.append(stage.took(made).token)
        return "won", time.monotonic() - began_s

    began_s = time.monotonic()
    answers = await asyncio.gather(*(shop(n) for n in range(stage.shoppers)))
    took_s = time.monotonic() - began_s
    tally: dict[str, int] = {}
    for name, _ in answers:
        tally[name] = tally.get(name, 0) + 1
    left = await client.availability(sku, after=tokens[-1] if tokens else None)
    (position,) = left.data
    tell.say(
        f"{counted(tally.get('won', 0), 'winner')}. {tally.get('told', 0)} were answered "
        f'"requested 1, available 0", the last of all after {took_s:.1f} s. The shelf: on hand {position.on_hand}, '
        f"allocated {position.allocated}, to promise {position.available_to_promise}."
    )
    tell.check(
        tally == {"won": 1, "told": stage.shoppers - 1},
        f"one winner, {stage.shoppers - 1} answered with numbers, nobody left in the dark",
    )
    tell.check(
        (position.on_hand, position.allocated, position.available_to_promise) == (1, 1, 0), "the unit was sold once"
    )


# -- kill -9 ------------------------------------------------------------------------------------------------------------


@dataclass
class _Load:
    """What a storefront saw while a shard died."""

    sent: int = 0
    yes: int = 0
    no_stock: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    slowest_s: float = 0.0

    def observe(self, attempt: qm.Attempt) -> None:
        self.retries += attempt.wait_s is not None


async def kill_a_shard(stage: Stage) -> None:
    """kill -9 of a stock shard while orders arrive."""
    tell = stage.teller
    tell.scene("kill -9 of a shard while orders arrive")
    load = _Load()
    budget = qm.RetryBudget(capacity=100_000)
    async with qm.AsyncClient(
        stage.url, stage.api_key, retry=PATIENT, budget=budget, observer=load.observe, transport=stage.transport
    ) as shop:
        stop = asyncio.Event()
        arriving = asyncio.create_task(_orders_arrive(stage, shop, load, stop))
        await asyncio.sleep(KILL_AFTER_S)
        before = await stage.shard_pids()
        name, pid = next((name, pid) for name, pid in sorted(before.items()) if pid)
        yes_before = load.yes
        tell.say(
            f"{stage.load_per_s:.0f} orders a second arrive, {load.yes} are in. Now: kill -9 {pid}, the process of {name}, which holds the "
            f"stock of {'half' if len(before) == 2 else 'a part of'} the network in its memory."
        )
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()

        async def back() -> bool:
            now = (await stage.shard_pids()).get(name, 0)
            return now not in (0, pid) and await _is_ready(stage)

        came = await until(back, timeout_s=BACK_TIMEOUT_S, every_s=0.2)
        away_s = time.monotonic() - killed_s
        during = load.yes - yes_before
        await asyncio.sleep(CALM_S)
        stop.set()
        await arriving
    now = (await stage.shard_pids()).get(name, 0)
    tell.say(
        f"It was back by itself after {away_s:.1f} s, as process {now}, with every number from the journal. Meanwhile the other "
        f"shard went on: {during:,} orders taken. The longest that a shopper waited: {load.slowest_s:.1f} s; the client repeated "
        f"{counted(load.retries, 'call')} with the same key."
    )
    audit = await stage.audit(stage.acknowledged)
    tell.say(
        f"{counted(load.sent, 'order')} sent: {load.yes:,} taken, {load.no_stock} out of stock, {sum(load.failed.values())} failed. Every "
        f"order that was ever acknowledged is looked for in the journal: {audit.lost} of {audit.looked_for:,} are missing."
    )
    tell.check(
        came and not load.failed and load.yes > yes_before, "the shard came back by itself, every order got its answer"
    )
    tell.check(audit.lost == 0 and audit.drift == 0, f"lost {audit.lost}, drift {audit.drift}")


async def _is_ready(stage: Stage) -> bool:
    try:
        await stage.client.ready()
    except qm.QuartermasterError:
        return False
    return True


async def _orders_arrive(stage: Stage, shop: qm.AsyncClient, load: _Load, stop: asyncio.Event) -> None:
    """Orders at a steady rate, whether or not earlier ones are answered; returns when all are."""
    orders = stage.setting.orders
    tasks: list[asyncio.Task[None]] = []
    began_s = time.monotonic()
    while not stop.is_set():
        n = len(tasks)
        tasks.append(asyncio.create_task(_one(stage, shop, load, orders[n % len(orders)], f"k{n}")))
        await asyncio.sleep(max(0.0, began_s + (n + 1) / stage.load_per_s - time.monotonic()))
    await asyncio.gather(*tasks)


async def _one(stage: Stage, shop: qm.AsyncClient, load: _Load, order: Order, mark: str) -> None:
    load.sent += 1
    began_s = time.monotonic()
    try:
        stage.took(await shop.allocate(stage.order(order, mark)))
    except qm.QuartermasterError as error:
        code = error.code if isinstance(error, qm.ApiError) else type(error).__name__
        if code in NO_ANSWER_TO_STOCK:
            load.no_stock += 1
        else:
            load.failed[code] = load.failed.get(code, 0) + 1
    else:
        load.yes += 1
    load.slowest_s = max(load.slowest_s, time.monotonic() - began_s)


# -- paid, and nothing there ------------------------------------------------------------------------------------------------


async def paid_without_stock(stage: Stage) -> None:
    """An order that is paid waits for stock, and ships when it comes."""
    tell, client = stage.teller, stage.client
    tell.scene("Paid, and nothing there: it waits, stock arrives, it ships")
    sku = f"{stage.run}-SOON"
    await client.put_item(qm.Item(sku=sku, name="sold out", weight_g=700, unit_value_minor=4_900))
    drawn = stage.setting.orders[0]
    order = stage.order(drawn, "g0")
    order.service, order.paid = "standard", True
    order.lines = [qm.OrderLine(line_id="1", sku=sku, quantity=2, unit_price_minor=4_900)]
    parked = stage.took(await client.allocate(order))
    (line,) = (await client.list_demand(sku=sku)).data
    tell.say(
        f"Order {parked.order_id} of 2 x {sku} was paid elsewhere; there is none. It is not refused: state {parked.state}, "
        f"{line.quantity} units wait, {line.ahead} ahead of them."
    )
    node = stage.nearest(drawn, kind="warehouse")
    began_s = time.monotonic()
    await client.adjust(node.node_id, sku, "received", 5, reason="a truck")

    async def served() -> bool:
        return (await client.get_allocation(parked.allocation_id)).state == "allocated"

    came = await until(served, timeout_s=SERVED_TIMEOUT_S, every_s=0.01)
    took_ms = (time.monotonic() - began_s) * 1_000
    now = await client.get_allocation(parked.allocation_id)
    tell.say(f"A truck brings 5 to {stage.named(node.node_id)}: {took_ms:.0f} ms later the order has its units.")
    shipped = now
    if came:
        (leg,) = now.legs
        for step in (client.release_leg, client.accept_leg, client.pick_leg):
            await step(leg.leg_id)
        shipped = (await client.ship_leg(leg.leg_id, parcels=1, tracking=["1Z-STORY"])).allocation
        left = (await client.availability(sku, after=shipped.token)).units(sku)
        tell.say(
            f"Released, accepted, picked, shipped by {leg.carrier} to {stage.place(drawn)}: the order is {shipped.state}. "
            f"{left} units are left to sell."
        )
    tell.check(parked.state == "parked" and line.quantity == 2, "a paid order is parked, not refused")
    tell.check(came and shipped.state == "shipped", "it was served by itself when stock came, and shipped")
