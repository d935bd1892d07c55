"""The Python client without a network: keys, errors, budgets, waits, slices; and that its models are those of the API."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import quartermaster_client as qm
from gateway.idempotency import time_of
from gateway.orders import routes
from quartermaster_client import (
    bodies,
    models,
    models_config,
    models_inbound,
    models_lists,
    models_quotes,
    models_stock,
)
from quartermaster_client.base import Request
from quartermaster_client.batching import Batch
from quartermaster_client.calling import retry_after_s
from quartermaster_client.errors import error_of

ROOT = Path(__file__).parents[2]
OPENAPI = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text())
SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]
NAMES = {
    "HeldOrder": "Reservation",
    "LegAnswer": "LegStep",
    "JobShown": "Job",
    "MoneyShown": "Money",
    "CandidateShown": "Candidate",
    "Reservation": "ReserveBody",
    "QuoteRequest": "QuoteBody",
    "Commit": "CommitBody",
    "Extend": "ExtendBody",
    "Cancel": "CancelBody",
    "Step": "StepBody",
    "Reject": "RejectBody",
    "Ship": "ShipBody",
    "Adjustment": "AdjustmentBody",
    "Count": "CountBody",
    "Positions": "PositionsBody",
    "DocumentPage": "Page",
    "AllocationsPage": "ListPage",
    "DecisionsPage": "ListPage",
    "DemandPage": "ListPage",
    "ExceptionsPage": "ListPage",
    "LegHistoryPage": "ListPage",
    "MovementsPage": "ListPage",
    "ShortPage": "ListPage",
    "LogPage": "DemandLog",
    "Prioritise": "PrioritiseBody",
}
"""Schemas of the API whose model has another name here: the caller's word, or a body that a method puts together."""
ELSEWHERE = {"Batch", "Live", "ProblemError", "ProblemPage", "ProblemShown"}
"""Not modelled: what errors.py reads by hand, bodies put together as bytes, and pages for people."""


def _model(schema: str) -> Any:
    """The client's model of a schema; None where it has none (yet)."""
    name = NAMES.get(schema, schema)
    for module in (models, models_quotes, models_stock, models_config, models_lists, bodies):
        if hasattr(module, name):
            return getattr(module, name)
    return None


@pytest.mark.parametrize("schema", sorted(name for name in set(SCHEMAS) - ELSEWHERE if _model(name) is not None))
def test_models_have_the_fields_and_defaults_of_the_api(schema: str) -> None:
    """What can be asked for must be all there. Of answers, fields that came since may be missing: they are ignored."""
    described = SCHEMAS[schema]
    model = _model(schema)
    fields = {field.name: field for field in msgspec.structs.fields(model)}
    given = set(described["properties"])
    if issubclass(model, Request):
        always_in_moves = {"sku", "kind", "quantity", "reason", "expected_on_hand"} if schema == "Adjustment" else set()
        assert given - always_in_moves == set(fields), f"add the new fields to {model.__module__}"
    for name, field in fields.items():
        if field.required:
            assert name in described["required"] or schema in ("Adjustment", "QuoteRequest"), name
        elif name in given and described["properties"][name].get("default") is not None:
            here = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert json.loads(msgspec.json.encode(here)) == described["properties"][name]["default"], name


def test_the_client_has_what_a_storefront_needs_and_asks_for_nothing_else() -> None:
    source = ROOT / "clients/python/src/quartermaster_client/_async"
    text = "\n".join(path.read_text() for path in source.glob("*.py"))
    served = {f"{verb.upper()} {path}" for path, verbs in OPENAPI["paths"].items() for verb in verbs}
    asked = set(re.findall(r'name="((?:GET|POST|PUT|DELETE) /[^"]*)"', text))
    asked |= {f"POST /v1/legs/{{leg_id}}/{verb}" for verb in re.findall(r'_step\(leg_id, "(\w+)"', text)}
    assert asked <= served
    needed = {
        "POST /v1/reservations",
        "POST /v1/reservations/{reservation_id}/commit",
        "POST /v1/reservations/{reservation_id}/extend",
        "DELETE /v1/reservations/{reservation_id}",
        "POST /v1/allocations",
        "POST /v1/allocations/batch",
        "POST /v1/allocations/{allocation_id}/cancel",
        "GET /v1/allocations/{allocation_id}",
        "POST /v1/quotes",
        "GET /v1/availability",
        "GET /v1/decisions/{decision_id}",
    }
    assert needed <= asked


def test_the_readme_lists_every_route_and_every_method() -> None:
    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| (.*?) \|", (ROOT / "clients/python/README.md").read_text(), re.M)
    served = [f"{verb.upper()} {path}" for path, verbs in OPENAPI["paths"].items() for verb in verbs]
    assert sorted(route for route, _ in rows) == sorted(served)
    named = {name for _, names in rows for name in re.findall(r"`(\w+)`", names)}
    methods = {name for name in dir(qm.Client) if not name.startswith("_")}
    assert named == methods - {"close", "send"}


def test_the_synchronous_client_is_what_the_tool_makes_of_the_asynchronous_one() -> None:
    tool = ROOT / "clients" / "python" / "tools" / "unasync.py"
    run = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"run clients/python/tools/unasync.py\n{run.stderr}"


def test_the_client_needs_little_and_nothing_that_the_locks_do_not_pin() -> None:
    needs = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["dependencies"]
    engine = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(needs) == 2
    assert set(needs) <= set(engine), "the development environment installs the client without looking for packages"


def test_keys_are_uuid7_of_now_and_differ() -> None:
    before_ms = time.time_ns() // 1_000_000
    keys = [qm.new_key() for _ in range(1_000)]
    assert len(set(keys)) == 1_000
    made_ms = time_of(keys[0].encode())
    assert made_ms is not None
    assert before_ms <= made_ms <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("key", ["bestellung-\u00fc", "two\nlines", "k" * 256])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(key: str) -> None:
    with qm.Client("http://127.0.0.1:1", "qm_x") as client, pytest.raises(ValueError, match="idempotency_key"):
        client.release("res_x", idempotency_key=key)


def test_every_model_that_a_method_takes_or_returns_can_be_named() -> None:
    """A shop annotates its functions with them; what only puts a body together, or unpacks one, stays inside."""
    inside = {"DatedAvailability", "InboundStated"}
    for module in (models, models_config, models_inbound, models_lists, models_quotes, models_stock):
        names = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        lost = {name for name in names - inside - set(qm.__all__) if not name.endswith("Body")}
        assert not lost, module.__name__


@pytest.mark.parametrize("kind", [qm.Allocation, qm.Reservation])
def test_live_legs_are_those_that_have_units(kind: type[qm.Allocation] | type[qm.Reservation]) -> None:
    schema = "Allocation" if kind is qm.Allocation else "HeldOrder"
    example = next(
        answer["content"]["application/json"]["example"]
        for methods in OPENAPI["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if status in ("200", "201")
        and answer.get("content", {})
        .get("application/json", {})
        .get("schema", {})
        .get("$ref", "")
        .endswith(f"/{schema}")
    )
    leg = example["legs"][0]
    states = ["cancelled", "allocated", "rejected", "shipped"]
    legs = [{**leg, "leg_id": f"leg_{state}", "state": state} for state in states]
    order = msgspec.convert({**example, "legs": legs}, kind)
    assert [shown.leg_id for shown in order.live_legs] == ["leg_allocated", "leg_shipped"]
    assert len(order.legs) == 4


def test_a_shortage_is_an_error_with_its_numbers() -> None:
    found = error_of(
        {
            "code": "out_of_stock",
            "detail": "Not enough units",
            "request_id": "r-1",
            "errors": [
                {"pointer": "/lines/0", "detail": "short", "sku": "S", "requested": 2, "available_to_promise": 1},
                {"pointer": "/lines/1", "detail": "short", "sku": "T", "requested": 2, "units_elsewhere": 9},
            ],
        },
        status=409,
    )
    assert isinstance(found, qm.OutOfStock)
    assert found.shortages == [
        qm.Shortage("/lines/0", "S", 2, 1),
        qm.Shortage("/lines/1", "T", 2, 0, units_elsewhere=9),
    ]
    of_a_kit = error_of(
        {"code": "out_of_stock", "errors": [{"pointer": "/lines/0", "line_id": "1", "sku": "A", "kit": "GIFT"}]},
        status=409,
    )
    assert isinstance(of_a_kit, qm.OutOfStock)
    assert [(short.line_id, short.kit) for short in of_a_kit.shortages] == [("1", "GIFT")]
    assert "requested=2" in str(found)
    assert "r-1" in str(found)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthenticated", qm.Unauthenticated),
        (403, "forbidden", qm.Forbidden),
        (404, "not_found", qm.NotFound),
        (409, "wrong_state", qm.Conflict),
        (412, "version_mismatch", qm.VersionMismatch),
        (422, "key_reused", qm.KeyReused),
        (422, "a_code_of_next_year", qm.InvalidRequest),
        (429, "rate_limited", qm.RateLimited),
        (500, "internal", qm.ServerFault),
        (503, "journal_full", qm.Unavailable),
    ],
)
def test_each_status_has_its_error(status: int, code: str, kind: type[Exception]) -> None:
    assert type(error_of({"code": code}, status=status)) is kind


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert retry_after_s("3") == 3.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_waits_are_anywhere_up_to_the_exponential_bound_and_never_shorter_than_asked() -> None:
    policy, rng = qm.RetryPolicy(base_s=0.1, cap_s=1.0), random.Random(1)
    waits = [policy.wait_s(3, None, rng=rng) for _ in range(500)]
    assert 0.0 <= min(waits) < 0.05
    assert 0.35 < max(waits) <= 0.4
    assert max(policy.wait_s(12, None, rng=rng) for _ in range(200)) <= 1.0
    assert min(policy.wait_s(1, 2.0, rng=rng) for _ in range(200)) >= 2.0


def test_a_budget_lets_through_its_capacity_and_then_a_share_of_the_calls() -> None:
    budget = qm.RetryBudget(capacity=5, ratio=0.1)
    assert [budget.take() for _ in range(7)] == [True] * 5 + [False] * 2
    taken = 0
    for _ in range(1_000):
        budget.call()
        taken += budget.take()
    assert 98 <= taken <= 100


def test_a_budget_is_exact_under_threads() -> None:
    budget = qm.RetryBudget(capacity=500, ratio=0.0)
    taken: list[bool] = []

    def work() -> None:
        taken.extend([budget.take() for _ in range(200)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500


def an_order(number: int, lines: int = 1) -> qm.Order:
    return qm.Order(
        order_id=f"A-{number}",
        channel="web",
        ship_to=qm.ShipTo(country="US", postal_code="10001"),
        lines=[qm.OrderLine(line_id=str(n), sku="SKU-1", quantity=1) for n in range(lines)],
    )


def test_batches_are_cut_by_orders_and_by_lines_and_lose_none() -> None:
    batch = Batch([an_order(n) for n in range(2_345)], None)
    parts = list(batch.slices(batch.pending()))
    assert [len(places) for places, _ in parts] == [1_000, 1_000, 345]
    sent = [order for _, body in parts for order in msgspec.json.decode(body)["orders"]]
    assert [order["order_id"] for order in sent] == [f"A-{n}" for n in range(2_345)]
    assert len({order["idempotency_key"] for order in sent}) == 2_345

    long = Batch([an_order(n, lines=900) for n in range(50)], None)
    assert [len(places) for places, _ in long.slices(long.pending())] == [22, 22, 6]


def test_batches_stay_within_the_values_that_a_gateway_takes() -> None:
    [limit] = [route.values_max for route in routes.ROUTES if route.path == "/v1/allocations/batch"]
    orders = [an_order(n, lines=20) for n in range(1_000)]
    for order in orders:
        for line in order.lines:
            line.tags = tuple("abcdefghijklmnop")
    batch = Batch(orders, None)
    parts = list(batch.slices(batch.pending()))
    assert [place for places, _ in parts for place in places] == list(range(1_000))
    assert len(parts) == 2
    assert all(body.count(b",") <= limit for _, body in parts)


def test_what_was_told_later_is_sent_again_alone_with_its_key() -> None:
    batch = Batch([an_order(n) for n in range(3)], ["k0", "k1", "k2"])
    refused = bodies.BatchItem(status=409, problem={"code": "out_of_stock"})
    later = bodies.BatchItem(status=503, problem={"code": "overloaded", "retry_after_ms": 250})
    batch.settle([0, 1, 2], [refused, later, refused])
    assert batch.pending() == [1]
    assert batch.take_retry_after_s() == 0.25
    [(places, body)] = list(batch.slices(batch.pending()))
    assert places == [1]
    assert msgspec.json.decode(body)["orders"][0]["idempotency_key"] == "k1"
    results = batch.results()
    assert isinstance(results[1].error, qm.Unavailable)
    assert isinstance(results[0].error, qm.OutOfStock)
    with pytest.raises(qm.OutOfStock):
        results[0].unwrap()


def _answers(*responses: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport for what no real gateway can be made to say on demand."""
    seen: list[httpx.Request] = []
    left = iter(responses)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), seen


def _client(transport: httpx.MockTransport, **options: Any) -> qm.Client:
    options.setdefault("retry", qm.RetryPolicy(attempts=4, base_s=0.001, cap_s=0.002))
    return qm.Client("http://gateway", "qm_key", http=httpx.Client(transport=transport), **options)


VERSION = {"version": "0.1.0", "api": "v1", "python": "3.11.2"}


def test_a_proxys_page_is_no_answer_and_says_where_it_came_from() -> None:
    transport, _ = _answers(httpx.Response(404, text="<html>nginx</html>"))
    with _client(transport) as client, pytest.raises(qm.InvalidAnswer, match=r"http://gateway.*nginx"):
        client.version()
    transport, _ = _answers(httpx.Response(200, text="<html>log in</html>"))
    with _client(transport) as client, pytest.raises(qm.InvalidAnswer):
        client.version()


def test_a_proxy_that_lost_the_engine_is_asked_again() -> None:
    transport, seen = _answers(httpx.Response(502, text="bad gateway"), httpx.Response(200, json=VERSION))
    with _client(transport) as client:
        assert client.version().api == "v1"
    assert len(seen) == 2


def test_a_refusal_is_an_answer_and_is_not_repeated() -> None:
    transport, seen = _answers(httpx.Response(409, json={"code": "out_of_stock", "detail": "none"}))
    with _client(transport) as client, pytest.raises(qm.OutOfStock):
        client.allocate(an_order(1))
    assert len(seen) == 1


def test_without_a_connection_nothing_was_sent_and_the_error_says_so() -> None:
    transport, seen = _answers(*[httpx.ConnectError("refused")] * 4)
    with _client(transport) as client, pytest.raises(qm.Unreachable, match="nothing was sent"):
        client.allocate(an_order(1))
    assert len(seen) == 4


def test_a_broken_connection_ends_as_unknown_with_the_key_that_finds_out() -> None:
    transport, seen = _answers(*[httpx.ReadError("cut")] * 4)
    with _client(transport) as client, pytest.raises(qm.UnknownOutcome) as caught:
        client.allocate(an_order(1))
    keys = {request.headers["idempotency-key"] for request in seen}
    assert keys == {caught.value.idempotency_key}
    assert len({request.headers["x-request-id"] for request in seen}) == 4


@pytest.mark.parametrize(
    ("status", "code"), [(503, "overloaded"), (503, "journal_full"), (429, "rate_limited"), (401, "x")]
)
def test_an_earlier_attempt_may_have_been_done_whatever_keeps_the_next_one_out(status: int, code: str) -> None:
    refused = httpx.Response(status, json={"code": code})
    transport, _ = _answers(httpx.ReadError("cut"), refused)
    twice = qm.RetryPolicy(attempts=2, base_s=0.001)
    with _client(transport, retry=twice) as client, pytest.raises(qm.ApiError) as caught:
        client.allocate(an_order(1))
    assert caught.value.outcome_unknown

    transport, _ = _answers(refused)
    with _client(transport, retry=qm.NO_RETRIES) as client, pytest.raises(qm.ApiError) as caught:
        client.allocate(an_order(1))
    assert not caught.value.outcome_unknown


def test_a_refusal_by_the_shard_says_that_no_earlier_attempt_was_done() -> None:
    transport, _ = _answers(httpx.ReadError("cut"), httpx.Response(409, json={"code": "out_of_stock"}))
    with _client(transport) as client, pytest.raises(qm.OutOfStock) as caught:
        client.allocate(an_order(1))
    assert not caught.value.outcome_unknown


def test_an_order_of_a_batch_may_have_been_placed_whatever_comes_later() -> None:
    def items(code: str) -> httpx.Response:
        return httpx.Response(200, json={"results": [{"status": 503, "problem": {"code": code}}]})

    overloaded = httpx.Response(503, json={"code": "overloaded"})
    for first, second in (
        (httpx.ReadError("cut"), items("overloaded")),  # within the slice's own call
        (items("unavailable"), items("overloaded")),  # between the rounds
        (items("unavailable"), overloaded),
        (items("unavailable"), httpx.ConnectError("refused")),
    ):
        transport, _ = _answers(first, second, *[overloaded] * 4)
        with _client(transport, retry=qm.RetryPolicy(attempts=2, base_s=0.001)) as client:
            [result] = client.allocate_batch([an_order(1)])
        error = result.error
        assert isinstance(error, qm.UnknownOutcome) or (isinstance(error, qm.ApiError) and error.outcome_unknown)


def test_no_retry_goes_past_the_deadline() -> None:
    transport, seen = _answers(httpx.Response(503, json={"code": "journal_full"}, headers={"retry-after": "60"}))
    with _client(transport, retry=qm.RetryPolicy(deadline_s=5)) as client, pytest.raises(qm.Unavailable) as caught:
        client.version()
    assert caught.value.retry_after_s == 60
    assert len(seen) == 1


def test_an_empty_budget_ends_the_retries_of_all_calls() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(503, json={"code": "overloaded"})

    seen: list[httpx.Request] = []
    budget = qm.RetryBudget(capacity=3, ratio=0.1)
    with _client(httpx.MockTransport(handle), budget=budget) as client:
        for _ in range(20):
            with pytest.raises(qm.Unavailable):
                client.version()
    assert len(seen) <= 20 + 3 + 20 * 0.1 + 1


def test_the_observer_sees_every_attempt() -> None:
    attempts: list[qm.Attempt] = []
    transport, _ = _answers(httpx.Response(429, json={"code": "rate_limited"}), httpx.Response(200, json=VERSION))
    with _client(transport, observer=attempts.append) as client:
        client.version()
    assert [(a.operation, a.number, a.status, a.code) for a in attempts] == [
        ("GET /version", 1, 429, "rate_limited"),
        ("GET /version", 2, 200, ""),
    ]
    assert attempts[0].wait_s is not None
    assert attempts[1].wait_s is None


def test_a_post_that_carries_no_key_is_never_sent_twice() -> None:
    transport, seen = _answers(httpx.ReadError("cut"))
    operation: qm.Operation[int] = qm.Operation(name="POST /v1/new", path="/v1/new", read=lambda reply: reply.status)
    with _client(transport) as client, pytest.raises(qm.UnknownOutcome):
        client.send(operation)
    assert len(seen) == 1
