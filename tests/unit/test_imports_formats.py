"""Files that people send: good rows come out typed with their line, bad ones are reported, only no table at all is an error."""

from __future__ import annotations

import gzip
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.cli.formats.online_retail import Basket, BasketLine, Report, read_baskets
from engine.cli.formats.own import DocumentRow, OrderRow, StockRow, read_items, read_nodes, read_orders, read_stock
from engine.cli.formats.table import BadRow, FormatError, read_table, watch_share
from engine.cli.formats.us_network import read_population, read_stores


def _file(tmp_path: Path, text: str, *, encoding: str = "utf-8", packed: bool = False) -> Path:
    path = tmp_path / "file.csv"
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


# -- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "Köln"), ("utf-8-sig", "Köln"), ("cp1252", "Köln")])
def test_any_usual_encoding_is_read(tmp_path: Path, encoding: str, name: str, packed: bool) -> None:
    path = _file(tmp_path, f"sku,name\nA,{name}\n", encoding=encoding, packed=packed)
    assert list(read_table(path, required=["sku"])) == [(2, {"sku": "A", "name": name})]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_come_in_any_order_under_their_aliases(tmp_path: Path, separator: str) -> None:
    path = _file(tmp_path, separator.join(["Stock Code", "INVOICE_NO"]) + "\n" + separator.join(["S", "1"]) + "\n")
    rows = list(read_table(path, required=["invoice"], aliases={"invoice": ["InvoiceNo"], "sku": ["StockCode"]}))
    assert rows == [(2, {"sku": "S", "invoice": "1"})]


def test_a_row_of_another_width_is_bad_and_an_empty_one_is_nothing(tmp_path: Path) -> None:
    path = _file(tmp_path, 'sku,name\nA,a\n\nB\n"C\nC",c\nD,d\n')
    rows = list(read_table(path, required=["sku"]))
    assert rows == [
        (2, {"sku": "A", "name": "a"}),
        BadRow(4, "1 values, the header has 2 columns"),
        (6, {"sku": "C\nC", "name": "c"}),
        (7, {"sku": "D", "name": "d"}),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_who_waits_sees_what_share_of_the_file_has_been_read(tmp_path: Path, packed: bool) -> None:
    rng = random.Random(1)  # rows that hardly pack: gzip reads ahead by 128 KB
    path = _file(tmp_path, "sku\n" + "".join(f"{rng.getrandbits(256):x}\n" for _ in range(30_000)), packed=packed)
    with watch_share() as share:
        assert share.read() is None
        seen = [share.read() for _ in read_table(path, required=["sku"])]
        assert share.read() is None, "it is closed"
    shares = [one for one in seen if one is not None]
    assert len(shares) == len(seen) and shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1] == 1.0
    assert any(0.4 < one < 0.6 for one in shares)


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("a,b\n1,2\n", "no column sku.*its columns are a, b")])
def test_no_table_is_an_error_that_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        list(read_table(_file(tmp_path, text), required=["sku"]))


def test_a_missing_file_and_a_broken_gzip_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        list(read_table(tmp_path / "none.csv", required=["sku"]))
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"sku\n" + b"A\n" * 10_000)[:40])
    with pytest.raises(FormatError, match="cannot be read"):
        list(read_table(broken, required=["sku"]))


# -- our own files ------------------------------------------------------------------------------------------------


def test_items(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "sku,weight_g,tags,components,ship_alone\nA,120.0,hazmat;cold,,yes\nK,,,A:2;B:1,\nB,heavy,,,\nC,,,A,\n,1,,,\n",
    )
    rows = list(read_items(path))
    assert rows[0] == DocumentRow(2, "A", {"sku": "A", "weight_g": 120, "ship_alone": True, "tags": ["hazmat", "cold"]})
    assert rows[1] == DocumentRow(
        3, "K", {"sku": "K", "components": [{"sku": "A", "quantity": 2}, {"sku": "B", "quantity": 1}]}
    )
    bad = rows[2:]
    assert [row.line for row in bad] == [4, 5, 6]
    assert all(isinstance(row, BadRow) for row in bad)


def test_nodes_take_place_and_time_zone_from_the_zip_code(tmp_path: Path) -> None:
    path = _file(tmp_path, "node_id,zip,lat,lon\nN1,10001,,\nN2,02116,42.0,-71.0\nN3,XX,,\nN4,10001,95,0\n")
    rows = list(read_nodes(path))
    first, second = rows[0], rows[1]
    assert isinstance(first, DocumentRow)
    assert isinstance(second, DocumentRow)
    assert first.document["time_zone"] == "America/New_York"
    assert first.document["region"] == "NY"
    assert 40 < first.document["lat"] < 41
    assert (second.document["lat"], second.document["lon"]) == (42.0, -71.0)
    assert [row.line for row in rows[2:] if isinstance(row, BadRow)] == [4, 5]


def test_nodes_have_days_hours_and_lists(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "node_id,zip,pickup_opens,pickup_days,working_days,channels,waves,holidays,pickup_ready_minutes,acceptance_deadline_s\n"
        "S1,10001,08:30,0;5;6,0;1,web;app,09:00;14:00,2026-12-25,20,900\nS2,10001,,0;sunday,,,,,,\nS3,10001,,7,,,,,,\n",
    )
    first, *bad = read_nodes(path)
    assert isinstance(first, DocumentRow)
    said = {name: value for name, value in first.document.items() if name not in ("lat", "lon", "region", "time_zone")}
    assert said == {
        "node_id": "S1",
        "postal_code": "10001",
        "pickup_opens": "08:30",
        "pickup_days": [0, 5, 6],
        "working_days": [0, 1],
        "channels": ["web", "app"],
        "waves": ["09:00", "14:00"],
        "holidays": ["2026-12-25"],
        "pickup_ready_minutes": 20,
        "acceptance_deadline_s": 900,
    }
    assert [row for row in bad if isinstance(row, DocumentRow)] == []
    assert "pickup_days is 'sunday'" in bad[0].detail  # type: ignore[union-attr]


def test_stock(tmp_path: Path) -> None:
    path = _file(tmp_path, "node_id,sku,qty,safety\nN,A,5,\nN,B,0,2\nN,C,-1,\nN,D,9223372036854775808,\n,E,1,\n")
    rows = list(read_stock(path))
    assert rows[:2] == [StockRow(2, "N", "A", 5, None), StockRow(3, "N", "B", 0, 2)]
    assert [row.line for row in rows[2:] if isinstance(row, BadRow)] == [4, 5, 6]


def test_orders_are_grouped_and_a_bad_line_takes_its_order_out(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "order_id,sku,quantity,postal_code,service\n1,A,2,10001,express\n1,B,1,,\n2,A,0,10001,\n2,B,1,10001,\n3,C,7,,\n",
    )
    rows = list(read_orders(path))
    assert [type(row) for row in rows] == [OrderRow, BadRow, BadRow, OrderRow]
    first, last = rows[0], rows[-1]
    assert isinstance(first, OrderRow)
    assert isinstance(last, OrderRow)
    assert first.body == {
        "order_id": "1",
        "channel": "web",
        "service": "express",
        "ship_to": {"country": "US", "postal_code": "10001"},
        "lines": [
            {"line_id": "1", "sku": "A", "quantity": 2},
            {"line_id": "2", "sku": "B", "quantity": 1},
        ],
    }
    assert (last.line, last.order_id) == (6, "3")


# -- invoices -----------------------------------------------------------------------------------------------------

_INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,85048,x,12,2009-12-01 07:45:00,6.95,13085.0,United Kingdom
1,79323p ,x,2,2009-12-01 07:45:00,2.1,13085.0,United Kingdom
2,85048,x,1,12/1/2009 8:00,6.95,,United Kingdom
1,POST,x,1,2009-12-01 07:45:00,18,13085,United Kingdom
1,22041,x,48,2009-12-01 07:45:00,0,13085,United Kingdom
C3,85048,x,-12,2009-12-01 09:00:00,6.95,13085,United Kingdom
4,85048,x,-3,2009-12-01 09:00:00,6.95,13085,United Kingdom
5,85048,damaged,-3,2009-12-01 09:00:00,0,,United Kingdom
A6,B,Adjust bad debt,1,2009-12-01 09:00:00,-100,,United Kingdom
7,85048,x,many,2009-12-01 09:00:00,1,1,United Kingdom
8,85048,x,1,yesterday,1,1,United Kingdom
"""


def test_invoices_become_baskets_and_everything_else_is_counted(tmp_path: Path) -> None:
    report = Report()
    rows = list(read_baskets(_file(tmp_path, _INVOICES), report))
    baskets = [row for row in rows if isinstance(row, Basket)]
    placed_at = datetime(2009, 12, 1, 7, 45, tzinfo=UTC)
    assert baskets[0] == Basket(
        2,
        "1",
        placed_at,
        "13085",
        "United Kingdom",
        [BasketLine("85048", 12, 695), BasketLine("79323P", 2, 210), BasketLine("22041", 48, 0)],
    )
    assert (baskets[1].order_id, baskets[1].customer, baskets[1].placed_at.hour) == ("2", "", 8)
    assert len(baskets) == 2
    assert [row.line for row in rows if isinstance(row, BadRow)] == [11, 12]
    assert (report.rows, report.orders, report.lines, report.guest_orders) == (11, 2, 4, 1)
    assert report.counts == {"charges": 1, "returns": 2, "corrections": 2, "bad data": 2}
    assert report.lines + sum(report.counts.values()) == report.rows


def test_rows_of_one_invoice_may_lie_apart(tmp_path: Path) -> None:
    head = "invoice,sku,qty,ts,price,customer\n"
    between = "".join(f"{n},A,1,2009-12-01 07:45:00,1,9\n" for n in range(100, 400))
    text = f"{head}1,A,1,2009-12-01 07:45:00,1,9\n{between}1,X1,1,2009-12-01 07:45:00,1,9\n"
    report = Report()
    baskets = [row for row in read_baskets(_file(tmp_path, text), report) if isinstance(row, Basket)]
    assert [line.sku for line in baskets[0].lines] == ["A", "X1"]
    assert report.orders == len({basket.order_id for basket in baskets}) == 301


# -- the US -------------------------------------------------------------------------------------------------------


def test_stores(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "storenum,OPENDATE,STRCITY,STRSTATE,ZIPCODE,type_store,LAT,LON\n"
        "1,7/1/62,Rogers,AR,72756,Supercenter,36.34,-94.07\n2,x,Nowhere,AR,ABC,,36,-94\n3,x,Far,AR,72756,,96,-94\n",
    )
    rows = list(read_stores(path))
    store = rows[0]
    assert not isinstance(store, BadRow)
    assert (store.number, store.name, store.time_zone) == ("1", "Rogers Supercenter", "America/Chicago")
    assert [row.line for row in rows[1:]] == [3, 4]


def test_population_pads_codes_and_leaves_out_empty_areas(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "Zip Code ZCTA,2010 Census Population,Country\n1001,16769,US\n1002,0,US\nx,5,US\n",
        encoding="utf-8-sig",
    )
    rows = list(read_population(path))
    assert [tuple(row) for row in rows if not isinstance(row, BadRow)] == [(2, "01001", 16_769)]
    assert [row.line for row in rows if isinstance(row, BadRow)] == [4]
