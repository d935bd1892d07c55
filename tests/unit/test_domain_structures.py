"""The containers under the state: positions, capacity, key tables, records, ids, tokens, expiry."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest

from engine.domain.catalog import Catalog
from engine.domain.config import Placement
from engine.domain.ids import (
    OrderRef,
    decode_number,
    encode_number,
    make_order_no,
    order_no_time_ms,
    parse_public_id,
    public_id,
    slot_of,
)
from engine.domain.keys import KeyTable
from engine.domain.orders import (
    DemandRecord,
    Destination,
    LegRecord,
    LineRecord,
    OrderRecord,
    decode_record,
    encode_record,
)
from engine.domain.placement import shard_of_node, shard_of_slot
from engine.domain.positions import Capacity, Positions
from engine.protocol.expiry import ExpiryQueue
from engine.protocol.tokens import make_token, parse_token
from tests.builders import NOW_MS, a_carrier, a_catalog, a_network, a_node, a_service, an_item, as_docs

# -- positions ----------------------------------------------------------------------------------------------------


def test_positions_are_found_before_and_after_a_merge() -> None:
    rng = random.Random(3)
    positions = Positions(item_capacity=4, position_capacity=8)
    model: dict[tuple[int, int], int] = {}
    for n in range(3_000):
        item, node = rng.randrange(300), rng.randrange(40)
        row = positions.ensure(item, node)
        positions.v_on_hand[row] += n
        model[(item, node)] = model.get((item, node), 0) + n
        if n % 700 == 0:
            positions.merge()
    assert positions.size == len(model)
    for (item, node), units in model.items():
        assert positions.v_on_hand[positions.find(item, node)] == units
    assert positions.find(5, 99) == positions.find(10**6, 0) == -1
    items = positions.items().tolist()
    assert {(items[row], positions.v_node[row]) for row in range(positions.size)} == set(model)
    for item in range(300):
        nodes = [positions.v_node[row] for row in positions.rows(item)]
        assert sorted(nodes) == sorted(node for i, node in model if i == item)
    positions.merge()
    for item in range(300):
        nodes = [positions.v_node[row] for row in positions.rows(item)]
        assert nodes == sorted(nodes), "after a merge the rows of an item are in node order"


def test_free_is_derived_from_all_columns() -> None:
    positions = Positions()
    row = positions.ensure(1, 2)
    positions.v_on_hand[row] = 100
    for n, column in enumerate(("held", "allocated", "safety", "claimed", "fenced")):
        getattr(positions, "v_" + column)[row] = 10**n % 97
    assert positions.free(row) == 100 - sum(10**n % 97 for n in range(5))


def test_the_free_total_of_an_item_adds_up_what_sells_over_few_and_many_nodes() -> None:
    rng = random.Random(4)
    for nodes in (0, 5, 60):
        positions = Positions()
        for node in range(nodes):
            row = positions.ensure(3, node)
            positions.v_on_hand[row], positions.v_held[row] = rng.randint(0, 9), rng.randint(0, 9)
            positions.v_claimed[row], positions.v_fenced[row] = rng.randint(0, 2), rng.randint(0, 2)
            if node == 50:
                positions.merge()
        expected = sum(max(0, positions.free(row)) for row in positions.rows(3))
        assert positions.free_total(3) == expected
        positions.merge()
        assert (positions.free_total(3), positions.free_total(10**6)) == (expected, 0)


# -- capacity -----------------------------------------------------------------------------------------------------


def test_capacity_is_a_ring_of_days_that_forgets_the_past() -> None:
    capacity = Capacity(node_capacity=1)
    assert capacity.add(70, 100, 3) == 3
    assert capacity.add(70, 100 + Capacity.DAYS, 2) == 2
    assert (capacity.get(70, 100), capacity.add(70, 100, -3)) == (0, 0), "a day that is gone neither gives nor takes"
    assert capacity.rows(70) == [(100 + Capacity.DAYS, 2)]
    assert (capacity.get(3, 100), capacity.rows(500)) == (0, [])


def test_claims_count_but_are_not_what_was_given_away() -> None:
    capacity = Capacity()
    capacity.add(1, 100, 3)
    capacity.claim(1, 100, 2)
    assert (capacity.get(1, 100), capacity.rows(1)) == (5, [(100, 3)])
    capacity.put(1, 100, 7)
    assert (capacity.get(1, 100), capacity.rows(1)) == (9, [(100, 7)])
    capacity.claim(1, 100, -2)
    capacity.put(1, 100, 0)
    assert (capacity.rows(1), capacity.rows(1, zeros=True)) == ([], [(100, 0)])


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_table_is_a_dict_that_forgets_from_the_front() -> None:
    rng = random.Random(5)
    table = KeyTable()
    model: dict[int, tuple[int, int, int]] = {}
    for n in range(20_000):
        key = rng.choice([rng.getrandbits(64), rng.randrange(64) << 58, n])
        new = table.put(key, n, n + 1, n)
        assert new == (key not in model)
        model[key] = (n, n + 1, n)
        if n % 5_000 == 4_999:
            gone = table.forget(n - 2_000, limit=10**6)
            keys = list(model)
            for old in keys[:gone]:
                del model[old]
        if n % 997 == 0:
            for some in rng.sample(list(model), min(50, len(model))):
                assert table.get(some) == model[some]
    assert len(table) == len(model)
    assert [row[0] for row in table.rows()] == list(model)
    assert table.get(12345678) is None
    oldest_ms = next(table.rows())[3]
    assert table.forget(oldest_ms, limit=5) == 0


def test_rows_are_found_after_forgotten_ones_were_dropped() -> None:
    table = KeyTable()

    def check(first: int, last: int) -> None:
        assert len(table) == last - first
        assert [row[0] for row in table.rows()] == list(range(first, last))
        for key in range(last):
            assert table.get(key) == ((key + 1, key + 2, key + 1_000) if key >= first else None)

    for key in range(300):
        assert table.put(key, key + 1, key + 2, key + 1_000)
    assert table.forget(1_200, limit=1_000) == 200
    assert table.base == 200 * 4, "they were dropped"
    check(200, 300)
    assert not table.put(250, 7, 8, 9)
    assert [table.get(key) for key in (249, 250, 251)] == [(250, 251, 1_249), (7, 8, 9), (252, 253, 1_251)]
    assert not table.put(250, 251, 252, 1_250)
    for key in range(300, 600):
        assert table.put(key, key + 1, key + 2, key + 1_000)
    assert table.forget(1_450, limit=1_000) == 250
    assert table.base == 450 * 4, "and once more"
    check(450, 600)
    assert table.put(3, 4, 5, 1_003), "it was forgotten"
    assert table.get(3) == (4, 5, 1_003)
    with pytest.raises(struct.error):
        table.put(700, 1, -1, 1)
    assert table.get(700) is None and len(table) == 151


def test_a_key_that_was_forgotten_can_be_put_again() -> None:
    table = KeyTable()
    table.put(1, 1, 1, 10)
    assert table.forget(11, limit=1) == 1
    assert (table.get(1), len(table), list(table.rows())) == (None, 0, [])
    assert table.put(1, 2, 2, 20)
    assert table.get(1) == (2, 2, 20)


# -- records ------------------------------------------------------------------------------------------------------


def a_record(**fields: object) -> OrderRecord:
    lines = [LineRecord("1", 7, 2, 999), LineRecord("2", 8, 1, 5, 1, 2, 3, 1, False, 4)]
    legs = [LegRecord(1, 3, True, 1, [(0, 2)], 5, 1, 20_000, 1_790_000_000, 1_790_086_400, (700, 1, 2, 3), 1)]
    record = OrderRecord("A-1", 0, "standard", 1, NOW_MS, 1, Destination("US", "10001", "NY"), lines, legs)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"customer_id": "C-1"},
        {"expires_at_ms": NOW_MS},
        {"rung": 3},
        {"demand": [DemandRecord(0, 1, "out_of_stock", NOW_MS, True)]},
        {"promise_ms": (1, 2), "tags": ("vip",), "currency": "EUR", "max_legs": 1, "priority": 3, "on_short": 2},
        {"hold_reasons": ("fraud",), "rejected_nodes": (1, 2), "promised_by_ms": 5, "ship_after_ms": 0},
        {"paid": True},
        {"ship_to": None},
        {"ship_to": Destination("US", "10001", "", False)},
        {"ship_to": Destination("US", "10001", "", True, 1.5, 2.5)},
        {"decided_at": [(1, 2, 3), (4, 5, 6, 7)], "money_minor": (1, 2, 3, 4)},
    ],
)
def test_a_record_comes_back_as_it_was_packed(fields: dict[str, object]) -> None:
    record = a_record(**fields)
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    "changed",
    [
        {"local": False, "txn": 9, "driving": True},
        {"shipped_at_ms": 5, "tracking": ("T",), "actual_cost_minor": 3},
        {"source_leg": 1},
        {"stock_effect": "write_off", "written_off": [(0, 1)], "emptied": (7,)},
        {"state": 7, "lines": []},
    ],
)
def test_a_leg_comes_back_as_it_was_packed(changed: dict[str, object]) -> None:
    record = a_record()
    for name, value in changed.items():
        setattr(record.legs[0], name, value)
    assert decode_record(encode_record(record)) == record


def test_a_plain_order_of_three_lines_is_small() -> None:
    lines = [LineRecord(str(n), 1_000 + n, 2, 1_999) for n in range(3)]
    legs = [
        LegRecord(
            1, 300, True, 1, [(0, 2), (1, 2), (2, 2)], 5, 1, 20_000, 1_790_000_000, 1_790_086_400, (900, 60, 20, 0), 1
        )
    ]
    record = OrderRecord("A-1001", 0, "standard", 1, NOW_MS, 1, Destination("US", "10001", "NY"), lines, legs)
    record.decided_at, record.money_minor, record.customer_id = [(1_790_000_000, 90_000, 3)], (980, 0, 0, 0), "C-77"
    assert len(encode_record(record)) <= 150
    assert record.promise == (1_790_000_000_000, 1_790_086_400_000)


# -- ids and tokens -----------------------------------------------------------------------------------------------


def test_numbers_in_ids_sort_like_the_numbers() -> None:
    rng = random.Random(1)
    numbers = sorted(rng.getrandbits(63) for _ in range(200))
    texts = [encode_number(n) for n in numbers]
    assert texts == sorted(texts)
    assert [decode_number(text) for text in texts] == numbers
    assert decode_number("z" * 13) is None, "more than 63 bits"
    assert decode_number("0" * 12) is decode_number("0" * 12 + "u") is None


def test_an_order_number_says_when_it_was_made() -> None:
    number = make_order_no(time_ms=NOW_MS, shard=3, counter=77)
    assert order_no_time_ms(number) == NOW_MS
    assert make_order_no(time_ms=NOW_MS + 1, shard=0, counter=0) > number


def test_public_ids_are_parsed_strictly() -> None:
    ref = OrderRef("US100", 12345)
    assert parse_public_id(public_id("alc", ref), "alc") == (ref, 0)
    assert parse_public_id(public_id("leg", ref, 7), "leg", has_suffix=True) == (ref, 7)
    for bad in (
        "alc_US100_x",
        "res_US100_" + encode_number(1),
        "alc_us100_" + encode_number(1),
        "alc_US100\n_" + encode_number(1),
    ):
        assert parse_public_id(bad, "alc") is None
    assert parse_public_id(public_id("leg", ref) + "_99999", "leg", has_suffix=True) is None
    assert parse_public_id(public_id("leg", ref) + "_١", "leg", has_suffix=True) is None


@pytest.mark.parametrize(
    ("country", "postal_code", "slot"),
    [
        ("US", "10001", "US100"),
        ("gb", "ec1a 1bb", "GBEC1"),
        ("US", "1 0-0 01", "US100"),
        ("FR", "é75", "FR75"),
        ("IE", "", "IE"),
    ],
)
def test_a_slot_is_a_country_and_three_characters(country: str, postal_code: str, slot: str) -> None:
    assert slot_of(country, postal_code) == slot


def test_tokens_are_parsed_strictly() -> None:
    token = make_token({3: (5, 9), 0: (1, 2)})
    assert token == "0:1:2;3:5:9"
    assert parse_token(token) == {0: (1, 2), 3: (5, 9)}
    for bad in ("", "1:2", "1:2:3:4", "a:1:2", "1:-1:2", "1:2:" + "9" * 20, ";".join(["1:2:3"] * 65)):
        assert parse_token(bad) is None


# -- expiry -------------------------------------------------------------------------------------------------------


def test_an_expiry_queue_gives_what_is_due_in_order() -> None:
    rng = random.Random(2)
    queue = ExpiryQueue()
    waiting: list[tuple[int, str, int]] = []
    now = 0
    for n in range(5_000):
        if rng.random() < 0.6:
            entry = (now + rng.randint(0, 20_000), f"S{rng.randrange(5)}", n)
            queue.push(*entry)
            waiting.append(entry)
        now += rng.randint(0, 20)
        due = sorted(entry[0] for entry in waiting if entry[0] <= now)
        next_ms = queue.next_ms()
        assert not waiting or (next_ms is not None and next_ms <= min(entry[0] for entry in waiting))
        got = []
        while (entry2 := queue.pop_due(now)) is not None:
            got.append(entry2[0])
            waiting.remove(entry2)
        assert got == due
    assert len(queue) == len(waiting)


# -- catalogue and placement --------------------------------------------------------------------------------------


def test_a_catalogue_takes_documents_in_any_order_and_again() -> None:
    docs = as_docs(a_network(nodes=4, items=3, shards=2))
    one, two = Catalog(1), Catalog(1)
    one.apply(docs, len(docs))
    for doc in reversed(docs):
        two.apply([doc], doc.version)
    two.apply(docs, len(docs))
    assert (one.owner, one.item_of, one.levels) == (two.owner, two.item_of, two.levels)
    assert one.owner == [0, 1, 0, 1]
    assert [one.owns_node(n) for n in range(5)] == [False, True, False, True, False]
    assert (one.sku(0), one.sku(99), one.node_id(99)) == ("SKU-0", "#99", "#99")


def test_a_service_keeps_its_name_when_others_come() -> None:
    catalog = a_catalog()
    assert catalog.service_name(0) == ("acme", "ground")
    assert catalog.service_name(-1) == catalog.service_name(63) == catalog.service_name(64) == ("", "")
    carrier = a_carrier(services=[a_service("ground"), a_service("air", levels=("express",))])
    (doc,) = as_docs([carrier])
    catalog.apply([msgspec.structs.replace(doc, version=99)], 99)
    assert (catalog.service_name(0), catalog.service_name(1)) == (("acme", "ground"), ("acme", "air"))
    assert catalog.levels == {"standard", "express"}


def test_every_slot_and_node_has_one_owner() -> None:
    placement = Placement(shard_count=4, nodes={"N-9": 3}, slots={"US100": 2})
    assert shard_of_slot(placement, "US100") == 2
    assert [shard_of_slot(placement, f"US{n:03d}") for n in (0, 249, 250, 999)] == [0, 0, 1, 3]
    assert [shard_of_slot(placement, slot) for slot in ("US9", "GBEC1", "IE")] == [
        3,
        shard_of_slot(placement, "GBEC1"),
        shard_of_slot(placement, "IE"),
    ]
    assert shard_of_node(placement, a_node("N-9", postal_code="00100")) == 3
    assert shard_of_node(placement, a_node("N-1", postal_code="10099")) == 2, "with the slot of its own place"
    assert an_item("X").tracked
