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
from gateway.field_help import describe
from gateway.orders.examples import OUT_OF_STOCK
from gateway.query_help import QUERY_HELP
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
        "description": "Commit token of an earlier answer, or several with commas between them: what they showed is seen by "
        "this request too.",
        "schema": {
            "type": "string",
            "pattern": "^[0-9]{1,3}:[0-9]{1,18}:[0-9]{1,18}( *[;,] *[0-9]{1,3}:[0-9]{1,18}:[0-9]{1,18}){0,63}$",
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
    describe(components, unique)
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
        parameter = {"name": name, "in": "query", "required": required, "schema": field}
        text = QUERY_HELP.get(f"{route.path} {name}") or QUERY_HELP.get(name)
        out.append(parameter | ({"description": text} if text else {}))
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


def main() -> None:
    from gateway.api_page import api_markdown
    from gateway.problem_pages import as_markdown

    folder = Path(__file__).resolve().parent.parent / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "openapi.json").write_text(document_text())
    (folder / "problems.md").write_text(as_markdown())
    (folder / "api.md").write_text(api_markdown())
    print(f"wrote openapi.json, problems.md and api.md in {folder}")


if __name__ == "__main__":
    main()
