"""docs/reference/api.md: the conventions by hand, everything else from the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gateway.openapi import document

_HEAD = """
# The HTTP API

Base path `/v1`. JSON (`application/json`) or MessagePack (`application/vnd.msgpack`; `application/msgpack` and
`application/x-msgpack` are understood) by `Content-Type` and `Accept`. Unknown fields are refused.

## Conventions

**Keys.** `Authorization: Bearer qm_<key id>_<secret>`. Each route needs one scope (table below); `any_key` = any valid key,
`public` = none. A key may be limited to channels: orders of other channels are then `403` when placed, `404` when read.
A revoked key is out within milliseconds.

**Retries.** Routes that change orders or stock need `Idempotency-Key`: 1 to 255 printable ASCII characters, unique for the
intent, the same on every retry. It is scoped to the API key. A repeat finds what the first made and answers with it as it is now, with `Idempotent-Replayed: true`;
the same key with another body is `422 key_reused` (bodies are compared by meaning, not by spacing or format). Keys are
remembered for 24 hours (less when a shard's memory of them is full, never under an hour). A UUIDv7 or ULID older than that is
`409 key_too_old`. Refusals (`409 out_of_stock`, all `4xx`) are not remembered: a retry decides again. After `503 unavailable`
the outcome is unknown until the same key is sent again.

**Problems.** `application/problem+json` (RFC 9457) with `code`, `errors[]` (JSON pointers with numbers) and `request_id`; every code
has cause and cure in [problems.md](problems.md). Query parameters are pointed at like fields (`/limit`) with `parameter`.
`429` and `503` carry `Retry-After`.

**Read your writes.** Answers carry a commit `token`. Send it as `X-QM-After` and the next decision sees at least that: it waits
up to a second, then `503 view_behind`. A token covers the order that it came with. A read of availability contains the order's units at
all shards, also those that move a moment after the answer; a decision at another shard may still count those as they were.

**Versions.** Orders and documents have a strong `ETag`, one for each format. `If-None-Match` answers `304`. Replacing a document needs `If-Match`
(`428` without, `412` when stale); `If-None-Match: *` only creates.

**Lists** answer `{"data": [...], "next_cursor": ..., "has_more": ...}`; give `next_cursor` back as `cursor`. `limit` is 1 to 1,000.

**Money** is integer minor units, **instants** RFC 3339 in UTC with `Z`, **ids** the caller's where the caller has one. Ids made here say
what they are: `alc_`, `res_`, `leg_`, `dec_`, `job_`.

**Batches.** `POST /v1/allocations/batch` takes up to 1,000 orders, each with its own `idempotency_key`, and answers each in its
place with `status` and `body` or `problem`. A malformed order spoils only itself.

**Imports** answer `202` and a job. Rows that cannot be taken are listed in the job by line (the first 1,000), all others are put. A
job is cut short when its gateway stops, and fails when a shard is away for minutes; send the file again with the same key, which
starts it again: chunks that were put are not put twice. Jobs are
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

_WIDTH = 130
_EVERYWHERE = frozenset(("Idempotency-Key", "X-Request-Id"))
"""Headers that the conventions speak of."""
_ANYWHERE = (
    *("malformed_body", "invalid_field", "unauthenticated", "forbidden", "not_acceptable", "body_too_large"),
    *("unsupported_media_type", "rate_limited", "internal", "frozen", "overloaded", "unavailable"),
)
"""Problems that any route may answer."""


def api_markdown() -> str:
    """The whole page."""
    doc = document()
    operations = [
        (method.upper(), path, operation)
        for path, methods in doc["paths"].items()
        for method, operation in methods.items()
    ]
    lines = [_HEAD.strip(), "", "## Routes", "", "| Route | Scope | What |", "| --- | --- | --- |"]
    for method, path, operation in operations:
        lines.append(
            f"| [`{method} {path}`](#{_anchor(method, path)}) | `{_scope(operation)}` | {operation['summary']} |"
        )
    lines += [
        "",
        "Bodies and answers are shown as JSON. `/openapi.json` has the same for machines, with every limit and pattern.",
    ]
    lines += ["", f"Any route may answer: {_linked(_ANYWHERE)}. Each tells what else it may answer."]
    shown = set[str]()
    for tag in doc["tags"]:
        for method, path, operation in operations:
            if tag["name"] in operation["tags"]:
                lines += ["", *_route(doc, method, path, operation, shown)]
    lines += ["", "## Shapes", "", "Fields with a default may be left out of what is sent."]
    for name, schema in sorted(doc["components"]["schemas"].items()):
        if "properties" in schema:
            lines += ["", *_shape(name, schema)]
    return "\n".join(lines) + "\n"


def _anchor(method: str, path: str) -> str:
    kept = "".join(c for c in f"{method} {path}".lower() if c.isalnum() or c in "-_ ")
    return kept.replace(" ", "-")


def _scope(operation: dict[str, Any]) -> str:
    security = operation.get("security") or [{}]
    return next((scopes[0] if scopes else "any_key" for scopes in security[0].values()), "public")


def _route(doc: dict[str, Any], method: str, path: str, operation: dict[str, Any], shown: set[str]) -> Iterator[str]:
    """shown: shapes of answers that have had their example; they get no second one."""
    yield f"### {method} {path}"
    yield ""
    yield f"{operation['summary']}. {operation.get('description', '')}".strip()
    parameters = [_resolve(doc, entry) for entry in operation.get("parameters", [])]
    rows = [entry for entry in parameters if entry["in"] != "path" and entry["name"] not in _EVERYWHERE]
    if rows:
        yield ""
        yield "| Parameter | In | Meaning |"
        yield "| --- | --- | --- |"
        for entry in rows:
            needed = " (needed)" if entry.get("required") else ""
            yield f"| `{entry['name']}`{needed} | {entry['in']} | {_cell(_asked(entry.get('description', ''), entry['schema']))} |"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        if media == "application/vnd.msgpack":
            continue
        yield ""
        yield f"Send {_named(content['schema']) or f'`{media}`'}:"
        examples = [example["value"] for example in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        for example in examples[:3]:
            yield from _block(example)
    problems: list[str] = []
    for status, entry in operation["responses"].items():
        answer = _resolve(doc, entry)
        for media, content in answer.get("content", {}).items():
            if media == "application/problem+json":
                problems += re.findall(r"`(\w+)`: ", answer["description"])
            elif media != "application/vnd.msgpack":
                name = _named(content["schema"])
                has_example = "example" in content and status < "300" and (name is None or name not in shown)
                yield ""
                yield f"Answers `{status}` with {name or f'`{media}`'}{':' if has_example else '.'}"
                if has_example:
                    shown.add(name or "")
                    yield from _block(content["example"])
    problems = [code for code in problems if code not in _ANYWHERE]
    if problems:
        yield ""
        yield f"Problems: {_linked(problems)}."


def _linked(codes: Iterable[str]) -> str:
    return ", ".join(f"[`{code}`](problems.md#{code})" for code in codes)


def _shape(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    if schema.get("description"):
        yield " ".join(schema["description"].split())
        yield ""
    yield "| Field | Type | Meaning |"
    yield "| --- | --- | --- |"
    needed = schema.get("required", [])
    for field, described in schema["properties"].items():
        text = _meaning(described.get("description", ""), described)
        if field not in needed and described.get("default") is not None:
            text = f"{text} Default `{json.dumps(described['default'])}`.".strip()
        yield f"| `{field}` | {_cell(_type(described))} | {_cell(text)} |"


def _asked(text: str, schema: dict[str, Any]) -> str:
    """A parameter: what is said, the words it takes, how often it may be given, and what it is where it is left out."""
    said = [_meaning(text, schema)]
    words = [f"`{word}`" for word in schema.get("enum", ())]
    if words and not all(word in text for word in words):
        said.append(f"{words[0]} only." if len(words) == 1 else f"One of {', '.join(words)}.")
    if schema.get("type") == "array":
        said.append(
            f"Repeat it for several, up to {schema['maxItems']:,}."
            if "maxItems" in schema
            else "Repeat it for several."
        )
    if schema.get("default") not in (None, [], False, ""):
        said.append(f"Default `{schema['default']}`.")
    return " ".join(part for part in said if part)


def _meaning(text: str, schema: dict[str, Any]) -> str:
    """What is said, and the limits."""
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = f"{low:,} to {high:,}." if low is not None and high is not None else ""
    return " ".join((" ".join(text.split()), limits)).strip()


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _named(schema) or ""
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return "list of " + _type(schema.get("items", {})) if schema.get("items") else "list"
    found = schema.get("type", "anything")
    return " or ".join(found) if isinstance(found, list) else str(found)


def _named(schema: dict[str, Any]) -> str | None:
    reference = schema.get("$ref")
    if reference is None:
        return None
    name = str(reference).rpartition("/")[2]
    return f"[{name}](#{name.lower().replace('.', '')})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _resolve(doc: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in entry:
        return entry
    found: Any = doc
    for step in entry["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _block(value: Any) -> Iterator[str]:
    yield ""
    yield "```text" if isinstance(value, str) else "```json"
    yield from (value.rstrip() if isinstance(value, str) else _pretty(value)).splitlines()
    yield "```"


def _pretty(value: Any, indent: int = 0) -> str:
    """JSON, broken into lines only where one is too long."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= _WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {_pretty(entry, indent + 2)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(pad + entry for entry in inner) + "\n" + " " * indent + "}"
    inner = [_pretty(entry, indent + 2) for entry in value]
    return "[\n" + ",\n".join(pad + entry for entry in inner) + "\n" + " " * indent + "]"
