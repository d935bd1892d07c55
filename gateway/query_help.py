"""What the query parameters mean. One name means one thing on every route."""

from __future__ import annotations

QUERY_HELP = {
    "after": "Cursor to go on from.",
    "as_of": "When the count was taken; movements since then are added by the shard.",
    "at_from": "From this instant on, included.",
    "at_to": "Up to this instant, not included.",
    "channel": "Sold through this channel.",
    "consistency": "`local`: from the gateway's own view, with its age; `strict`: from the shards that own the stock.",
    "country": "Country of the destination, two letters.",
    "cursor": "`next_cursor` of the page before.",
    "customer_id": "Of this customer.",
    "in_stock": "Only where everything asked for is there.",
    "kind": "Of this kind.",
    "kinds": "Of these kinds.",
    "lat": "Latitude of the destination, degrees.",
    "late": "Only what should have come by now.",
    "limit": "Entries of a page.",
    "lon": "Longitude of the destination, degrees.",
    "method": "How the units get to the customer.",
    "node_id": "At, or with a leg at, this node.",
    "opened_from": "Opened at this instant or later.",
    "opened_to": "Opened before this instant.",
    "order_id": "The caller's id of the order.",
    "postal_code": "Postal code of the destination.",
    "quantity": "Units wanted of each SKU, in the order of the SKUs.",
    "radius_km": "Great-circle distance from the destination at the most.",
    "reason": "Why the units wait or were not served.",
    "rung": "How the decision was reached.",
    "scope": "`full`: what is not in the file is 0 on that node's shelf; `nonzero`: what is not in the file is not touched;"
    " `delta`: only changes are listed.",
    "sku": "Of this SKU.",
    "sort": "Oldest or newest first.",
    "source": "Name of the feed that counted.",
    "source_seq": "Place of the count in its feed; an older one than the last is refused.",
    "state": "In this state.",
}
