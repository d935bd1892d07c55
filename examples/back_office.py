"""A back office in one file: counts in, the work list of a node, parcels out, and what waits. All through the Python client.

    export QM_URL=http://127.0.0.1:8080 QM_API_KEY=qm_...
    .venv/bin/python examples/back_office.py counts shelf.csv           # node_id,sku,quantity
    .venv/bin/python examples/back_office.py work WH-0001
    .venv/bin/python examples/back_office.py ship WH-0001 --most 10
    .venv/bin/python examples/back_office.py reject LEG_ID --reason "not on the shelf" --phantom
    .venv/bin/python examples/back_office.py waiting

Each step may be run again: a count is known by the file it came from, a step of a leg by the leg.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import quartermaster_client as qm

TO_DO = ("allocated", "released", "accepted", "picking")


def counts(client: qm.Client, asked: argparse.Namespace) -> int:
    """Absolute counts as of the file's time: what left since then stays left, and the same file again changes nothing."""
    raw = asked.file.read_bytes()
    rows = [(row["node_id"], row["sku"], int(row["quantity"])) for row in csv.DictReader(raw.decode().splitlines())]
    as_of = datetime.fromtimestamp(asked.file.stat().st_mtime, UTC)
    key = hashlib.sha256(raw + as_of.isoformat().encode()).hexdigest()[:32]
    job = client.wait_for(client.import_counts(rows, as_of=as_of, idempotency_key=f"counts-{key}"))
    print(
        f"{job.rows_done - job.rows_failed} counts taken, {job.rows_failed} refused, as of {as_of:%Y-%m-%d %H:%M:%S} UTC"
    )
    for error in job.errors:
        print(f"  line {error.line + 1}: {error.detail}")  # of the file, whose first line is its head
    return 1 if job.rows_failed else 0


def work(client: qm.Client, asked: argparse.Namespace) -> int:
    """What a node has to ship, what must leave first at the top."""
    legs = [leg for leg in client.iter_legs(asked.node_id) if leg.state in TO_DO]
    legs.sort(key=lambda leg: (leg.ship_by or datetime.max.replace(tzinfo=UTC), leg.leg_id))
    for leg in legs[: asked.most]:
        goods = ", ".join(f"{line.quantity} x {line.sku}" for line in leg.lines)
        by = f"{leg.ship_by:%a %H:%M}" if leg.ship_by else "-"
        print(f"{leg.leg_id}  {leg.state:9} {by:9} {leg.carrier or '-':10} {goods}")
    print(f"{len(legs)} legs to ship at {asked.node_id}")
    return 0


def ship(client: qm.Client, asked: argparse.Namespace) -> int:
    """The next legs of a node through its hands, each from where it stands."""
    steps = {"allocated": client.release_leg, "released": client.accept_leg, "accepted": client.pick_leg}
    legs = (leg for leg in client.iter_legs(asked.node_id) if leg.state in TO_DO)
    shipped = 0
    for leg in list(islice(legs, asked.most)):
        try:
            state = leg.state
            while state != "picking":
                state = steps[state](leg.leg_id, idempotency_key=f"{leg.leg_id}-after-{state}").leg.state
            label = f"TRACK-{leg.leg_id[-8:]}"  # in a real one, of the carrier's label
            done = client.ship_leg(
                leg.leg_id, parcels=max(1, leg.parcels), tracking=[label], idempotency_key=f"{leg.leg_id}-ship"
            )
        except qm.Conflict as error:
            print(f"{leg.leg_id}: {error.code}, {error.detail}")  # cancelled meanwhile, or stopped by a hold
            continue
        shipped += 1
        print(f"{leg.leg_id}: shipped as {label}, order {done.leg.order_id} is {done.allocation.state}")
    print(f"{shipped} legs shipped")
    return 0


def reject(client: qm.Client, asked: argparse.Namespace) -> int:
    """The node will not ship it. The answer names who does."""
    done = client.reject_leg(
        asked.leg_id,
        reason=asked.reason,
        stock_effect="zero_until_count" if asked.phantom else "none",
        idempotency_key=f"{asked.leg_id}-reject",
    )
    nodes = sorted({leg.node_id for leg in done.allocation.legs if leg.state == "allocated"})
    print(f"{asked.leg_id}: rejected; {', '.join(nodes) or 'nobody yet, it waits for stock'}")
    return 0


def waiting(client: qm.Client, asked: argparse.Namespace) -> int:
    """Lines without stock, and shelves with less than was promised of them."""
    demand = client.list_demand(limit=asked.most).data
    for line in demand:
        print(f"{line.demand_id}  {line.quantity} x {line.sku} for {line.order_id}, {line.ahead} ahead")
    short = client.short_positions(limit=asked.most).data
    for one in short:
        print(f"{one.position.node_id}  {one.position.sku}: {one.lacking_units} short")
    print(f"{len(demand)} lines wait, {len(short)} shelves are short")
    return 0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = options.add_subparsers(required=True, metavar="STEP")
    step = steps.add_parser("counts", help="Import counts: a CSV of node_id, sku, quantity.")
    step.add_argument("file", type=Path)
    step.set_defaults(run=counts)
    for run, about in ((work, "What a node has to ship."), (ship, "Release, accept, pick and ship the next legs.")):
        step = steps.add_parser(run.__name__, help=about)
        step.add_argument("node_id")
        step.add_argument("--most", type=int, default=20, help="Legs.")
        step.set_defaults(run=run)
    step = steps.add_parser("reject", help="A node cannot ship a leg.")
    step.add_argument("leg_id")
    step.add_argument("--reason", required=True)
    step.add_argument("--phantom", action="store_true", help="The shelf is empty: ask no more until it is counted.")
    step.set_defaults(run=reject)
    step = steps.add_parser("waiting", help="Lines that wait for stock, and shelves that lack what was promised.")
    step.add_argument("--most", type=int, default=20, help="Lines of each.")
    step.set_defaults(run=waiting)
    asked = options.parse_args()
    if not (os.environ.get("QM_URL") and os.environ.get("QM_API_KEY")):
        options.error("set QM_URL and QM_API_KEY: `make demo` prints both")
    try:
        with qm.Client(os.environ["QM_URL"], os.environ["QM_API_KEY"]) as client:
            return int(asked.run(client, asked))
    except qm.QuartermasterError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
