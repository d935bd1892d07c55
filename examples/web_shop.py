"""The smallest shop that a storefront can sell from: a channel, a carrier, two items, and a node with 20 of each.

    make run                                     # in another terminal
    QM_URL=http://127.0.0.1:8080 QM_API_KEY=$(cat data/admin.key) .venv/bin/python examples/web_shop.py

Running it again changes nothing: what is there already is left as it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import quartermaster_client as qm

SKUS = ("SKU-1", "SKU-2")
UNITS = 20


def make_shop(client: qm.Client) -> None:
    """Documents first, then the shelf: a count names items and a node that are known."""
    card = qm.RateCard(
        break_g=[1_000, 5_000, 30_000],
        price_minor=[[600, 800, 1_500], [700, 1_000, 2_000], [900, 1_400, 2_900], [1_100, 1_900, 3_900]],
    )
    ground = qm.CarrierService(
        service_id="ground", band_km=[300, 1_000, 2_500, 6_000], transit_days=[1, 2, 4, 5], cards=[card]
    )
    new_york = qm.Node(
        node_id="NYC",
        postal_code="10001",
        lat=40.75,
        lon=-73.99,
        time_zone="America/New_York",
        offers=["ship", "pickup"],
    )
    web = qm.Channel(channel_id="web", demand_centre=qm.Place(postal_code="60606"))
    create("channel web", lambda: client.put_channel(web))
    create("carrier acme", lambda: client.put_carrier(qm.Carrier(carrier_id="acme", services=[ground])))
    for sku in SKUS:
        item = qm.Item(sku=sku, weight_g=500, unit_value_minor=2_500)
        create(f"item {sku}", lambda item=item: client.put_item(item))  # type: ignore[misc]
    create("node NYC", lambda: client.put_node(new_york))
    shelf = [qm.CountRow(sku=sku, quantity=UNITS) for sku in SKUS]
    try:
        counted = client.count("NYC", shelf, source="web_shop", source_seq=1)
    except qm.Conflict as error:
        if error.code != "stale_count":
            raise
        print("shelf of NYC: counted already")
        return
    for position in counted.positions:
        print(f"{position.sku} at {position.node_id}: {position.on_hand} on hand")


def create(what: str, put: Callable[[], object]) -> None:
    try:
        put()
    except qm.VersionMismatch:  # another document is there, and nobody said that it may be replaced
        print(f"{what}: another one is there, left as it is")
    else:
        print(f"{what}: in place")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.parse_args()
    if not (os.environ.get("QM_URL") and os.environ.get("QM_API_KEY")):
        options.error("set QM_URL and QM_API_KEY: `make run` prints both")
    with qm.Client(os.environ["QM_URL"], os.environ["QM_API_KEY"]) as client:
        make_shop(client)


if __name__ == "__main__":
    main()
