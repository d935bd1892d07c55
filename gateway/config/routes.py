"""/v1/items, /v1/nodes, /v1/channels, /v1/carriers: documents that the control shard owns.

Every change has a version, which is the document's ETag. Replacing a document needs the version seen in If-Match.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from engine.domain.commands import GetConfig, ListConfig, PutConfig
from engine.domain.config import KEY_FIELD, Carrier, Channel, Document, Item, Node
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigDoc, ConfigReply, Problem, ProblemItem
from gateway.call import Answer, Call, Route
from gateway.config import examples
from gateway.config.follow import in_use
from gateway.config.schemas import DocumentPage, ListQuery
from gateway.cursors import decode_cursor, encode_cursor
from gateway.errors import DECODE_ERRORS, decode_problem, problem, refuse
from gateway.idempotency import fingerprint
from gateway.orders.routes import unexpected
from gateway.pipeline import version_of_etag
from gateway.schemas import Decoder, path_id, query_of

ASK_TIMEOUT_S = 10.0
_PUT = b"put:"
encode_document = msgspec.json.Encoder(order="deterministic").encode


class Kind(NamedTuple):
    """One kind of document and its place in the API."""

    name: str
    path: str
    document: type[Document]
    example: dict[str, Any]
    what: str


KINDS = (
    Kind("item", "items", Item, examples.ITEM, "item"),
    Kind("node", "nodes", Node, examples.NODE, "node"),
    Kind("channel", "channels", Channel, examples.CHANNEL, "channel"),
    Kind("carrier", "carriers", Carrier, examples.CARRIER, "carrier"),
)
Handler = Callable[[Call], Awaitable[Answer | Problem]]


def shown(call: Call, doc: bytes) -> Any:
    """A stored document (JSON text) as part of an answer."""
    return msgspec.json.decode(doc) if call.packed_out else msgspec.Raw(doc)


async def _stored(call: Call, kind: str, name: str) -> ConfigDoc | Problem | None:
    reply = await call.gateway.cluster.ask(CONTROL_SHARD, GetConfig(kind, name), timeout_s=ASK_TIMEOUT_S)
    if isinstance(reply, ConfigReply):
        return reply.documents[0]
    found = unexpected(reply)
    return None if found.code == "not_found" else found


def _foreign_channel(call: Call, kind: Kind, name: str) -> Problem | None:
    """A key of some channels sees and changes no other channel."""
    if kind.name == "channel" and not call.principal.may_channel(name):
        return problem("forbidden", f"this key is not for channel {name!r}")
    return None


def _getter(kind: Kind) -> Handler:
    async def get(call: Call) -> Answer | Problem:
        name = call.params[0]
        refusal = _foreign_channel(call, kind, name)
        if refusal is not None:
            return refusal
        doc = await _stored(call, kind.name, name)
        if doc is None:
            return problem("not_found", f"no {kind.what} {name!r}")
        if isinstance(doc, Problem):
            return doc
        return Answer(shown(call, doc.document), version=doc.version)

    return get


def _lister(kind: Kind) -> Handler:
    async def list_documents(call: Call) -> Answer | Problem:
        query = query_of(call, ListQuery)
        after = decode_cursor(query.cursor) if query.cursor else ""
        if after is None:
            return problem("invalid_cursor")
        command = ListConfig(kind.name, after, query.limit)
        reply = await call.gateway.cluster.ask(CONTROL_SHARD, command, timeout_s=ASK_TIMEOUT_S)
        if not isinstance(reply, ConfigReply):
            return unexpected(reply)
        docs = [d for d in reply.documents if _foreign_channel(call, kind, d.name) is None]
        next_cursor = encode_cursor(reply.cursor) if reply.more else None
        return Answer(DocumentPage([shown(call, d.document) for d in docs], next_cursor, reply.more))

    return list_documents


def _putter(kind: Kind) -> Handler:
    decoder = Decoder(kind.document)
    key_field = KEY_FIELD[kind.name]

    async def put(call: Call) -> Answer | Problem:
        name = path_id(call.params[0], f"/{key_field}")
        try:
            document = decoder.decode(call.body, packed=call.packed_in)
        except DECODE_ERRORS as error:
            return decode_problem(error, kind.document)
        if getattr(document, key_field) != name:
            return refuse("invalid_field", f"/{key_field}", f"the path says {name!r}")
        refusal = _foreign_channel(call, kind, name)
        if refusal is not None:
            return refusal
        text = encode_document(document)
        seen = await _version_seen(call, kind, name, text)
        if isinstance(seen, ConfigDoc):
            await in_use(call.gateway, seen.version)
            return Answer(shown(call, seen.document), version=seen.version)
        if isinstance(seen, Problem):
            return seen
        mark = fingerprint(_PUT + kind.name.encode(), text)
        command = PutConfig(kind.name, (text,), seen, call.key_hash, mark)
        reply = await call.gateway.cluster.ask(CONTROL_SHARD, command, timeout_s=ASK_TIMEOUT_S)
        if not isinstance(reply, ConfigReply):
            return _own_problem(unexpected(reply))
        stored = reply.documents[0]
        await in_use(call.gateway, stored.version)
        location = (b"location", f"/v1/{kind.path}/{quote(name, safe='')}".encode())
        status = 201 if seen == 0 else 200
        return Answer(shown(call, stored.document), status, (location,), stored.version)

    return put


async def _version_seen(call: Call, kind: Kind, name: str, text: bytes) -> int | Problem | ConfigDoc:
    """The version that the put replaces (0 = none yet); the document where it is there already; or why it cannot be made."""
    stored = await _stored(call, kind.name, name)
    if isinstance(stored, Problem):
        return stored
    if_match = call.headers.get(b"if-match")
    if call.headers.get(b"if-none-match", b"").strip() == b"*":
        return 0 if stored is None else _mismatch(name, stored.version)
    if stored is None:
        return 0 if if_match is None else _mismatch(name, 0)
    if if_match is None:
        if stored.document == text:  # a repeat of the put that made it
            return stored
        return problem("precondition_required", f"{kind.what} {name!r} exists: say which version you saw in If-Match")
    if if_match.strip() == b"*":
        return stored.version
    seen = version_of_etag(if_match)
    return seen if seen is not None and seen > 0 else _mismatch(name, stored.version)


def _mismatch(name: str, version: int) -> Problem:
    detail = f"the document is at version {version}" if version else "there is no such document"
    return refuse("version_mismatch", "", detail, name=name, version=version)


def _own_problem(found: Problem) -> Problem:
    """The control shard speaks of places in a list of documents; here there is one."""
    errors = tuple(
        [
            ProblemItem(e.pointer, e.detail, {k: v for k, v in e.facts.items() if k not in ("document", "name")})
            for e in found.errors
        ]
    )
    return msgspec.structs.replace(found, errors=errors)


def _routes_of(kind: Kind) -> list[Route]:
    one = f"/v1/{kind.path}/{{{KEY_FIELD[kind.name]}}}"
    return [
        Route(
            "GET",
            f"/v1/{kind.path}",
            "config:read",
            _lister(kind),
            f"List {kind.path}",
            kind.path,
            "In the order of their ids.",
            query=ListQuery,
            answer=DocumentPage,
            item=kind.document,
            problems=("invalid_cursor",),
            answer_example={"data": [kind.example], "next_cursor": None, "has_more": False},
        ),
        Route(
            "GET",
            one,
            "config:read",
            _getter(kind),
            f"Read one {kind.what}",
            kind.path,
            "Fields at their default are left out.",
            answer=kind.document,
            slashes=True,
            etag=True,
            answer_example=kind.example,
        ),
        Route(
            "PUT",
            one,
            "config:write",
            _putter(kind),
            f"Create or replace one {kind.what}",
            kind.path,
            "201 where it is new. Replacing one needs its ETag in `If-Match`; `If-None-Match: *` only ever creates. "
            "Answered when every shard works with it, so the next order may name it; a shard that is away holds the answer up "
            "for a second at most. Other gateways follow within milliseconds.",
            body=kind.document,
            values_max=600_000,
            answer=kind.document,
            also={201: kind.document},
            slashes=True,
            etag=True,
            takes_key=True,
            if_match=True,
            problems=("version_mismatch", "precondition_required", "key_reused", "in_use"),
            body_examples={kind.what: {"summary": f"One {kind.what}", "value": kind.example}},
            answer_example=kind.example,
        ),
    ]


ROUTES = [route for kind in KINDS for route in _routes_of(kind)]
