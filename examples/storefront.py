"""A storefront in one file: look, quote, buy, edit, track and cancel from the command line, each through the Python client.

    make demo                                    # in another terminal; it prints the URL and a key
    export QM_URL=http://127.0.0.1:8080 QM_API_KEY=qm_...
    .venv/bin/python examples/storefront.py stock SKU-000001 SKU-000002
    .venv/bin/python examples/storefront.py quote SKU-000001=2 SKU-000002 --to 10001
    .venv/bin/python examples/storefront.py buy SKU-000001=2 SKU-000002 --to 10001
    .venv/bin/python examples/storefront.py edit WEB-1 --to 60601 --line 1=3
    .venv/bin/python examples/storefront.py track WEB-1
    .venv/bin/python examples/storefront.py cancel WEB-1

The shop's own books are a JSON file (--books): the id of each order, its checkout, and what the engine calls it. Every key is made of
the checkout's id, so that a step that is run again after a crash, or by an impatient customer, is done once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import quartermaster_client as qm

HOLD_S = 900
WESTERNMOST = ZoneInfo("America/Los_Angeles")
"""`deliver_by` is the end of a day at a node: in the zone of the westernmost one its date is right for all of them."""


def day(deliver_by: datetime | None) -> str:
    return f"{deliver_by.astimezone(WESTERNMOST):%a %d %b}" if deliver_by is not None else "a day not known yet"


class Books:
    """Orders of this shop by their id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.orders: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def find(self, order_id: str) -> dict[str, Any]:
        if order_id not in self.orders:
            raise SystemExit(f"there is no order {order_id}: {', '.join(self.orders) or 'none was bought yet'}")
        if "allocation_id" not in self.orders[order_id]:
            raise SystemExit(f"{order_id} was not bought: go on with `buy --order-id {order_id}`")
        return self.orders[order_id]

    def save(self) -> None:
        """In full or not at all."""
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps(self.orders, indent=1))
        aside.replace(self._path)


def stock(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    found = client.availability(asked.skus, channel=asked.channel)
    for sku in asked.skus:
        print(f"{sku}: {found.units(sku)} left")


def quote(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    """Ways to deliver a basket. The one that is chosen goes into `buy --quote`, and keeps its date."""
    found = client.quote(an_order("quote", asked))
    for option in found.options:
        marks = [name for name in ("cheapest", "fastest", "best") if getattr(option, name)]
        print(
            f"{option.option_id}: {option.service}, at the door by {day(option.deliver_by)}, {option.cost_minor / 100:.2f} to ship, "
            f"{len(option.legs)} parcels {' '.join(marks)}".rstrip()
        )
    print(f"valid until {found.valid_until:%H:%M:%S}: {found.quote_id}")


def an_order(order_id: str, asked: argparse.Namespace) -> qm.Order:
    lines = [
        qm.OrderLine(line_id=str(n), sku=sku, quantity=quantity) for n, (sku, quantity) in enumerate(asked.basket, 1)
    ]
    ship_to = qm.ShipTo(country="US", postal_code=asked.to)
    return qm.Order(order_id=order_id, channel=asked.channel, service=asked.service, ship_to=ship_to, lines=lines)


def buy(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    """Hold, pay, commit. What fails in between leaves a hold that ends by itself."""
    order_id = asked.order_id or f"WEB-{len(books.orders) + 1}"
    entry = books.orders.setdefault(order_id, {"checkout": qm.new_key()})
    books.save()  # the checkout has its id before anything is asked: its keys are known after a crash
    checkout = entry["checkout"]
    # The engine keeps ids for good, this shop numbers its orders anew with every new file: the checkout makes them unique.
    order = an_order(f"{order_id}-{checkout[-12:]}", asked)
    order.quote_id, order.quote_option = asked.quote, asked.option
    held = client.reserve(order, ttl_s=HOLD_S, idempotency_key=f"{checkout}-reserve")
    if held.expires_at is not None:  # a checkout that is run again after its end holds nothing any more
        print(f"{order_id}: held until {held.expires_at:%H:%M:%S}, delivered by {day(held.promise.deliver_by)}")
    if asked.decline:
        client.release(held.reservation_id, idempotency_key=f"{checkout}-release")
        del books.orders[order_id]
        books.save()
        print(f"{order_id}: the payment was declined, the units are back on sale")
        return
    try:
        made = client.commit(held.reservation_id, idempotency_key=f"{checkout}-commit")
    except qm.Conflict as error:
        if error.code != "expired":
            raise
        # It was paid, and the hold ran out meanwhile: the order is taken all the same, and waits where stock is short.
        order.paid, order.on_short = True, "park"
        made = client.allocate(order, idempotency_key=f"{checkout}-late")
    entry["allocation_id"] = made.allocation_id
    books.save()
    show(order_id, made)
    print(client.get_decision(made.decision_id).sentence)


def edit(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    """Another address, other quantities: all of it, or the order stays as it was."""
    if not (asked.to or asked.line):
        raise SystemExit("say what to change: --to, --line")
    allocation_id = books.find(asked.order_id)["allocation_id"]
    seen = client.get_allocation(allocation_id)
    made = client.replan(
        allocation_id,
        ship_to=qm.ShipTo(country="US", postal_code=asked.to) if asked.to else None,
        lines=[qm.LineQuantity(line_id=line, quantity=quantity) for line, quantity in asked.line],
        reason="customer",
        if_version=seen.version,
    )
    show(asked.order_id, made)
    if made.edit is not None:
        print(
            f"{made.edit.cost_change_minor / 100:+.2f} to ship; {len(made.edit.fixed_legs)} parcels were on their way"
        )


def cancel(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    entry = books.find(asked.order_id)
    made = client.cancel(entry["allocation_id"], reason="customer", idempotency_key=f"{entry['checkout']}-cancel")
    show(asked.order_id, made)


def track(client: qm.Client, books: Books, asked: argparse.Namespace) -> None:
    show(asked.order_id, client.get_allocation(books.find(asked.order_id)["allocation_id"]))


def show(order_id: str, made: qm.Allocation) -> None:
    print(f"{order_id}: {made.state}, {made.cost_minor / 100:.2f} to ship")
    for leg in made.live_legs:  # not those that an edit, or another node, took over
        goods = ", ".join(f"{line.quantity} x {line.sku}" for line in leg.lines)
        when = f", at the door by {day(leg.deliver_by)}" if leg.deliver_by else ""
        print(f"  {leg.state:10} {goods} from {leg.node_id}{when} {' '.join(leg.tracking)}".rstrip())
    for short in made.unfilled:
        print(f"  waits      {short.quantity} of line {short.line_id}")


def counted(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or (count and not count.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME or NAME=QUANTITY")
    return name, int(count or 1)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--books", type=Path, default=Path("shop.json"), help="The shop's own orders.")
    options.add_argument("--channel", default="web")
    steps = options.add_subparsers(required=True, metavar="STEP")
    step = steps.add_parser("stock", help="What is left.")
    step.add_argument("skus", nargs="+", metavar="SKU")
    step.set_defaults(run=stock)
    for run, about in ((quote, "Ways to deliver a basket."), (buy, "Hold a basket, pay, commit.")):
        step = steps.add_parser(run.__name__, help=about)
        step.add_argument("basket", nargs="+", type=counted, metavar="SKU[=QUANTITY]")
        step.add_argument("--to", required=True, metavar="ZIP")
        step.add_argument("--service", default="standard")
        step.set_defaults(run=run)
    step.add_argument("--quote", help="A quote of this basket, and ...")
    step.add_argument("--option", help="... the option of it that was chosen.")
    step.add_argument("--order-id", help="The same again continues the same checkout.")
    step.add_argument("--decline", action="store_true", help="Let the payment fail.")
    step = steps.add_parser("edit", help="Change the address or quantities of an order.")
    step.add_argument("order_id")
    step.add_argument("--to", metavar="ZIP")
    step.add_argument("--line", action="append", default=[], type=counted, metavar="LINE=QUANTITY")
    step.set_defaults(run=edit)
    for run, about in ((track, "Where an order is."), (cancel, "Cancel what has not left.")):
        step = steps.add_parser(run.__name__, help=about)
        step.add_argument("order_id")
        step.set_defaults(run=run)
    asked = options.parse_args()
    if not (os.environ.get("QM_URL") and os.environ.get("QM_API_KEY")):
        options.error("set QM_URL and QM_API_KEY: `make demo` prints both")
    try:
        with qm.Client(os.environ["QM_URL"], os.environ["QM_API_KEY"]) as client:
            asked.run(client, Books(asked.books), asked)
    except qm.OutOfStock as error:
        for short in error.shortages:
            print(f"only {short.available_to_promise} of {short.sku} left, {short.requested} wanted", file=sys.stderr)
        return 1
    except qm.QuartermasterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
