"""Scenes about who ships, and why: four rules on the same orders, a split order, a store that goes dark, a phantom unit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import quartermaster_client as qm
from loadtests.policies import Take
from loadtests.shadow import Ledger, Totals, compare
from loadtests.story import Stage, counted, money, share
from loadtests.traffic import Order

OURS = "this engine"
DARK_TIMEOUT_S = 90.0
NO_ANSWER_TO_STOCK = ("out_of_stock", "no_capable_node")
REPEATS = 10
EASE = {"dearer": 4, "in_part": 3, "short": 3}
"""How much a verdict on the nearest store has to say. None on a store that ships a part itself: nobody asks why not."""
SPLITS_LOOKED_AT = 40


async def until(what: Callable[[], object], *, timeout_s: float, every_s: float = 0.1) -> bool:
    """Ask until it is so; False after the time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = what()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return True
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(every_s)


# -- four rules -----------------------------------------------------------------------------------------------------


async def four_rules(stage: Stage) -> None:
    """The same orders under four rules, each on its own copy of the stock."""
    tell, setting = stage.teller, stage.setting
    orders = setting.orders
    tell.scene("The same orders, four ways to choose who ships")
    tell.say(
        f"{counted(len(orders), 'order')} go to the engine. Beside it three usual rules choose on copies of the same stock: "
        "the nearest nodes first; a fixed list, warehouses first; the fewest nodes. The same carriers' tariffs price all "
        "four, days on the road and days late count for what the channel says they cost it, and only orders that all four "
        "filled are compared."
    )
    began_s = time.monotonic()
    results = await stage.client.allocate_batch([stage.order(order, f"a{n}") for n, order in enumerate(orders)])
    took_s = time.monotonic() - began_s
    now_ms = time.time_ns() // 1_000_000
    node_at = {node.node_id: n for n, node in enumerate(setting.network.nodes)}
    ours = setting.shadows.ledger(OURS)
    odd = 0
    for order, result in zip(orders, results, strict=True):
        if result.allocation is None:
            odd += not (isinstance(result.error, qm.Conflict) and result.error.code in NO_ANSWER_TO_STOCK)
            ours.take(order, None)
            continue
        made = stage.took(result.allocation)
        stage.made.append((order, made))
        ours.take(
            order,
            [
                Take(node_at[leg.node_id], int(line.line_id) - 1, line.quantity)
                for leg in made.legs
                for line in leg.lines
            ],
        )
    await asyncio.to_thread(setting.shadows.play, orders)
    ledgers = [ours, *setting.shadows.ledgers]
    totals, filled = await asyncio.to_thread(compare, setting.pricer, orders, ledgers, now_ms=now_ms)
    _show_rules(stage, ledgers, totals, took_s)
    costs = {made.order_id: made.cost_minor for _, made in stage.made}
    billed = sum(costs[f"{stage.run}-a{n}"] for n in filled)
    found = totals[OURS]
    tell.check(odd == 0 and len(filled) >= 0.9 * len(orders), f"{len(filled):,} orders compared, filled by all four")
    off_minor = abs(billed - found.cash_minor)
    tell.check(
        off_minor <= found.cash_minor // 1_000,
        f"the yardstick is fair: it prices our plans at {money(found.cash_minor)}, the engine said {money(billed)}",
    )
    others = [totals[ledger.name] for ledger in setting.shadows.ledgers]
    tell.check(
        all(found.score_minor <= other.score_minor for other in others),
        "no other rule is cheaper, cash and days counted together",
    )


def _show_rules(stage: Stage, ledgers: Sequence[Ledger], totals: dict[str, Totals], took_s: float) -> None:
    tell = stage.teller
    rows = []
    for ledger in ledgers:
        total = totals[ledger.name]
        count = max(1, total.orders)
        rows.append(
            (
                ledger.name,
                money(total.cash_minor / count),
                money(total.service_minor / count),
                money(total.score_minor / count),
                share(total.split, total.orders),
                share(total.late, total.orders),
                f"{sum(takes is not None for takes in ledger.taken):,}",
            )
        )
    tell.table(("rule", "cash an order", "cost of days", "together", "split", "late", "filled"), rows, strong=0)
    ours = totals[OURS]
    best = min((ledger for ledger in ledgers if ledger.name != OURS), key=lambda one: totals[one.name].cash_minor)
    saved = (totals[best.name].cash_minor - ours.cash_minor) / max(1, ours.orders)
    tell.say(
        f"Against the cheapest of the others ({best.name}) that is {money(saved)} an order, "
        f"${saved * 1_000:,.0f} for every 100,000 orders. The engine took {took_s:.1f} s to decide, hold and store them all."
    )
    worse = []
    for ledger in ledgers:
        total = totals[ledger.name]
        if ledger.name == OURS:
            continue
        if total.split < ours.split:
            worse.append(f"{ledger.name} splits less ({share(total.split, total.orders)})")
        if total.late < ours.late:
            worse.append(f"{ledger.name} is late less often ({share(total.late, total.orders)})")
        if total.service_minor < ours.service_minor:
            worse.append(f"{ledger.name} spends fewer days on the road")
        if total.cash_minor < ours.cash_minor:
            worse.append(f"{ledger.name} costs less cash")
    if worse:
        tell.say(
            f"Where others are better: {'; '.join(worse)}. A second parcel, or a day, is bought where it costs less than it saves."
        )


# -- one split order --------------------------------------------------------------------------------------------------


async def one_split(stage: Stage) -> None:
    """A split order: why these nodes, and why not the nearest store."""
    tell = stage.teller
    tell.scene("One order that was split: why, and why not the nearest store?")
    order, made, decision = await _split_order(stage)
    items = stage.setting.network.items
    wanted = ", ".join(f"{units} x {items[item].name}" for item, units in order.lines)
    tell.say(f"Order {made.order_id} to {stage.place(order)}: {wanted}.")
    tell.say(decision.sentence)
    by_node = {leg.node_id: leg for leg in made.legs}
    rows = []
    for leg in decision.legs:
        held = by_node[leg.node_id]
        parts = leg.cost_parts
        handling = parts.handling_lines_minor + parts.handling_units_minor + parts.node_surcharge_minor
        lines = ", ".join(line.line_id for line in held.lines)
        km = f"{stage.km(order, leg.node_id):,}"
        name = stage.node(leg.node_id).name
        rows.append(
            (f"{name} ({leg.node_id})", lines, km, str(leg.days_to_door), money(parts.parcels_minor), money(handling))
        )
    tell.table(("ships from", "lines", "km", "days", "postage", "handling"), rows)
    store = stage.nearest(order, kind="store")
    why = await stage.client.get_decision(made.decision_id, node_id=store.node_id)
    tell.say(f"Why not the nearest store, {stage.named(store.node_id)}? {why.why}")
    parts_minor = sum(
        leg.cost_parts.parcels_minor
        + leg.cost_parts.handling_lines_minor
        + leg.cost_parts.handling_units_minor
        + leg.cost_parts.node_surcharge_minor
        for leg in decision.legs
    )
    tell.check(
        parts_minor == made.cost_minor == decision.money.cash_minor,
        f"the parts add up to the answer, to the cent: {money(parts_minor)}",
    )
    tell.check(bool(why.why), "the question about the nearest store has an answer with numbers")


async def _split_order(stage: Stage) -> tuple[Order, qm.Allocation, qm.Decision]:
    """The split order that is easiest to follow: few lines, each from one node, a runner-up that is worse, and a nearest store
    that was left although it could have served the order, or some of it."""
    split = [pair for pair in stage.made if len(pair[1].legs) > 1]
    if not split:
        raise LookupError("not one order was split: more orders, or less stock, would show one")
    split.sort(key=lambda pair: (len(pair[1].legs), sum(len(leg.lines) for leg in pair[1].legs) > len(pair[0].lines)))
    best: tuple[int, Order, qm.Allocation, qm.Decision] | None = None
    for order, made in split[:SPLITS_LOOKED_AT]:
        decision = await stage.client.get_decision(made.decision_id)
        nearest = stage.nearest(order, kind="store").node_id
        verdict = next((one.verdict for one in decision.candidates if one.node_id == nearest), "")
        ease = (
            EASE.get(verdict, 0)
            + 2 * (2 <= len(order.lines) <= 3)
            + (decision.runner_up is not None and decision.runner_up.difference.score_minor > 0)
        )
        if best is None or ease > best[0]:
            best = ease, order, made, decision
    assert best is not None
    return best[1:]


# -- a store goes dark --------------------------------------------------------------------------------------------------


async def store_goes_dark(stage: Stage) -> None:
    """A store is switched off: what it has not begun is served from elsewhere."""
    tell, client = stage.teller, stage.client
    counts: dict[str, int] = {}
    for _, made in stage.made:
        for leg in made.legs:
            if stage.node(leg.node_id).kind == "store":
                counts[leg.node_id] = counts.get(leg.node_id, 0) + 1
    node_id = max(counts, key=lambda name: (counts[name], name))
    tell.scene(f"A store goes dark: {stage.node(node_id).name}")
    legs = [leg async for leg in client.iter_legs(node_id, state="allocated")]
    begun = (await client.release_leg(legs[0].leg_id)).leg
    affected = {leg.order_id: leg for leg in legs[1:]}
    tell.say(
        f"{stage.named(node_id)} has {counted(len(legs), 'leg')} to ship; one of them is released to its staff, who may have "
        "begun. Then the store is switched off."
    )
    before = {made.order_id: made for _, made in stage.made if made.order_id in affected}
    stored = await client.get_node(node_id)
    node = stored.document
    node.state = "off"
    began_s = time.monotonic()
    switched = await client.put_node(node, if_version=stored.version)

    async def moved() -> bool:
        page = await client.list_legs(node_id, state="allocated")
        return not page.data

    gone = await until(moved, timeout_s=DARK_TIMEOUT_S)
    took_ms = (time.monotonic() - began_s) * 1_000
    after = {name: await client.get_allocation(made.allocation_id) for name, made in before.items()}
    more_minor = sum(after[name].cost_minor - made.cost_minor for name, made in before.items())
    later = sum(_door(after[name]) > _door(made) for name, made in before.items())
    waiting = sum(bool(after[name].unfilled) for name in before)
    to: dict[str, int] = {}
    for name, now in after.items():
        old = {leg.leg_id for leg in before[name].legs}
        for node_now in {leg.node_id for leg in now.legs if leg.leg_id not in old and leg.state == "allocated"}:
            to[node_now] = to.get(node_now, 0) + 1
    more_parcels = sum(len(after[name].live_legs) > len(made.live_legs) for name, made in before.items())
    tell.say(
        f"{took_ms:,.0f} ms later all {counted(len(affected), 'other leg')} had been planned again, and {counted(len(to), 'node')} "
        f"took over. What it costs: {money(more_minor)} in all, {money(more_minor / max(1, len(before)))} an order; {later} of the "
        f"{counted(len(before), 'order')} arrive later than planned, {more_parcels} come in one more parcel, {waiting} wait for stock."
    )
    rows = [
        (stage.named(name), f"{count:,}")
        for name, count in sorted(to.items(), key=lambda pair: (-pair[1], pair[0]))[:4]
    ]
    tell.table(("took over", "orders"), rows)
    kept = (await client.get_leg(begun.leg_id)).state == "released"
    whole = all(_units(after[name]) == _units(made) for name, made in before.items())
    tell.check(gone and kept, "nothing unreleased is left there; what its staff had begun stayed")
    tell.check(whole, "every order still has all its units: at a node, or waiting with its place in line")
    node.state = "on"
    await client.put_node(node, if_version=switched.version)


def _door(made: qm.Allocation) -> datetime:
    return made.promise.deliver_by or datetime.min.replace(tzinfo=UTC)


def _units(made: qm.Allocation) -> int:
    """Units that a node ships or that wait."""
    return sum(line.quantity for leg in made.live_legs for line in leg.lines) + sum(
        one.quantity for one in made.unfilled
    )


# -- a phantom unit ------------------------------------------------------------------------------------------------------


async def phantom_unit(stage: Stage) -> None:
    """A store cannot find what its books say: it is not asked again until somebody has counted."""
    tell, client = stage.teller, stage.client
    tell.scene("A unit that is on the books and not on the shelf")
    order, leg = await _store_leg(stage)
    sku, node_id = leg.lines[0].sku, leg.node_id
    same = Order(order.place, [order.lines[0]], order.service, order.channel, order.customer)
    books = (await client.availability(sku, node_id=node_id, strict=True)).units(sku)
    for step in (client.release_leg, client.accept_leg, client.pick_leg):
        await step(leg.leg_id)
    rejected = await client.reject_leg(leg.leg_id, reason="not on the shelf", stock_effect="zero_until_count")
    again = [new for new in rejected.allocation.legs if new.state == "allocated"]
    shown = (await client.availability(sku, node_id=node_id, after=rejected.allocation.token)).units(sku)
    where = ", ".join(stage.named(new.node_id) for new in again) or "nobody: it waits for stock"
    tell.say(
        f"{stage.named(node_id)} cannot find {sku}; its books said {books + leg.lines[0].quantity}. It rejects the leg. The same "
        f"answer names who ships instead: {where}. The shelf counts as empty until it is counted."
    )
    asked = await _ask(stage, same, "d", node_id)
    tell.say(f"The same order {REPEATS} times more: {asked or 'none'} of them go to that store.")
    recount = await client.count(
        node_id, [qm.CountRow(sku=sku, quantity=books + 50)], source=f"{stage.run}-recount", source_seq=1
    )
    counted_units = (await client.availability(sku, node_id=node_id, after=recount.token)).units(sku)
    back = await _ask(stage, same, "e", node_id)
    tell.say(f"Somebody counts {books + 50} units. {REPEATS} more orders: {back} of them go there again.")
    tell.check(shown == 0 and asked == 0, "after the rejection the store has 0 to promise and was not asked once")
    tell.check(
        node_id not in {new.node_id for new in again},
        "the rejected order did not come back to the store that rejected it",
    )
    tell.check(counted_units > 0 and back > 0, "a count brings the shelf back")


async def _store_leg(stage: Stage) -> tuple[Order, qm.OrderLeg]:
    """An unreleased leg of one line at a store, of an order with one leg."""
    for order, made in stage.made:
        if len(order.lines) != 1 or len(made.legs) != 1 or stage.node(made.legs[0].node_id).kind != "store":
            continue
        leg = await stage.client.get_leg(made.legs[0].leg_id)
        if leg.state == "allocated":
            return order, leg
    raise LookupError("no store has an order of one line: more orders would show one")


async def _ask(stage: Stage, order: Order, mark: str, node_id: str) -> int:
    """The same order several times; how many go to a node."""
    results = await stage.client.allocate_batch([stage.order(order, f"{mark}{n}") for n in range(REPEATS)])
    made = [stage.took(result.allocation) for result in results if result.allocation is not None]
    return sum(any(leg.node_id == node_id for leg in one.legs) for one in made)
