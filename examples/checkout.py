"""Shoppers at a storefront, in a page of code: look, hold, pay, commit or let go, change their minds, track.

    make demo                                    # in another terminal; it prints the URL and a key
    QM_URL=http://127.0.0.1:8080 QM_API_KEY=qm_... .venv/bin/python examples/checkout.py --shoppers 50

Everything a storefront has to think of is here: one key for each intent, shortages with numbers, payments that fail, holds that expire.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections import Counter
from itertools import islice

import quartermaster_client as qm

ZIP_CODES = ("10001", "30303", "60606", "75201", "90001", "98101")
PAYMENT_FAILS = 0.1
CHANGES_MIND = 0.1


async def shop(client: qm.AsyncClient, name: str, channel: str, skus: list[str], seen: Counter[str]) -> None:
    """One shopper. `name` is the checkout's own id: every key is made of it, so a crashed checkout can be taken up again."""
    rng = random.Random(name)
    wanted = rng.sample(skus, k=min(len(skus), rng.randint(1, 3)))
    stock = await client.availability(wanted, channel=channel)
    order = qm.Order(
        order_id=name,
        channel=channel,
        ship_to=qm.ShipTo(country="US", postal_code=rng.choice(ZIP_CODES)),
        lines=[
            qm.OrderLine(line_id=str(n), sku=sku, quantity=rng.randint(1, 2), unit_price_minor=2_500)
            for n, sku in enumerate(wanted, 1)
            if stock.units(sku) > 0
        ],
    )
    if not order.lines:
        seen["nothing left"] += 1
        return
    try:
        held = await client.reserve(order, ttl_s=120, idempotency_key=f"{name}-reserve")
    except qm.OutOfStock as error:
        seen["out of stock"] += 1
        for short in error.shortages:
            print(f"{name}: {short.requested} of {short.sku} wanted, {short.available_to_promise} left")
        return
    except qm.Conflict as error:
        seen[error.code] += 1
        return
    if rng.random() < PAYMENT_FAILS:
        await client.release(held.reservation_id, idempotency_key=f"{name}-release")
        seen["payment failed"] += 1
        return
    try:
        made = await client.commit(held.reservation_id, idempotency_key=f"{name}-commit")
    except qm.Conflict as error:
        if error.code != "expired":
            raise
        # The hold ran out while the customer paid: take the order all the same, it waits for stock.
        order.paid, order.on_short = True, "park"
        made = await client.allocate(order, idempotency_key=f"{name}-late")
    if rng.random() < CHANGES_MIND:
        await client.cancel(made.allocation_id, reason="changed mind", idempotency_key=f"{name}-cancel")
        seen["cancelled"] += 1
        return
    seen["bought"] += 1
    seen["legs"] += len(made.legs)
    seen["cost_minor"] += made.cost_minor
    if seen["bought"] == 1:
        print((await client.get_decision(made.decision_id)).sentence)


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shoppers", type=int, default=50)
    options.add_argument("--run", default=qm.new_key()[:13], help="Names the run; the same run again changes nothing.")
    said = options.parse_args()
    if not (os.environ.get("QM_URL") and os.environ.get("QM_API_KEY")):
        options.error("set QM_URL and QM_API_KEY: `make demo` prints both")
    async with qm.AsyncClient(os.environ["QM_URL"], os.environ["QM_API_KEY"]) as client:
        channel = await anext(client.iter_channels())
        skus = list(islice([item.sku async for item in client.iter_items() if not item.components], 200))
        seen: Counter[str] = Counter()
        shoppers = (shop(client, f"{said.run}-{n}", channel.channel_id, skus, seen) for n in range(said.shoppers))
        await asyncio.gather(*shoppers)
    money, legs = seen.pop("cost_minor", 0), seen.pop("legs", 0)
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    if seen["bought"]:
        print(f"{legs} legs, {money / seen['bought'] / 100:.2f} an order to ship")


if __name__ == "__main__":
    asyncio.run(main())
