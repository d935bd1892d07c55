"""From a request's headers to its answer's bytes: the steps that every route goes through, in one order.

    identify -> authenticate -> authorise -> admit -> negotiate -> key -> (body) -> handle -> render

Nothing here knows of ASGI or sockets, so that both ways in (asgi.py and the lean protocol) share it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any, NamedTuple

import msgspec
import structlog

from engine.domain.replies import Problem
from engine.protocol.tokens import parse_token
from gateway.call import PUBLIC, VALUES_FREE_BYTES, Answer, Ask, Call, Streamed
from gateway.errors import (
    DECODE_ERRORS,
    PROBLEM_JSON,
    Refused,
    decode_problem,
    problem,
    problem_value,
    refuse,
    retry_after,
    status_of,
)
from gateway.history.past import ELSEWHERE
from gateway.idempotency import hash_key, key_time
from gateway.negotiate import JSON, MSGPACK, accepts, answer_is_packed, body_is_packed, media_type

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode

STANDARD_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"vary", b"accept"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""On every answer. The API is for programs: nothing may be cached, framed, sniffed or run."""


class Rendered(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    """All but content-length and the standard ones."""
    body: bytes


def admit(call: Call) -> Problem | None:
    """Everything that can be said before the body is read."""
    gateway, route, headers = call.gateway, call.route, call.headers
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.match(given):
        call.request_id = given.decode("ascii")
    else:
        call.request_id = gateway.new_request_id()
    packed_out = answer_is_packed(headers.get(b"accept"))
    call.packed_out = packed_out is True

    if route.scope != PUBLIC:
        now_ms = gateway.now_ms()
        key = gateway.keys.principal(headers.get(b"authorization"), now_ms=now_ms)
        if key is None:
            return problem("unauthenticated")
        call.key = key
        if not key.may(route.scope):
            return problem("forbidden", f"this key has no scope {route.scope}")
        if gateway.buckets is not None:
            allowed, left, reset_s = gateway.buckets.take(key.key_id, now_s=call.started)
            call.extra_headers += gateway.buckets.headers(left, reset_s)
            if not allowed:
                return problem("rate_limited", retry_after_ms=reset_s * 1_000)
        shed = gateway.in_flight.refusal(finishing=route.finishing)
        if shed is not None:
            return shed
        if route.needs_key or route.takes_key:
            given = headers.get(b"idempotency-key")
            if given or route.needs_key:
                made_ms = key_time(given, now_ms=now_ms)
                if type(made_ms) is Problem:
                    return made_ms
                assert given is not None and type(made_ms) is int
                call.key_hash, call.key_ms = hash_key(key.hash_prefix, given), made_ms

    if route.takes_after:
        token = headers.get(b"x-qm-after")
        if token is not None and parse_token(token.decode("latin-1")) is None:
            return problem("invalid_token")

    if route.answer_type:
        if not accepts(headers.get(b"accept"), route.answer_type.encode()):
            return problem("not_acceptable", f"this route answers {route.answer_type}")
    elif packed_out is None:
        return problem("not_acceptable", "answers are application/json or application/vnd.msgpack")

    content_type = headers.get(b"content-type")
    if route.body_types:
        if content_type is None or media_type(content_type).decode("latin-1") not in route.body_types:
            return problem("unsupported_media_type", f"one of {', '.join(route.body_types)}")
    elif route.body is not None:
        packed_in = body_is_packed(content_type)
        if packed_in is None and (content_type is not None or route.body_required):
            return problem("unsupported_media_type", "application/json or application/vnd.msgpack")
        call.packed_in = bool(packed_in)
    return None


async def work(call: Call) -> Answer | Problem | Streamed:
    """Handle an admitted call whose body is there."""
    try:
        result = flood(call) or call.route.handle(call)
        if type(result) is Ask:
            cluster = call.gateway.cluster
            reply = await cluster.submit(cluster.shard_of_slot(result.slot), result.command)
            if type(reply) is Problem and reply.code in ELSEWHERE:
                reply = await call.gateway.ask_slot(result.slot, result.command)
            return result.finish(call, reply)
        if isinstance(result, Awaitable):
            return await result
        return result
    except Refused as refused:
        return refused.problem
    except DECODE_ERRORS as error:
        return decode_problem(error)
    except Exception as error:
        return internal(call, error)


def internal(call: Call, error: Exception) -> Problem:
    """A fault of ours: logged with the request id that the answer carries."""
    log.error("request failed", route=call.route.name, request_id=call.request_id, exc_info=error)
    return problem("internal")


def render(call: Call, result: Answer | Problem) -> Rendered:
    """Status, headers and bytes of a result."""
    if type(result) is Problem:
        return render_problem(call, result)
    assert type(result) is Answer
    headers = [(b"x-request-id", call.request_id.encode())]
    if result.media_type is not None:
        headers.append((b"content-type", result.media_type))
        body: bytes = result.value
    elif call.packed_out:
        headers.append((b"content-type", MSGPACK))
        body = _pack(result.value)
    else:
        headers.append((b"content-type", JSON))
        body = _json(result.value)
    if result.version is not None:
        tag = etag(result.version, packed=call.packed_out)
        headers.append((b"etag", tag))
        if result.status == 200 and call.route.method == "GET" and _matches(call.headers.get(b"if-none-match"), tag):
            return Rendered(304, [headers[0], headers[-1]], b"")
    if result.headers:
        headers += result.headers
    if call.extra_headers:
        headers += call.extra_headers
    return Rendered(result.status, headers, body)


def render_problem(call: Call, found: Problem) -> Rendered:
    status = status_of(found)
    call.gateway.metrics.refused(found.code)
    value = problem_value(found, call.request_id)
    headers = [(b"x-request-id", call.request_id.encode())]
    if call.packed_out:
        headers.append((b"content-type", MSGPACK))
        body = _pack(value)
    else:
        headers.append((b"content-type", PROBLEM_JSON))
        body = _json(value)
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="quartermaster"'))
    later = retry_after(found)
    if later is not None:
        headers.append((b"retry-after", later))
    return Rendered(status, headers + call.extra_headers, body)


def etag(version: int, *, packed: bool) -> bytes:
    """Strong: one for each version and format."""
    return b'"%d-m"' % version if packed else b'"%d"' % version


def version_of_etag(header: bytes) -> int | None:
    """The version that an If-Match names; None = it is none of ours, so it matches nothing."""
    text = header.strip().strip(b'"').removesuffix(b"-m")
    return int(text) if text.isdigit() and len(text) < 19 else None


def _matches(header: bytes | None, tag: bytes) -> bool:
    if header is None:
        return False
    if header.strip() == b"*":
        return True
    return any(part.strip().removeprefix(b"W/") == tag for part in header.split(b","))


def flood(call: Call) -> Problem | None:
    """Refuses a body of very many values before any is built. MessagePack says an array's length first, JSON does not."""
    body = call.body
    if len(body) <= VALUES_FREE_BYTES or call.packed_in or body.count(b",") <= call.route.values_max:
        return None
    limit = call.route.values_max
    return refuse("body_too_large", "", f"the body holds more than {limit} values", limit_values=limit)


def over_limit(limit: int) -> Problem:
    """A body larger than allowed."""
    return refuse("body_too_large", "", f"the body is larger than {limit} bytes", limit_bytes=limit)


def expects_body(route: Any) -> bool:
    return route.body is not None and not route.body_types
