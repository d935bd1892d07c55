"""GET /v1/stream: what happens, as it happens, out of the journals (docs/reference/stream.md)."""

from __future__ import annotations

from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import Problem
from engine.journal.port import JournalError
from gateway.call import ANY_KEY, Call, Route, Streamed
from gateway.errors import problem, refuse
from gateway.schemas import query_of
from gateway.stream.cursor import BEGINNING, Place, parse_cursor
from gateway.stream.events import EventStream, Wants
from gateway.stream.live import Live, Missed
from gateway.stream.schemas import CURSOR_MAX, StreamQuery
from gateway.stream.told import GROUPS, TYPES

EVENT_STREAM = "text/event-stream"


async def stream(call: Call) -> Streamed | Problem:
    query = query_of(call, StreamQuery)
    wants = _wants(call, query)
    if isinstance(wants, Problem):
        return wants
    gateway = call.gateway
    live = gateway.live
    last_id = call.headers.get(b"last-event-id")
    text = last_id.decode("latin-1") if last_id else query.after
    given = parse_cursor(text) if text and len(text) <= CURSOR_MAX else None
    if text and given is None:
        return problem("invalid_cursor")
    if not live.can_follow:
        return problem("unavailable", "this gateway knows no journal server (QM_REDIS_URL)")
    try:
        await live.begin()
        places, missed = await _places(live, given)
    except JournalError as error:
        return problem("unavailable", f"the journals cannot be read now: {error}", retry_after_ms=1_000)
    if live.stopping or len(live.streams) >= live.streams_max:
        live.refused += 1
        return problem("overloaded", f"{len(live.streams)} streams are open here", retry_after_ms=1_000)
    header, document = call.headers.get(b"authorization"), call.principal.document

    def may() -> bool:
        """A key that is changed, ended or revoked ends its streams: what they may show may be less now."""
        key = gateway.keys.principal(header, now_ms=gateway.now_ms())
        return key is not None and key.document is document

    body = EventStream(live, lambda: gateway.cluster.catalog, wants, places, missed, may)
    return Streamed(body, EVENT_STREAM.encode())


def _wants(call: Call, query: StreamQuery) -> Wants | Problem:
    """The filters, within what the key may see."""
    principal, catalog = call.principal, call.gateway.cluster.catalog
    types: set[str] = set()
    for n, kind in enumerate(query.kind):
        if kind not in GROUPS and kind not in TYPES:
            known = ", ".join(GROUPS)
            return refuse("invalid_field", f"/kind/{n}", f"one of {known}, or a whole type such as leg.shipped")
        scope = GROUPS[kind.partition(".")[0]]
        if not principal.may(scope):
            return problem("forbidden", f"this key has no scope {scope}, which {kind} needs")
        types.update([kind] if kind in TYPES else [known for known in TYPES if known.startswith(kind + ".")])
    if not query.kind:
        types.update([known for known in TYPES if principal.may(GROUPS[known.partition(".")[0]])])
        if not types:
            return problem("forbidden", f"a stream needs one of the scopes {', '.join(GROUPS.values())}")
    channels = principal.channels
    if query.channel is not None:
        if not principal.may_channel(query.channel):
            return problem("forbidden", f"this key is not for channel {query.channel!r}")
        if query.channel not in catalog.channel_of:
            return refuse("unknown_channel", "/channel", f"no channel {query.channel!r}", parameter="channel")
        channels = frozenset((query.channel,))
    if query.node_id is not None and query.node_id not in catalog.node_of:
        return refuse("unknown_node", "/node_id", f"no node {query.node_id!r}", parameter="node_id")
    return Wants(frozenset(types), channels, query.node_id)


async def _places(live: Live, given: dict[int, Place] | None) -> tuple[dict[int, Place], list[tuple[int, Missed]]]:
    """Where the stream begins in each journal, and what of it is not to be had any more. Raises JournalError."""
    places: dict[int, Place] = {}
    missed: list[tuple[int, Missed]] = []
    for shard, feed in live.feeds.items():
        place = given.get(shard) if given is not None else feed.place
        if place is None:
            # An id of a stream names every shard: one that it does not name was added since. A commit token names few.
            place = BEGINNING if given is not None and CONTROL_SHARD in given else feed.place
        elif given is not None and isinstance(checked := await feed.checked(place), Missed):
            missed.append((shard, checked))
        places[shard] = place
    return places, missed


ROUTES = [
    Route(
        "GET",
        "/v1/stream",
        ANY_KEY,
        stream,
        "What happens, as it happens",
        "stream",
        "Server-Sent Events out of the journals: orders, legs, stock and configuration, each event once and in its shard's order. "
        "`id` is a cursor over all shards: a client that comes back with `Last-Event-ID` (or `after`, which takes a commit `token` "
        "too) is told everything since; a `gap` event says what of it cannot be told any more. `kind` takes `order`, `leg`, "
        "`stock`, `config` or whole types such as `leg.shipped`, and may be repeated; each needs its scope (`allocate:read`, "
        "`legs:read`, `inventory:read`, `config:read`). Without it the stream has all that the key may see.",
        query=StreamQuery,
        answer=str,
        answer_type=EVENT_STREAM,
        problems=("invalid_cursor", "unknown_channel", "unknown_node"),
    ),
]
