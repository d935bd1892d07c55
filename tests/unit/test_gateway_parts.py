"""The gateway's small parts: negotiation, keys, idempotency, times, limits, pointers."""

from __future__ import annotations

import resource

import msgspec
import pytest

from engine.domain.api_keys import new_key
from engine.domain.config import ApiKey, Id
from engine.domain.problems import CODES
from engine.domain.replies import LegList, LegView, Problem, ProblemItem, WorkLeg
from gateway.__main__ import FILES_RESERVED, room_for_connections
from gateway.auth import Keys
from gateway.demand.schemas import DemandQuery
from gateway.errors import Refused, decode_problem, fault_of, problem, problem_value, retry_after
from gateway.idempotency import WINDOW_MS, fingerprint, hash_key, key_time, time_of
from gateway.legs.routes import merged
from gateway.legs.schemas import LegsQuery
from gateway.limits import Buckets, InFlight
from gateway.metrics import Metrics
from gateway.negotiate import accepts, answer_is_packed, body_is_packed
from gateway.orders.schemas import Batch, Order, order_request
from gateway.problem_pages import PAGES
from gateway.schemas import query_of
from gateway.times import iso

NOW_MS = 1_790_000_000_000


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", False),
        (b"application/vnd.msgpack", True),
        (b"application/x-msgpack, application/json;q=0.5", True),
        (b"application/json, application/msgpack", False),
        (b"application/*", False),
        (b"application/json;q=0, application/*", True),
        (b"text/html, application/xhtml+xml, */*;q=0.8", False),
        (b"text/html", None),
        (b"application/json;q=0", None),
        (b"application/json;q=banana", None),
        (b"", False),
    ],
)
def test_accept(accept: bytes | None, packed: bool | None) -> None:
    assert answer_is_packed(accept) is packed


def test_content_types() -> None:
    assert body_is_packed(b"application/json; charset=utf-8") is False
    assert body_is_packed(b"APPLICATION/MSGPACK") is True
    assert body_is_packed(b"text/plain") is None
    assert body_is_packed(None) is None
    assert accepts(b"text/*;q=0.1", b"text/plain")
    assert not accepts(b"application/json", b"text/plain")


def test_instants_are_utc_with_z() -> None:
    assert iso(NOW_MS) == "2026-09-21T14:13:20Z"
    assert iso(NOW_MS + 7) == "2026-09-21T14:13:20.007Z"
    assert iso(0) is None


class _Documents(dict[str, ApiKey]):
    def __call__(self) -> dict[str, ApiKey]:
        return self


def test_a_key_is_known_by_its_hash_until_it_is_revoked_or_expires() -> None:
    token, document = new_key("abcd", ["allocate:read"], expires_at_ms=NOW_MS)
    documents = _Documents(abcd=document)
    keys = Keys(documents)
    header = f"Bearer {token}".encode()
    assert token not in msgspec.json.encode(document).decode()
    found = keys.principal(header, now_ms=NOW_MS - 1)
    assert found is not None
    assert found.may("allocate:read")
    assert not found.may("allocate:write")
    assert keys.principal(header, now_ms=NOW_MS) is None
    documents["abcd"] = msgspec.structs.replace(document, revoked=True)
    assert keys.principal(header, now_ms=NOW_MS - 1) is None
    del documents["abcd"]
    assert keys.principal(header, now_ms=NOW_MS - 1) is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer qm_",
        b"Bearer qm_abcd",
        b"Bearer qm_abcd_",
        b"Bearer qm_none_",
        b"Bearer qm_abcd_wrong",
        b"Basic qm_abcd_wrong",
        b"Bearer qm_abcd_" + b"\xff" * 40,
        b"Bearer " + b"x" * 100_000,
    ],
)
def test_anything_else_is_nobody(header: bytes | None) -> None:
    _, document = new_key("abcd", ["*"])
    assert Keys(_Documents(abcd=document)).principal(header, now_ms=NOW_MS) is None


def test_key_hashes_are_scoped_and_never_zero() -> None:
    assert hash_key(b"a\0", b"k") != hash_key(b"b\0", b"k")
    assert 0 < hash_key(b"", b"") < 1 << 64


def test_fingerprints_tell_routes_and_bodies_apart() -> None:
    assert fingerprint(b"x", (1, "a")) == fingerprint(b"x", [1, "a"])
    assert fingerprint(b"x", (1, "a")) != fingerprint(b"y", (1, "a"))
    assert fingerprint(b"x", (1, "a")) != fingerprint(b"x", (1, "b"))


def _uuid7(ms: int) -> bytes:
    digits = f"{ms:012x}7abc8123456789abcdef"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def _ulid(ms: int) -> bytes:
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    out = ""
    for _ in range(10):
        out = alphabet[ms & 31] + out
        ms >>= 5
    return (out + "ABCDEFGHJKMNPQRS").encode()


@pytest.mark.parametrize("make", [_uuid7, _ulid])
def test_time_ordered_keys_older_than_the_window_are_refused(make: object) -> None:
    assert callable(make)
    assert time_of(make(NOW_MS)) == NOW_MS
    assert key_time(make(NOW_MS - WINDOW_MS), now_ms=NOW_MS) == NOW_MS - WINDOW_MS
    refused = key_time(make(NOW_MS - WINDOW_MS - 1), now_ms=NOW_MS)
    assert isinstance(refused, Problem)
    assert refused.code == "key_too_old"
    assert key_time(make(NOW_MS).lower(), now_ms=NOW_MS) == NOW_MS


@pytest.mark.parametrize(
    "key", [b"00000000000000000000000001", b"order-1234567890123456789!", b"6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
)
def test_keys_that_only_look_time_ordered_are_opaque(key: bytes) -> None:
    assert key_time(key, now_ms=NOW_MS) == 0


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_required"),
        (b"", "idempotency_key_required"),
        (b"a\tb", "invalid_field"),
        (b"x" * 256, "invalid_field"),
        (b"\xc3\xa9", "invalid_field"),
    ],
)
def test_bad_keys(key: bytes | None, code: str) -> None:
    found = key_time(key, now_ms=NOW_MS)
    assert isinstance(found, Problem)
    assert found.code == code


def test_new_work_is_shed_before_what_finishes() -> None:
    gate = InFlight(2)
    gate.now = 2
    refused = gate.refusal(finishing=False)
    assert refused is not None
    assert refused.code == "overloaded"
    assert gate.refusal(finishing=True) is None
    gate.now = 4
    assert gate.refusal(finishing=True) is not None


def test_a_bucket_gives_a_second_of_burst_then_its_rate() -> None:
    buckets = Buckets(2)
    assert [buckets.take("k", now_s=10.0)[0] for _ in range(3)] == [True, True, False]
    assert buckets.take("other", now_s=10.0)[0]
    assert buckets.take("k", now_s=10.5) == (True, 0, 1)
    assert not buckets.take("k", now_s=10.6)[0]


def test_retry_after_is_jittered_whole_seconds() -> None:
    found = problem("overloaded", retry_after_ms=2_000)
    seen = {retry_after(found) for _ in range(200)}
    assert seen <= {b"2", b"3", b"4"}
    assert len(seen) > 1
    assert retry_after(problem("not_found")) is None


def test_a_problem_shows_its_numbers() -> None:
    found = Problem("out_of_stock", "", (ProblemItem("/lines/0", "too few", {"requested": 2}),))
    assert problem_value(found, "r-1") == {
        "type": "/problems/out_of_stock",
        "title": CODES["out_of_stock"].title,
        "status": 409,
        "detail": CODES["out_of_stock"].title,
        "code": "out_of_stock",
        "errors": [{"pointer": "/lines/0", "detail": "too few", "requested": 2}],
        "request_id": "r-1",
    }


ORDER = '{"order_id":"A","channel":"web","lines":[{"line_id":"1","sku":"S","quantity":1}]}'


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (ORDER.replace('"quantity":1', '"quantity":0'), "/lines/0/quantity", "Expected `int` >= 1"),
        (
            ORDER.replace('"quantity":1', '"quantity":9223372036854775808'),
            "/lines/0/quantity",
            "Expected `int` <= 1000000000",
        ),
        (ORDER.replace('"quantity":1', '"quantity":1' + "0" * 400), "/lines/0/quantity", ""),
        (ORDER.replace('"quantity":1', '"quantity":1.5'), "/lines/0/quantity", "Expected `int`, got `float`"),
        (ORDER.replace(',"quantity":1', ""), "/lines/0/quantity", "this field is required"),
        (ORDER.replace('"quantity":1', '"quantity":1,"a/b~c":1'), "/lines/0/a~1b~0c", "there is no such field"),
        (
            ORDER.replace('"S"', '"S\\u0000"'),
            "/lines/0/sku",
            "expected printable ASCII characters, the first one not a space",
        ),
        (
            ORDER.replace('"S"', '"S\\n"'),
            "/lines/0/sku",
            "expected printable ASCII characters, the first one not a space",
        ),
        (
            ORDER.replace('"S"', '" S"'),
            "/lines/0/sku",
            "expected printable ASCII characters, the first one not a space",
        ),
        (ORDER.replace('"A"', '""'), "/order_id", "Expected `str` of length >= 1"),
        ("[]", "", "Expected `object`, got `array`"),
        (ORDER.replace("}]}", '}],"currency":"usd"}'), "/currency", "expected three capital letters (ISO 4217)"),
        (ORDER.replace("}]}", '}],"quote_id":""}'), "/quote_id", "Expected `str` of length >= 1"),
        (ORDER.replace("}]}", '}],"quote_option":"air"}'), "/quote_option", "an option goes with a quote_id"),
        (
            ORDER.replace("}]}", '}],"hold_reasons":["a\\u0007"]}'),
            "/hold_reasons/0",
            "expected text without control characters",
        ),
    ],
)
def test_complaints_point_at_the_field(body: str, pointer: str, detail: str) -> None:
    try:
        order = msgspec.json.decode(body, type=Order)
    except msgspec.ValidationError as error:
        found = fault_of(error)
    else:
        refused = order_request(order, max_lines=10, needs_destination=False)
        assert isinstance(refused, Problem)
        found = (refused.errors[0].pointer, refused.errors[0].detail)
    assert found[0] == pointer
    assert not detail or found[1] == detail


@pytest.mark.parametrize(
    "text", ["a", "A-1", "~", "a b ", "!", " ", " a", "a\n", "\na", "a\0", "\x7f", "é", "\u2028", "a\tb"]
)
@pytest.mark.parametrize("field", ["order_id", "channel", "service", "customer_id", "line_id", "sku", "group"])
def test_ids_checked_by_hand_are_those_that_the_type_would_take(text: str, field: str) -> None:
    """`PlainId` and `Id` are one rule."""
    line = {"line_id": "1", "sku": "S", "quantity": 1}
    fields = {"order_id": "A", "channel": "web", "lines": [line]}
    (line if field in ("line_id", "sku", "group") else fields)[field] = text
    made = order_request(msgspec.convert(fields, Order), max_lines=10, needs_destination=False)
    try:
        msgspec.convert(text, Id)
    except msgspec.ValidationError:
        assert isinstance(made, Problem)
        assert made.errors[0].pointer.endswith(f"/{field}")
    else:
        assert not isinstance(made, Problem)


def test_a_key_of_a_map_is_pointed_at_as_far_as_known() -> None:
    class Holder(msgspec.Struct):
        counts: dict[str, int]

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode('{"counts": {"a": "x"}}', type=Holder)
    assert fault_of(caught.value) == ("/counts", "Expected `int`, got `str`")


def test_batches_are_strict_too() -> None:
    with pytest.raises(msgspec.ValidationError, match="idempotency_key"):
        msgspec.json.decode(f'{{"orders":[{ORDER}]}}', type=Batch)


def test_every_code_has_a_page() -> None:
    assert list(PAGES) == [code for code in CODES if code in PAGES]
    assert set(PAGES) == set(CODES)
    for page in PAGES.values():
        assert page.cause.endswith(".")
        assert page.cure.endswith(".")


def test_latencies_are_counted_in_cumulative_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.003, 9.0):
        metrics.done("GET /x", 200, seconds)
    families = {family.name: family for family in metrics.collect()}
    samples = {
        s.labels.get("le"): s.value
        for s in families["quartermaster_gateway_request_seconds"].samples
        if "le" in s.labels
    }
    assert (samples["0.0005"], samples["0.005"], samples["2.0"], samples["+Inf"]) == (1, 2, 2, 3)


@pytest.mark.parametrize(
    ("limits", "room", "raised_to"),
    [
        ((20_000, 20_000), 1_000, None),
        ((1_024, 4_096), 1_000, 1_000 + FILES_RESERVED),
        ((1_024, 1_024), 1_024 - FILES_RESERVED, 1_024),
        ((100, 100), 1, 100),
        ((1_024, resource.RLIM_INFINITY), 1_000, 1_000 + FILES_RESERVED),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 1_000, None),
    ],
)
def test_connections_have_room_among_the_open_files(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], room: int, raised_to: int | None
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, given: made.append(given))
    assert room_for_connections(1_000) == room
    assert made == ([] if raised_to is None else [(raised_to, limits[1])])


def test_null_in_a_query_is_a_text_like_any_other() -> None:
    """?sku=null asks for a SKU of that name; it must not ask for all."""

    class Asked:
        query = b"sku=null&limit=7"

    found = query_of(Asked(), DemandQuery)  # type: ignore[arg-type]
    assert (found.sku, found.limit, found.channel) == ("null", 7, None)
    Asked.query = b"state=null"
    with pytest.raises(Refused) as refusal:
        query_of(Asked(), DemandQuery)  # type: ignore[arg-type]
    assert refusal.value.problem.errors[0].pointer == "/state"


def test_a_word_that_is_none_of_those_allowed_is_answered_with_them() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(ORDER.replace('"quantity":1', '"quantity":1,"method":"pick_up"'), type=Order)
    (fault,) = decode_problem(caught.value, Order).errors
    assert fault.pointer == "/lines/0/method"
    assert fault.detail == "expected one of digital, pickup, ship, ship_to_store; invalid enum value 'pick_up'"

    class Asked:
        query = b"node_id=N-0&state=lost"

    with pytest.raises(Refused) as refused:
        query_of(Asked(), LegsQuery)  # type: ignore[arg-type]
    assert "released" in refused.value.problem.errors[0].detail


def test_a_work_list_ends_where_the_shard_that_looked_least_far_stopped() -> None:
    def found(cursor: str, *order_nos: int) -> LegList:
        leg = LegView(1, "N-0", "released", ())
        return LegList(tuple([WorkLeg("US100", no, f"A-{no}", leg, "web", None) for no in order_nos]), cursor)

    def page(*lists: LegList, limit: int = 3) -> tuple[list[int], tuple[int, int] | None]:
        rows, last = merged(lists, limit)
        return [row.order_no for row in rows], last

    assert page(found("50-1")) == ([], (50, 1))
    assert page(found("50-1"), found("", 40, 60)) == ([40], (50, 1))
    assert page(found("", 50), found("60-1", 30, 40, 60)) == ([30, 40, 50], (50, 1))
    assert page(found("", 50), found("", 40)) == ([40, 50], None)
