"""The OpenAPI 3.1 document, made from the route table and the structs that really decode and encode.

`python -m gateway.openapi` writes docs/reference/openapi.json, docs/reference/problems.md and docs/reference/api.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from engine.domain.api_keys import SCOPES
from engine.domain.problems import CODES
from gateway.call import ANY_KEY, PUBLIC, Route
from gateway.orders.examples import OUT_OF_STOCK
from gateway.schemas import ProblemShown

REF = "#/components/schemas/{name}"
JSON = "application/json"
MSGPACK = "application/vnd.msgpack"
PROBLEM = "application/problem+json"
_PARAMETERS: dict[str, dict[str, Any]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Unique for this intent, the same on every retry. Remembered for up to 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        "example": "0193f0a2-7c31-7e4b-9a55-2f6f0c9d1e77",
    },
    "After": {
        "name": "X-QM-After",
        "in": "header",
        "description": "Commit token of an earlier answer: what it showed is seen by this request too.",
        "schema": {
            "type": "string",
            "pattern": "^[0-9]{1,3}:[0-9]{1,18}:[0-9]{1,18}(;[0-9]{1,3}:[0-9]{1,18}:[0-9]{1,18}){0,63}$",
        },
        "example": "0:3:4712",
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "ETag of the version to replace, or `*`.",
        "schema": {"type": "string", "pattern": '^("[0-9]{1,18}(-m)?"|\\*)$'},
        "example": '"17"',
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "ETags that the caller has: 304 where one of them is still true.",
        "schema": {"type": "string"},
        "example": '"17"',
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Your own id for this request, 1 to 128 of `A-Z a-z 0-9 . _ : -`; comes back in the answer and in "
        "problems. Anything else is replaced.",
        "schema": {"type": "string"},
        "example": "storefront-7f3a",
    },
}
_IDS = {
    "allocation_id": ("alc_US100_0061d3v80g5z0", "^alc_[A-Z]{2}[0-9A-Z]{0,3}_[0-9a-z]{13}$"),
    "reservation_id": ("res_US100_0061d3v80g5z0", "^res_[A-Z]{2}[0-9A-Z]{0,3}_[0-9a-z]{13}$"),
    "leg_id": ("leg_US100_0061d3v80g5z0_1", "^leg_[A-Z]{2}[0-9A-Z]{0,3}_[0-9a-z]{13}_[0-9]{1,4}$"),
    "decision_id": ("dec_US100_0061d3v80g5z0_0", "^dec_[A-Z]{2}[0-9A-Z]{0,3}_[0-9a-z]{13}_[0-9]{1,4}$"),
    "job_id": ("job_9f2c51d08e7ab34c10de", "^job_[0-9a-f]{20}$"),
    "code": ("out_of_stock", "^[a-z_]{1,40}$"),
}
_HEADERS = {
    "X-Request-Id": {"description": "Finds the request in the log.", "schema": {"type": "string"}},
    "ETag": {"description": "Version of what is shown.", "schema": {"type": "string"}},
    "Location": {"description": "Where it can be read.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true`: this answers a repeat.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
}


def document(routes: Iterable[Route] | None = None) -> dict[str, Any]:
    """The whole document."""
    if routes is None:
        from gateway.app import all_routes

        routes = all_routes()
    routes = list(routes)
    types = [ProblemShown]
    for route in routes:
        types += [t for t in (route.body, route.answer, route.item, *route.also.values()) if t not in (None, str, dict)]
    unique = list(dict.fromkeys(types))
    schemas_out, components = msgspec.json.schema_components(unique, ref_template=REF)
    names = {t: out["$ref"].rpartition("/")[2] for t, out in zip(unique, schemas_out, strict=True)}
    components = {name: _clean(schema) for name, schema in sorted(components.items())}
    paths: dict[str, Any] = {}
    shared = _Shared()
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names, shared)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quartermaster",
            "version": "1.0.0",
            "summary": "Real-time order allocation.",
            "description": "Who ships this, from where, when, at what cost: answered with the stock already held.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": shared.responses,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "qm_<key id>_<secret>",
                    "description": f"An API key. Scopes: {', '.join(SCOPES)}.",
                }
            },
        },
    }


class _Shared:
    """Problem answers that several operations have in common, by status and codes."""

    def __init__(self) -> None:
        self.responses: dict[str, Any] = {}
        self._names: dict[tuple[str, ...], str] = {}

    def ref(self, status: int, codes: list[str]) -> dict[str, str]:
        name = self._names.get(tuple(codes))
        if name is None:
            taken = sum(other.startswith(f"Problem{status}") for other in self.responses)
            name = self._names[tuple(codes)] = f"Problem{status}{chr(ord('a') + taken)}"
            self.responses[name] = _problem_response(status, codes)
        return {"$ref": f"#/components/responses/{name}"}


def _operation(route: Route, names: dict[type, str], shared: _Shared) -> dict[str, Any]:
    out: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "security": [] if route.scope == PUBLIC else [{"bearer": [] if route.scope == ANY_KEY else [route.scope]}],
    }
    text = route.description
    if route.scope == ANY_KEY:
        text = f"{text} Needs any valid key.".strip()
    elif route.scope != PUBLIC:
        text = f"{text} Needs scope `{route.scope}`.".strip()
    if text:
        out["description"] = text
    parameters = [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]
    if parameters:
        out["parameters"] = parameters
    body = _request_body(route, names)
    if body:
        out["requestBody"] = body
    out["responses"] = _responses(route, names, shared)
    return out


def _operation_id(route: Route) -> str:
    words = [part for part in route.path.split("/") if part and part != "v1" and not part.startswith("{")]
    one = "one_" if route.path.endswith("}") else ""
    return f"{route.method.lower()}_{one}{'_'.join(words)}"


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    out = []
    for part in route.path.split("/"):
        if not part.startswith("{"):
            continue
        name = part[1:-1]
        parameter: dict[str, Any] = {"name": name, "in": "path", "required": True}
        if name in _IDS:
            example, pattern = _IDS[name]
            parameter |= {"schema": {"type": "string", "pattern": pattern}, "example": example}
        else:
            schema = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~][ -~]*$"}
            parameter |= {"schema": schema, "example": "A-1", "description": "The caller's own id, percent-encoded."}
        out.append(parameter)
    return out


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = msgspec.json.schema(route.query)
    schema = _clean(schema["$defs"][route.query.__name__])
    out = []
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", [])
        field = dict(field)
        if "anyOf" in field:  # a parameter that is not given is not null
            field = next(option for option in field["anyOf"] if option.get("type") != "null")
        if field.get("default", 0) is None:
            field.pop("default", None)
        out.append({"name": name, "in": "query", "required": required, "schema": field})
    return out


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if route.needs_key:
        out.append({**_PARAMETERS["IdempotencyKey"], "required": True})
    elif route.takes_key:
        out.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if route.takes_after:
        out.append({"$ref": "#/components/parameters/After"})
    if route.if_match:
        out.append({"$ref": "#/components/parameters/IfMatch"})
    if route.etag and route.method == "GET":
        out.append({"$ref": "#/components/parameters/IfNoneMatch"})
    out.append({"$ref": "#/components/parameters/RequestId"})
    return out


def _request_body(route: Route, names: dict[type, str]) -> dict[str, Any] | None:
    if route.body_types:
        content: dict[str, Any] = {}
        for media in route.body_types:
            content[media] = {"schema": {"type": "string"}}
            if media in route.raw_examples:
                content[media]["example"] = route.raw_examples[media]
        return {"required": True, "content": content}
    if route.body is None:
        return None
    media = {"schema": {"$ref": REF.format(name=names[route.body])}}
    return {
        "required": route.body_required,
        "content": {JSON: {**media, "examples": route.body_examples}, MSGPACK: media},
    }


def _responses(route: Route, names: dict[type, str], shared: _Shared) -> dict[str, Any]:
    out: dict[str, Any] = {}
    headers = ["X-Request-Id"]
    if route.etag:
        headers.append("ETag")
    if route.status in (201, 202):
        headers.append("Location")
    if route.needs_key:
        headers.append("Idempotent-Replayed")
    for status, kind in {route.status: route.answer, **route.also}.items():
        answer: dict[str, Any] = {
            "description": _SAID.get(status, "Done."),
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        }
        if route.answer_type:
            answer["content"] = {
                route.answer_type: {"schema": {"type": "object" if route.answer is dict else "string"}}
            }
        elif kind is not None:
            schema: dict[str, Any] = {"$ref": REF.format(name=names[kind])}
            if route.item is not None:
                of_items = {"data": {"items": {"$ref": REF.format(name=names[route.item])}}}
                schema = {"allOf": [schema, {"properties": of_items}]}
            answer["content"] = {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
            if route.answer_example is not None and status == route.status:
                answer["content"][JSON]["example"] = route.answer_example
        out[str(status)] = answer
    if route.etag and route.method == "GET":
        out["304"] = {"description": "The caller's version is still true."}
    for status, codes in sorted(_problem_codes(route).items()):
        if str(status) in out:
            continue
        out[str(status)] = shared.ref(status, sorted(codes))
    return dict(sorted(out.items()))


_SAID = {200: "Done, or shown.", 201: "Made.", 202: "Taken; see the job.", 503: "Not ready."}


def _problem_codes(route: Route) -> dict[int, list[str]]:
    """Codes by status that a route can answer: its own, and those of the steps every request goes through."""
    codes = ["not_acceptable", "internal"]
    if route.scope != PUBLIC:
        codes += ["unauthenticated", "forbidden", "rate_limited", "overloaded", "unavailable", "frozen"]
    if route.needs_key or route.takes_key:
        codes += ["idempotency_key_required"] if route.needs_key else []
        codes += ["key_too_old", "invalid_field"]
    if route.body is not None or route.body_types:
        codes += ["malformed_body", "body_too_large", "unsupported_media_type", "invalid_field"]
    if route.query is not None:
        codes.append("invalid_field")
    if "{" in route.path:
        codes.append("not_found")
        if route.scope == ANY_KEY or route.slashes:
            codes.append("invalid_field")
    if route.takes_after:
        codes += ["invalid_token", "view_behind"]
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys([*codes, *route.problems]):
        by_status.setdefault(CODES[code].status, []).append(code)
    return by_status


def _problem_response(status: int, codes: list[str]) -> dict[str, Any]:
    headers = ["X-Request-Id"] + (["Retry-After"] if status in (429, 503) else [])
    media: dict[str, Any] = {"schema": {"$ref": REF.format(name="ProblemShown")}}
    content: dict[str, Any] = {PROBLEM: dict(media), MSGPACK: media}
    if "out_of_stock" in codes:
        content[PROBLEM]["example"] = OUT_OF_STOCK
    return {
        "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes) + ".",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": content,
    }


def _clean(schema: Any) -> Any:
    """msgspec's schema as readers of the document expect it: patterns without Python's end-of-line guard, tidy texts."""
    if isinstance(schema, dict):
        out = {key: _clean(value) for key, value in schema.items()}
        if isinstance(out.get("pattern"), str):
            out["pattern"] = out["pattern"].removesuffix("(?!\\n)")
        if isinstance(out.get("description"), str):
            out["description"] = " ".join(inspect.cleandoc(out["description"]).split())
        return out
    if isinstance(schema, list):
        return [_clean(value) for value in schema]
    return schema


@lru_cache(maxsize=1)
def document_bytes() -> bytes:
    """As served at /openapi.json."""
    return msgspec.json.encode(document())


def document_text() -> str:
    """As kept in the repository: indented, one key a line, so that changes can be read."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"


def api_markdown() -> str:
    """docs/reference/api.md: conventions by hand, the table of routes from the table of routes."""
    from gateway.app import all_routes

    lines = [_API_HEAD.strip(), "", "## Routes", "", "| Route | Scope | What |", "| --- | --- | --- |"]
    lines += [f"| `{route.name}` | `{route.scope}` | {route.summary} |" for route in all_routes()]
    lines += [
        "",
        "Bodies, parameters and examples of each: `docs/reference/openapi.json`, served at `/openapi.json`.",
        "",
    ]
    return "\n".join(lines)


_API_HEAD = """
# The HTTP API

Base path `/v1`. JSON (`application/json`) or MessagePack (`application/vnd.msgpack`; `application/msgpack` and
`application/x-msgpack` are understood) by `Content-Type` and `Accept`. Unknown fields are refused.

## Conventions

**Keys.** `Authorization: Bearer qm_<key id>_<secret>`. Each route needs one scope (table below); `any_key` = any valid key,
`public` = none. A key may be limited to channels: orders of other channels are then `403` when placed, `404` when read.
A revoked key is out within milliseconds.

**Retries.** Routes that change orders or stock need `Idempotency-Key`: 1 to 255 printable ASCII characters, unique for the
intent, the same on every retry. It is scoped to the API key. A repeat gets the first answer, with `Idempotent-Replayed: true`;
the same key with another body is `422 key_reused` (bodies are compared by meaning, not by spacing or format). Keys are
remembered for 24 hours (less when a shard's memory of them is full, never under an hour). A UUIDv7 or ULID older than that is
`409 key_too_old`. Refusals (`409 out_of_stock`, all `4xx`) are not remembered: a retry decides again. After `503 unavailable`
the outcome is unknown until the same key is sent again.

**Problems.** `application/problem+json` (RFC 9457) with `code`, `errors[]` (JSON pointers with numbers) and `request_id`; every code
has cause and cure in [problems.md](problems.md). Query parameters are pointed at like fields (`/limit`) with `parameter`.
`429` and `503` carry `Retry-After`.

**Read your writes.** Answers carry a commit `token`. Send it as `X-QM-After` and the next decision sees at least that: it waits
up to a second, then `503 view_behind`.

**Versions.** Orders and documents have a strong `ETag`, one for each format. `If-None-Match` answers `304`. Replacing a document needs `If-Match`
(`428` without, `412` when stale); `If-None-Match: *` only creates.

**Lists** answer `{"data": [...], "next_cursor": ..., "has_more": ...}`; give `next_cursor` back as `cursor`. `limit` is 1 to 1,000.

**Money** is integer minor units, **instants** RFC 3339 in UTC with `Z`, **ids** the caller's where the caller has one. Ids made here say
what they are: `alc_`, `res_`, `leg_`, `dec_`, `job_`.

**Batches.** `POST /v1/allocations/batch` takes up to 1,000 orders, each with its own `idempotency_key`, and answers each in its
place with `status` and `body` or `problem`. A malformed order spoils only itself.

**Imports** answer `202` and a job. Rows that cannot be taken are listed in the job by line (the first 1,000), all others are put. A
job is cut short when its gateway stops; send the file again with the same key: chunks that were put are not put twice. Jobs are
seen at the gateway that took the file.

**Limits.** Request line and headers 64 KiB, body 8 MiB (`QM_BODY_BYTES_MAX`), import 512 MiB (`QM_IMPORT_BYTES_MAX`), 1,000 lines
an order (`QM_MAX_LINES`), 20,000 lines a batch, quantities 1 to 10^9, 10,000 connections (`QM_CONNECTIONS_MAX`; one more is
answered `503 overloaded` and closed), 4,096 requests in flight (`QM_IN_FLIGHT_MAX`; what frees stock is shed at twice that), 10 s
an answer (`QM_REQUEST_TIMEOUT_MS`), and `QM_RATE_PER_KEY_PER_S` requests a second for each key (0 = no limit; shown in
`RateLimit` and `RateLimit-Policy`).

**Configuration.** A `PUT` is answered when every shard works with it (a shard that is away holds it up for a second at most), and an
import is done when they do: the next order may name what was put. Other gateways follow within milliseconds.

**Health.** `/livez`: the process runs. `/readyz`: every shard answers and the configuration is there, else which does not and why; `503`
from the moment the process is told to stop. `/metrics`: Prometheus text of this gateway and all shards, named
`quartermaster_<area>_<what>_<unit>`.
"""


def main() -> None:
    from gateway.problem_pages import as_markdown

    folder = Path(__file__).resolve().parent.parent / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openapi.json").write_text(document_text())
    (folder / "problems.md").write_text(as_markdown())
    (folder / "api.md").write_text(api_markdown())
    print(f"wrote openapi.json, problems.md and api.md in {folder}")


if __name__ == "__main__":
    main()
