"""What bodies share: strict base structs, field types, and decoding with typed problems.

Unknown fields are refused everywhere. Requests decode straight into these structs, from JSON or MessagePack alike.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from engine.domain.config import Country, Id, MoneyMinor, PostalCode, Tag
from engine.domain.replies import Problem
from gateway.call import Call
from gateway.countries import COUNTRIES
from gateway.errors import DECODE_ERRORS, TEXT_PATTERN, Refused, decode_problem, refuse, refused

UNITS_MAX = 1_000_000_000
VALUE_MAX_MINOR = 1_000_000_000_000_000
"""Most that one order may be worth: far beyond any order, far inside 64 bits whatever is added up."""
INT_MAX = (1 << 63) - 1
PAGE_DEFAULT = 100
_ZIP_CODE = re.compile(r"[0-9]{5}(-?[0-9]{4})?")
PAGE_MAX = 1_000

Quantity = Annotated[int, Meta(ge=1, le=UNITS_MAX)]
SignedQuantity = Annotated[int, Meta(ge=-UNITS_MAX, le=UNITS_MAX)]
ShortText = Annotated[str, Meta(max_length=64, pattern=TEXT_PATTERN)]
Reason = Annotated[str, Meta(max_length=200, pattern=TEXT_PATTERN)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=16)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX)]

T = TypeVar("T")


class Body(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Base of request bodies and query strings."""


class Shown(Struct, gc=False):
    """Base of what answers show."""


class Page(Shown):
    """A page of a list. `next_cursor` goes into `cursor` of the next request; it is opaque."""

    data: list[Any]
    next_cursor: str | None
    has_more: bool


class ProblemError(Shown):
    """One fault: where (a JSON pointer into the request), what, and numbers under names of their own."""

    pointer: str
    detail: str


class ProblemShown(Shown):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ProblemError] | UnsetType = UNSET
    errors_total: int | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class ShipTo(Body, kw_only=True):
    country: Country
    postal_code: PostalCode
    region: ShortText = ""
    residential: bool = True
    lat: Latitude | None = None
    lon: Longitude | None = None


class Decoder(Generic[T]):
    """Decodes one type from either format."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._json = msgspec.json.Decoder(kind)
        self._packed = msgspec.msgpack.Decoder(kind)

    def decode(self, body: bytes, *, packed: bool) -> T:
        """Raises any of DECODE_ERRORS."""
        return (self._packed if packed else self._json).decode(body)

    def of(self, call: Call) -> T | Problem:
        """The body of a call, or what is wrong with it."""
        try:
            return (self._packed if call.packed_in else self._json).decode(call.body)
        except DECODE_ERRORS as error:
            return decode_problem(error, self.kind)


_KINDS: dict[type, tuple[frozenset[str], frozenset[str]]] = {}
"""Names of the fields of a query that are lists, and that are instants."""


def query_of(call: Call, kind: type[T]) -> T:
    """The query string as a struct; raises Refused. A parameter of a list field may be repeated, any other may not."""
    known = _KINDS.get(kind)
    if known is None:
        fields = msgspec.structs.fields(kind)  # type: ignore[arg-type]
        known = _KINDS[kind] = (
            frozenset(f.encode_name for f in fields if _is_list(f.type)),
            frozenset(f.encode_name for f in fields if "datetime" in str(f.type)),
        )
    lists, instants = known
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(call.query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1_000)
    except ValueError as error:
        raise refused("invalid_field", "", f"the query string cannot be read: {error}") from error
    for name, value in pairs:
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise refused("invalid_field", f"/{name}", "this parameter is given twice", parameter=name)
        else:
            values[name] = value
    try:
        query = msgspec.convert(values, kind, strict=False)  # a text is a number where one is wanted
        # "null" is a text like any other, never "not given"; a number is no instant.
        texts = {n: v for n, v in values.items() if n in instants or (type(v) is str and v.lower() == "null")}
        if texts:
            query = msgspec.convert({**msgspec.to_builtins(query), **texts}, kind)
        return query
    except msgspec.ValidationError as error:
        found = decode_problem(error, kind)
        item = found.errors[0]
        name = item.pointer.split("/")[1] if item.pointer else ""
        raise refused("invalid_field", item.pointer, item.detail, parameter=name) from error


def _is_list(kind: Any) -> bool:
    return "list" in str(kind) or "tuple" in str(kind)


def path_id(value: str, pointer: str) -> str:
    """A caller's own id in a path; raises Refused where it could not be one."""
    try:
        return msgspec.convert(value, Id)
    except msgspec.ValidationError as error:
        raise Refused(refuse("invalid_field", pointer, decode_problem(error).errors[0].detail)) from error


def ship_to_problem(ship_to: ShipTo, pointer: str = "/ship_to") -> Problem | None:
    """What no type can say about a destination."""
    if ship_to.country not in COUNTRIES:
        return refuse("invalid_field", f"{pointer}/country", f"{ship_to.country} is not a country (ISO 3166-1)")
    if (ship_to.lat is None) != (ship_to.lon is None):
        return refuse("invalid_field", pointer, "lat and lon go together")
    if ship_to.country == "US" and _ZIP_CODE.fullmatch(ship_to.postal_code) is None:
        return refuse("invalid_field", f"{pointer}/postal_code", "a ZIP code has 5 digits, or 5 and 4 more")
    return None


__all__ = [
    "INT_MAX",
    "PAGE_DEFAULT",
    "PAGE_MAX",
    "UNITS_MAX",
    "VALUE_MAX_MINOR",
    "Body",
    "Country",
    "Decoder",
    "Id",
    "Limit",
    "MoneyMinor",
    "Page",
    "PostalCode",
    "Quantity",
    "Reason",
    "ShipTo",
    "ShortText",
    "Shown",
    "SignedQuantity",
    "Tag",
    "Tags",
    "path_id",
    "query_of",
    "ship_to_problem",
]
