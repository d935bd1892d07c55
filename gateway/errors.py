"""The one table from problems to HTTP: RFC 9457 bodies, status, Retry-After; and decoders' complaints as typed problems."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import msgspec.inspect as mi

from engine.domain import config
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem

PROBLEM_JSON = b"application/problem+json"
TYPE_BASE = "/problems/"
"""A problem's `type` is a reference to the gateway's own page about its code."""
ERRORS_MAX = 100
KEY_POINTER = "/headers/Idempotency-Key"
_KEY_FAULTS = {
    "idempotency_key_required": "this header is required",
    "key_in_use": "a request with this key is still running",
    "key_reused": "this key was used with another body",
}
"""Problems about the key itself: shards name the code, where the key stood is known here."""
RETRY_AFTER_DEFAULT_MS = 1_000
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Refused(Exception):
    """Carries a problem out of nested parsing to the one place that answers it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def problem(code: str, detail: str = "", *, retry_after_ms: int | None = None) -> Problem:
    """A problem without a field to point at."""
    return Problem(code, detail or CODES[code].title, (), retry_after_ms)


def refuse(code: str, pointer: str, detail: str, **facts: Any) -> Problem:
    """A problem with one fault at a place of the request."""
    return Problem(code, CODES[code].title, (ProblemItem(pointer, detail, facts),))


def refused(code: str, pointer: str, detail: str, **facts: Any) -> Refused:
    return Refused(refuse(code, pointer, detail, **facts))


def status_of(found: Problem) -> int:
    code = CODES.get(found.code)
    return code.status if code else 500


def problem_value(found: Problem, request_id: str, *, key_pointer: str = KEY_POINTER) -> Any:
    """The body of a problem answer: what gateway.schemas.ProblemShown describes, with each fault's numbers.

    key_pointer: where the request's idempotency key stood.
    """
    code = CODES.get(found.code)
    status, title = (code.status, code.title) if code else (500, CODES["internal"].title)
    value: dict[str, Any] = {
        "type": TYPE_BASE + found.code,
        "title": title,
        "status": status,
        "detail": found.detail or title,
        "code": found.code,
    }
    if found.errors:
        value["errors"] = [{"pointer": e.pointer, "detail": e.detail, **e.facts} for e in found.errors[:ERRORS_MAX]]
        if found.code == "key_too_old":  # a shard's says nothing of where the key stood
            value["errors"][0]["pointer"] = key_pointer
        if len(found.errors) > ERRORS_MAX:
            value["errors_total"] = len(found.errors)
    elif found.code in _KEY_FAULTS:
        value["errors"] = [{"pointer": key_pointer, "detail": _KEY_FAULTS[found.code]}]
    value["request_id"] = request_id
    if found.retry_after_ms is not None:
        value["retry_after_ms"] = found.retry_after_ms
    return value


def retry_after(found: Problem) -> bytes | None:
    """Seconds for a Retry-After header, jittered so that the refused do not come back together; None = no use retrying."""
    status = status_of(found)
    if status not in (429, 503) and found.retry_after_ms is None:
        return None
    wanted_s = (found.retry_after_ms or RETRY_AFTER_DEFAULT_MS) / 1_000
    return b"%d" % max(1, round(wanted_s * random.uniform(1.0, 2.0)))


# -- decoders' complaints -----------------------------------------------------------------------------------------

_PATH = re.compile(r" - at (`key` in )?`\$?([^`]*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"(missing required|unknown) field `([^`]*)`")
_REGEX = re.compile(r"^Expected `str` matching regex '(.*)'$")
TEXT_PATTERN = r"^[^\x00-\x1f\x7f]*$(?!\n)"
ID_SENTENCE = "printable ASCII characters, the first one not a space"
_PATTERNS = {
    config.Id: ID_SENTENCE,
    config.Tag: "lower-case letters, digits and underscores",
    config.Country: "two capital letters (ISO 3166-1)",
    config.PostalCode: "letters, digits, spaces and hyphens",
    config.Clock: "a time of day, HH:MM",
    config.Day: "a day, YYYY-MM-DD",
}
_SENTENCES: dict[str, str] = {kind.__metadata__[0].pattern: text for kind, text in _PATTERNS.items()}  # type: ignore[attr-defined]
_SENTENCES[TEXT_PATTERN] = "text without control characters"
_SENTENCES[r"^[A-Z]{3}$(?!\n)"] = "three capital letters (ISO 4217)"


def escape(name: str) -> str:
    """A name as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def fault_of(error: Exception) -> tuple[str, str]:
    """(JSON pointer, sentence) of a validation error's text."""
    text = str(error)
    pointer = ""
    found = _PATH.search(text)
    if found:
        text = text[: found.start()]
        for name, index in _STEP.findall(found.group(2)):
            if index == "...":
                break  # a value of a map: msgspec does not say of which key
            pointer += "/" + (escape(name) if name else index)
        if found.group(1):
            text = f"a key: {text[0].lower()}{text[1:]}"
    field = _FIELD.search(text)
    if field:
        pointer += "/" + escape(field.group(2))
        text = "this field is required" if field.group(1) == "missing required" else "there is no such field"
    regex = _REGEX.match(text)
    if regex:
        pattern = regex.group(1).encode().decode("unicode_escape") if "\\" in regex.group(1) else regex.group(1)
        text = _SENTENCES.get(regex.group(1)) or _SENTENCES.get(pattern) or text
        text = f"expected {text}"
    return pointer, text


def _allowed(types: Iterable[mi.Type], steps: list[str]) -> list[str]:
    """The words that the field at the end of a path may be; empty where they are not known."""
    found: list[str] = []
    for kind in types:
        if isinstance(kind, mi.Metadata):
            found += _allowed([kind.type], steps)
        elif isinstance(kind, mi.UnionType):
            found += _allowed(kind.types, steps)
        elif not steps:
            found += [str(value) for value in kind.values] if isinstance(kind, mi.LiteralType) else []
        elif isinstance(kind, mi.StructType):
            found += _allowed([field.type for field in kind.fields if field.encode_name == steps[0]], steps[1:])
        elif isinstance(kind, mi.ListType | mi.VarTupleType):
            found += _allowed([kind.item_type], steps[1:])
    return found


def decode_problem(error: Exception, kind: Any = None) -> Problem:
    """What is wrong with a body that would not decode: a field (422), or that it is no JSON or MessagePack at all (400).

    kind: what it was to be; names the values that a field may have where it has another one.
    """
    if isinstance(error, msgspec.ValidationError):
        pointer, sentence = fault_of(error)
        if kind is not None and sentence.startswith("Invalid enum value"):
            allowed = _allowed([mi.type_info(kind)], pointer.split("/")[1:])
            if allowed:
                sentence = f"expected one of {', '.join(allowed)}; {sentence[0].lower()}{sentence[1:]}"
        return refuse("invalid_field", pointer, sentence)
    if isinstance(error, RecursionError):
        return problem("malformed_body", "the body is nested too deeply")
    return problem("malformed_body", str(error))
