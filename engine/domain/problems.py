"""The closed catalogue of problem codes, each with the HTTP status it answers with and what it means.

A code is never removed or given another meaning. The reference page docs/reference/problems.md lists cause and cure of each.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


def instant(ms: int) -> str:
    """Milliseconds since 1970 as the facts of a problem name an instant: RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Code(NamedTuple):
    status: int
    title: str


CODES: dict[str, Code] = {
    "malformed_body": Code(400, "The body is not valid JSON or MessagePack"),
    "invalid_token": Code(400, "The commit token is not one of ours"),
    "invalid_cursor": Code(400, "The cursor is not one of ours"),
    "idempotency_key_required": Code(400, "This route needs an Idempotency-Key header"),
    "unauthenticated": Code(401, "The API key is missing, unknown, expired or revoked"),
    "forbidden": Code(403, "The API key has no scope for this route or channel"),
    "not_found": Code(404, "No such resource"),
    "method_not_allowed": Code(405, "This resource has no such method"),
    "not_acceptable": Code(406, "None of the media types asked for can be produced"),
    "out_of_stock": Code(409, "Not enough units are available to promise"),
    "no_capable_node": Code(409, "No node can serve these lines"),
    "duplicate_order": Code(409, "The order id is in use by an open order"),
    "hold_cap": Code(409, "More units would be held than may be"),
    "wrong_state": Code(409, "The resource is in a state that does not allow this"),
    "expired": Code(409, "The hold has expired"),
    "key_in_use": Code(409, "A request with this idempotency key is still running"),
    "key_too_old": Code(409, "The idempotency key is older than the window kept"),
    "quote_changed": Code(409, "What the quote promised cannot be kept any more"),
    "quote_expired": Code(409, "The quote is not valid any more"),
    "stale_count": Code(409, "A newer count of this source was already applied"),
    "stock_changed": Code(409, "Other units are on hand than were expected"),
    "in_use": Code(409, "The document is referred to by others"),
    "version_mismatch": Code(412, "The document was changed by someone else"),
    "body_too_large": Code(413, "The body is larger than the limit"),
    "unsupported_media_type": Code(415, "The body's media type is not supported"),
    "invalid_field": Code(422, "A field is missing or not valid"),
    "unknown_sku": Code(422, "The SKU is not known"),
    "unknown_node": Code(422, "The node is not known"),
    "unknown_channel": Code(422, "The channel is not known"),
    "unknown_service": Code(422, "The service level is not served by any carrier"),
    "unknown_destination": Code(422, "The destination cannot be located"),
    "invalid_quote": Code(422, "The quote id is not one of ours"),
    "quote_mismatch": Code(422, "The quote is for another order"),
    "currency_mismatch": Code(422, "The currency is not the channel's"),
    "currency_not_priced": Code(422, "No rate card of the service level is in this currency"),
    "too_many_lines": Code(422, "The order has more lines than the limit"),
    "key_reused": Code(422, "The idempotency key was used with another body"),
    "precondition_required": Code(428, "This route needs an If-Match header"),
    "rate_limited": Code(429, "Too many requests"),
    "dedupe_full": Code(429, "No room to remember another idempotency key"),
    "internal": Code(500, "A fault of ours; the request id finds it in the log"),
    "overloaded": Code(503, "The engine is at its limit"),
    "unavailable": Code(503, "The shard or its journal cannot be reached; retry with the same key"),
    "journal_full": Code(503, "The journal has no room for new work"),
    "view_behind": Code(503, "The view does not yet contain the commit token"),
    "moved": Code(503, "Another shard owns this slot or node; nothing was done"),
    "frozen": Code(503, "The shard refuses writes until its journal is repaired"),
}
