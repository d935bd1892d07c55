"""The importer against a gateway that says what a test wants: counts, lines of the file, exit codes, repeats."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.formats.own import DocumentRow, OrderRow
from engine.cli.formats.table import BadRow
from engine.cli.imports import app
from engine.cli.uploads import RETRIES, Uploader, UploadError


class FakeGateway:
    """Takes imports and batches; refuses the SKUs, nodes and orders it is told to, and says "later" a few times first."""

    def __init__(self) -> None:
        self.refuse: set[str] = set()
        self.later = 0
        self.orders_later: dict[str, int] = {}
        self.key = "qm_k_s"
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"code": "unauthenticated", "detail": "The API key is unknown"}
        if self.later:
            self.later -= 1
            return 503, {"code": "overloaded", "detail": "later"}
        if path.partition("?")[0].endswith("/import"):
            rows = [json.loads(line) for line in body.splitlines()]
            self.seen.append((method, path, headers, rows))
            errors = [
                {"line": n, "pointer": "/sku", "detail": "no such item"}
                for n, row in enumerate(rows, 1)
                if self.refuse & {row.get("sku"), row.get("node_id")}
            ]
            job_id = f"job_{len(self.jobs)}"
            self.jobs[job_id] = {
                "job_id": job_id,
                "state": "running",
                "rows_done": len(rows),
                "rows_failed": len(errors),
                "errors": errors,
                "problem": None,
            }
            return 202, self.jobs[job_id]
        if path.startswith("/v1/jobs/"):
            job = self.jobs[path.rsplit("/", 1)[1]]
            answer, job["state"] = dict(job), "done"
            return 200, answer
        value = json.loads(body)
        self.seen.append((method, path, headers, value))
        if path == "/v1/allocations/batch":
            return 200, {"results": [self._allocate(order) for order in value["orders"]]}
        return 200, {}

    def _allocate(self, order: dict[str, Any]) -> dict[str, Any]:
        if self.orders_later.get(order["order_id"]):
            self.orders_later[order["order_id"]] -= 1
            return {"status": 503, "problem": {"code": "unavailable", "detail": "later"}}
        if order["order_id"] not in self.refuse:
            return {"status": 201, "body": {"order_id": order["order_id"]}}
        error = {"pointer": "/lines/0", "detail": "not enough units"}
        return {"status": 409, "problem": {"code": "out_of_stock", "detail": "short", "errors": [error]}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, value = gateway.answer(self.command, self.path, headers, body)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                return

        return Handler


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    yield fake
    fake.close()


@pytest.fixture
def up(gateway: FakeGateway) -> Iterator[Uploader]:
    uploader = Uploader(gateway.url, gateway.key)
    yield uploader
    uploader.close()


def _documents(count: int) -> list[DocumentRow | BadRow]:
    return [DocumentRow(n + 2, f"S{n}", {"sku": f"S{n}"}) for n in range(count)]


def test_documents_go_in_parts_and_refusals_carry_the_line_of_the_file(
    gateway: FakeGateway, up: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.uploads.PART_ROWS", 4)
    gateway.refuse = {"S5"}
    rows = [*_documents(6), BadRow(99, "not a row")]
    outcome = up.documents("/v1/items/import", rows)
    assert (outcome.taken, outcome.refused) == (5, 2)
    assert outcome.codes == {"refused": 1, "unreadable": 1}
    assert {(error.line, error.detail) for error in outcome.errors} == {(99, "not a row"), (7, "sku: no such item")}
    assert [[row["sku"] for row in rows] for _, _, _, rows in gateway.seen] == [["S0", "S1", "S2", "S3"], ["S4", "S5"]]


def test_the_same_key_is_used_again_when_the_gateway_says_later(gateway: FakeGateway, up: Uploader) -> None:
    gateway.later = 2
    assert up.documents("/v1/items/import", _documents(1)).taken == 1


def test_orders_carry_keys_that_follow_from_their_ids(gateway: FakeGateway, up: Uploader) -> None:
    gateway.refuse = {"B"}
    outcome = up.orders(_orders("ABC"))
    assert (outcome.taken, outcome.refused, outcome.codes) == (2, 1, {"out_of_stock": 1})
    assert outcome.errors[0].line == 3
    assert "/lines/0 not enough units" in outcome.errors[0].detail
    assert [order["idempotency_key"] for order in gateway.seen[0][3]["orders"]] == ["import-A", "import-B", "import-C"]


def _orders(names: str) -> list[OrderRow]:
    line = [{"line_id": "1", "sku": "S", "quantity": 1}]
    return [OrderRow(n, name, {"order_id": name, "lines": line}) for n, name in enumerate(names, 2)]


def test_orders_of_a_batch_that_are_told_later_go_again_under_their_keys(
    gateway: FakeGateway, up: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.uploads.WAIT_S", 0.001)
    gateway.refuse, gateway.orders_later = {"C"}, {"B": 2, "D": 1}
    outcome = up.orders(_orders("ABCD"))
    assert (outcome.taken, outcome.refused, outcome.codes) == (3, 1, {"out_of_stock": 1})
    sent = [[order["idempotency_key"] for order in body["orders"]] for _, _, _, body in gateway.seen]
    assert sent == [["import-A", "import-B", "import-C", "import-D"], ["import-B", "import-D"], ["import-B"]]


def test_an_order_that_is_told_later_for_ever_is_refused_in_the_end(
    gateway: FakeGateway, up: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.uploads.WAIT_S", 0.001)
    gateway.orders_later = {"A": 1_000}
    outcome = up.orders(_orders("AB"))
    assert (outcome.taken, outcome.refused, outcome.codes) == (1, 1, {"unavailable": 1})
    assert len(gateway.seen) == RETRIES


def test_an_unknown_key_and_a_gateway_that_is_away_stop_the_import(
    gateway: FakeGateway, up: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.key = "another"
    with pytest.raises(UploadError, match="401 unauthenticated"):
        up.documents("/v1/items/import", _documents(1))
    monkeypatch.setattr("engine.cli.uploads.RETRIES", 2)
    nowhere = Uploader("http://127.0.0.1:9", "k")
    with pytest.raises(UploadError, match="no answer from"):
        nowhere.documents("/v1/items/import", _documents(1))
    nowhere.close()


# -- the command --------------------------------------------------------------------------------------------------


def _run(gateway: FakeGateway, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments, "--url", gateway.url, "--key", gateway.key])
    return result.exit_code, result.output


def test_stock_with_safety_units(gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "stock.csv"
    path.write_text("node_id,sku,quantity,safety\nN1,A,5,1\nN1,B,6,\nN2,A,7,2\n")
    code, output = _run(gateway, "stock", str(path))
    assert code == 0, output
    assert "3 positions taken, 0 rows refused" in output
    kept = {"supply": None, "trust_bp": None, "daily_cap_units": None}
    assert [(path, body) for _, path, _, body in gateway.seen[1:]] == [
        ("/v1/inventory/positions", {"node_id": "N1", "positions": [{"sku": "A", "safety_units": 1, **kept}]}),
        ("/v1/inventory/positions", {"node_id": "N2", "positions": [{"sku": "A", "safety_units": 2, **kept}]}),
    ]


@pytest.mark.parametrize("feed", [("--source", "wms"), ("--source", "wms", "--source-seq", "7"), ("--scope", "full")])
def test_rows_of_a_node_of_a_count_are_sent_together(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: tuple[str, ...]
) -> None:
    """A gateway takes a count of a source once a node, and a whole count is everything that the node has."""
    monkeypatch.setattr("engine.cli.uploads.PART_ROWS", 2)
    path = tmp_path / "stock.csv"
    path.write_text("node_id,sku,quantity\nN2,A,5\nN1,A,1\nN2,B,6\nN1,B,2\nN2,C,7\n")
    code, output = _run(gateway, "stock", str(path), *feed)
    assert code == 0, output
    assert "5 positions taken, 0 rows refused" in output
    jobs = [[(row["node_id"], row["sku"]) for row in rows] for _, _, _, rows in gateway.seen]
    assert jobs == [[("N1", "A"), ("N1", "B")], [("N2", "A"), ("N2", "B"), ("N2", "C")]]


def test_rows_of_one_instant_are_one_job_and_older_ones_go_first(gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "stock.csv"
    early, late = "2026-11-01T10:00:00Z", "2026-11-01T11:00:00Z"
    path.write_text(
        f"node_id,sku,quantity,as_of\nN1,A,1,\nN1,B,2,{late}\nN2,A,3,{early}\nN2,B,4,{late}\nN1,C,5,{early}\n"
    )
    code, output = _run(gateway, "stock", str(path))
    assert code == 0, output
    assert [[row["quantity"] for row in rows] for _, _, _, rows in gateway.seen] == [[3, 5], [2, 4], [1]]


@pytest.mark.parametrize("scope", ["full", "nonzero"])
def test_a_whole_count_of_several_instants_takes_nothing_of_that_node(
    gateway: FakeGateway, tmp_path: Path, scope: str
) -> None:
    path = tmp_path / "stock.csv"
    instant = "2026-11-01T10:00:00"
    path.write_text(
        f"node_id,sku,quantity,as_of\nN1,A,7,{instant}Z\nN1,B,8,\nN2,A,9,{instant}Z\nN2,B,9,{instant}+00:00\n"
    )
    code, output = _run(gateway, "stock", str(path), "--scope", scope)
    assert code == 1
    assert "2 positions taken, 2 rows refused" in output
    assert "line 2: rows of N1 are of several instants" in output
    assert [[row["node_id"] for row in rows] for _, _, _, rows in gateway.seen] == [["N2", "N2"]]


def test_exit_codes(gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("sku\nA\nB\n")
    gateway.refuse = {"B"}
    code, output = _run(gateway, "items", str(path))
    assert (code, "line 3: sku: no such item" in output) == (1, True)
    assert _run(gateway, "items", str(path), "--allow-errors")[0] == 0
    path.write_text("name\nA\n")
    assert _run(gateway, "items", str(path))[0] == 2
    path.write_text("sku\nA\n")
    gateway.key = "right"
    result = CliRunner().invoke(app, ["items", str(path), "--url", gateway.url, "--key", "wrong"])
    assert result.exit_code == 3


def test_invoices_as_orders_go_to_the_same_place_for_a_customer(gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "invoices.csv"
    path.write_text(
        "InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "1,85048,2,2009-12-01 07:45:00,6.95,13085,United Kingdom\n"
        "2,85048,1,2009-12-02 07:45:00,6.95,13085,United Kingdom\n"
        "C3,85048,-1,2009-12-03 07:45:00,6.95,13085,United Kingdom\n"
    )
    code, output = _run(gateway, "orders", str(path))
    assert code == 0, output
    assert "left out: 1 rows of returns" in output
    first, second = gateway.seen[0][3]["orders"]
    assert first["ship_to"] == second["ship_to"]
    assert first["lines"] == [{"line_id": "1", "sku": "85048", "quantity": 2, "unit_price_minor": 695}]
    assert _run(gateway, "items", str(path))[0] == 0
    assert gateway.seen[-1][3] == [{"sku": "85048", "unit_value_minor": 695}]


def test_store_locations_as_nodes(gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "stores.csv"
    path.write_text("storenum,STRCITY,STRSTATE,ZIPCODE,type_store,LAT,LON\n7,Rogers,AR,72756,,36.3,-94.1\n")
    code, output = _run(gateway, "nodes", str(path))
    assert code == 0, output
    node = gateway.seen[0][3][0]
    assert (node["node_id"], node["time_zone"]) == ("ST-7", "America/Chicago")
