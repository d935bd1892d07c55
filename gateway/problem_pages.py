"""Cause and cure of every problem code: what its page says, and docs/reference/problems.md."""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.problems import CODES


class Page(NamedTuple):
    cause: str
    cure: str


PAGES: dict[str, Page] = {
    "malformed_body": Page(
        "The body is not valid JSON or MessagePack, is cut off, or did not arrive in time.",
        "Send a complete body in the format that Content-Type names. `detail` says at which byte reading stopped.",
    ),
    "invalid_token": Page(
        "The commit token in `X-QM-After` was not made by this engine.",
        "Pass on the `token` of an earlier answer unchanged, or leave the header out.",
    ),
    "invalid_cursor": Page(
        "The `cursor` was not given out by this list.",
        "Take `next_cursor` of the page before, unchanged; start again without a cursor.",
    ),
    "idempotency_key_required": Page(
        "The request changes orders or stock and carries no Idempotency-Key header.",
        "Send a key that is unique for this intent (a UUID, or your own order id) and repeat it on every retry.",
    ),
    "unauthenticated": Page(
        "There is no `Authorization: Bearer qm_...` header, or its key is unknown, expired or revoked.",
        "Send a valid key. Keys are made by the operator; `quartermaster up` keeps the first one in the data folder.",
    ),
    "forbidden": Page(
        "The key is valid but lacks the scope that `detail` names, or is limited to other channels.",
        "Use a key with that scope and channel.",
    ),
    "not_found": Page(
        "No route has this path, or the id names nothing that this key may see. Closed orders leave after a while.",
        "Check the path and the id. Ids carry their kind: `alc_` is an allocation, `res_` a reservation, `leg_` a leg.",
    ),
    "method_not_allowed": Page(
        "The path exists, but not with this method.", "Use one of the methods in the `Allow` header."
    ),
    "not_acceptable": Page(
        "`Accept` names no media type that the route can answer with.",
        "Accept `application/json` or `application/vnd.msgpack` (`/metrics`: `text/plain`).",
    ),
    "out_of_stock": Page(
        "Fewer units are available to promise than were asked for. `errors` gives requested and available by line, and `units_elsewhere`: free units that "
        "the line may not have, at nodes that cannot serve it or kept for other methods.",
        "Ask for less, or send `on_short` partial or park. A refusal is not remembered: the same key decides afresh.",
    ),
    "no_capable_node": Page(
        "Units are available to promise, but no allowed choice of nodes serves the line: handling tags, a group or kit that must leave whole, "
        "reach, capacity or the number of legs; or there is no node at all for its method and channel.",
        "`errors` names the reason by line. Change the order, the nodes' configuration, or `max_legs`.",
    ),
    "duplicate_order": Page(
        "An open order or hold has this `order_id` already; `errors` carries its id.",
        "Read that order. Retry with the first request's Idempotency-Key to get its answer again.",
    ),
    "hold_cap": Page(
        "The reservation would bring the units held by this API key or customer, or of one position, over the cap that the operator set.",
        "`errors` names the cap, what is held, requested and allowed. Commit or release other reservations, or allocate at once.",
    ),
    "wrong_state": Page(
        "The order or leg is in a state that does not allow this step; `errors` names the state, and of a reservation that was committed its `allocation_id`.",
        "Read the resource and take a step that its state allows.",
    ),
    "expired": Page(
        "The hold's time ran out and its units were given back.", "Reserve again; extend holds before they expire."
    ),
    "key_in_use": Page(
        "A request with the same Idempotency-Key is still being decided.", "Wait a moment and repeat it unchanged."
    ),
    "key_too_old": Page(
        "The Idempotency-Key is a UUIDv7 or ULID made before the window in which keys are remembered (`window_ms`: 24 hours, or less where "
        "the shard's memory of them was full).",
        "Read the order by its id to learn what became of it; use a fresh key for a new intent.",
    ),
    "quote_changed": Page(
        "Stock, capacity or cut-offs moved since the quote: the order would arrive later than the quoted option promised, or fewer "
        "units can be served. `errors` shows both, quoted and offered. Nothing is held.",
        "Show the buyer what is offered now and ask for a new quote, or send the order without `quote_id` to take what there is.",
    ),
    "quote_expired": Page(
        "The order reached its shard after the quote's `valid_until`; `errors` names the instant. Nothing is held.",
        "Ask for a new quote. Validity is QM_QUOTE_TTL_S (15 minutes unless the operator set it); a request may ask for less.",
    ),
    "stale_count": Page(
        "A newer count of the same source was applied already, or `as_of` is older than the movements kept to net it.",
        "Drop this count. Give each count of a source a higher `source_seq`.",
    ),
    "stock_changed": Page(
        "A movement says in `expected_on_hand` what its sender saw, and something else is on hand by now. `errors` names every such movement and the "
        "number that is there; nothing of the request was booked.",
        "Decide again from the numbers in `errors` and send what is still wanted, under a new key.",
    ),
    "in_use": Page("Other documents refer to this one.", "Change those first."),
    "version_mismatch": Page(
        "The document was changed since the version in `If-Match`.",
        "GET it, apply the change to what is there now, and PUT it with the new ETag.",
    ),
    "body_too_large": Page(
        "More bytes arrived, or were announced, than the limit in `errors`. Nothing of the body was used.",
        "Split it: the batch route takes 1,000 orders, imports take files.",
    ),
    "unsupported_media_type": Page(
        "Content-Type is missing or names a format that the route does not read.",
        "Send `application/json` or `application/vnd.msgpack`; imports take `application/x-ndjson` or `text/csv`.",
    ),
    "invalid_field": Page(
        "A field or parameter is missing, unknown, or has a value outside its type or limits.",
        "`errors` points at each place by JSON pointer and says what is expected there.",
    ),
    "unknown_sku": Page("No item has this SKU.", "Put the item first (`PUT /v1/items/{sku}` or an import)."),
    "unknown_node": Page("No node has this id.", "Put the node first, or correct the id."),
    "unknown_channel": Page("No channel has this id.", "Put the channel first, or correct the id."),
    "unknown_service": Page(
        "No carrier serves this service level.", "Use a level that some carrier service lists in `levels`."
    ),
    "unknown_destination": Page(
        "The destination's postal code is not known and it has no coordinates.",
        "Send `lat` and `lon`, or a known postal code: a US ZIP code, or one in a postal area in which a node or a channel's centre lies.",
    ),
    "invalid_quote": Page(
        "The `quote_id` was changed, cut off or made up, or was given out by another deployment.",
        "Pass on the `quote_id` of `POST /v1/quotes` unchanged, or leave it out.",
    ),
    "quote_mismatch": Page(
        "The quote is for other lines, another destination, channel or currency, or has no such option. `errors` points at each field.",
        "Order what was quoted, or ask for a quote of what is ordered. Order id, prices, customer and tags may differ.",
    ),
    "currency_mismatch": Page("The channel sells in another currency.", "Send the channel's currency."),
    "currency_not_priced": Page(
        "Carriers serve the service level, but none of their rate cards is in the order's currency: amounts are never converted.",
        "Add a rate card in this currency to a carrier's service, or sell in one of the currencies that `errors` lists.",
    ),
    "too_many_lines": Page(
        "The order has more lines than the limit in `errors`.", "Split the order, or raise QM_MAX_LINES."
    ),
    "key_reused": Page(
        "The Idempotency-Key was used before with another body or on another route.",
        "Use a new key for a new intent; repeat a request exactly when retrying.",
    ),
    "precondition_required": Page(
        "The document exists, and changing it needs to say which version was seen.",
        "GET it and send its ETag in `If-Match` (`*` to replace whatever is there).",
    ),
    "rate_limited": Page(
        "The key made more requests a second than it may.", "Wait for `Retry-After`; `RateLimit` shows what is left."
    ),
    "dedupe_full": Page(
        "The shard remembers as many idempotency keys as it may, none old enough to forget. Commit, release, cancel and the steps of a "
        "leg are taken all the same.",
        "Wait for `Retry-After`; the operator can raise QM_DEDUPE_MAX.",
    ),
    "internal": Page(
        "A fault of the software. What the request changed, if anything, is known under its idempotency key.",
        "Repeat with the same key; if it stays, report the `request_id`, which finds it in the log.",
    ),
    "overloaded": Page(
        "More connections are open, or more requests in flight or queued, than the limit. Nothing was done.",
        "Wait for `Retry-After` and repeat with the same key; keep connections and use them again. More shards or gateways raise "
        "the limit.",
    ),
    "unavailable": Page(
        "The shard or its journal could not be reached in time. The outcome is unknown: it may have been done.",
        "Wait for `Retry-After` and repeat with the same Idempotency-Key: it gets the first answer or is done once.",
    ),
    "journal_full": Page(
        "The journal's server is nearly out of memory; work that finishes orders goes on.",
        "The operator gives the server more memory or lets the journal be trimmed; repeat later with the same key.",
    ),
    "view_behind": Page(
        "The shard did not see the entries of `X-QM-After` within a second.", "Repeat with the same key."
    ),
    "moved": Page("The slot or node was being handed to another shard. Nothing was done.", "Repeat with the same key."),
    "frozen": Page(
        "The shard's journal does not verify, or lost its tail. It refuses to work rather than guess.",
        "The operator looks at the log and repairs the journal (`quartermaster verify`).",
    ),
}


def as_markdown() -> str:
    """docs/reference/problems.md."""
    lines = [
        "# Problems",
        "",
        "Every refusal is an `application/problem+json` body (RFC 9457) with one of these codes. `type` is",
        "`/problems/CODE`, which the gateway serves. `errors` points at fields by JSON pointer, with the numbers;",
        "`request_id` finds the request in the log. A code is never removed or given another meaning.",
        "",
        "Retry what has status 429 or 503, after `Retry-After`, with the same Idempotency-Key.",
        "",
    ]
    for code, (status, title) in CODES.items():
        page = PAGES[code]
        lines += [f"## {code}", "", f"**{status}** {title}.", "", f"Cause: {page.cause}", "", f"Cure: {page.cure}", ""]
    return "\n".join(lines)
