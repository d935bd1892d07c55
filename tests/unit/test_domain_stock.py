"""Stock facts: movements, counts that come late and out of order, safety, trust. They are never refused for being inconvenient."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.domain.commands import ActOnLeg, AdjustStock, CountStock, GetAvailability, SetPosition, StockMove
from engine.domain.feeds import LOOK_EVERY, upload_source
from engine.domain.movements import CHUNK, KEPT_MAX, KEPT_MS, Movements
from engine.domain.orders import Method
from engine.domain.parts import UnknownSchema, load_live, pack_live
from engine.domain.replies import OrderView, Problem, StockReply, WouldChange
from tests.builders import a_network, a_node, a_place, an_order
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_legs import act, position
from tests.unit.test_domain_orders import a_shop, free, problem


def count(
    shop: LoneCore, rows: dict[str, int], *, seq: int, ago_ms: int = 0, scope: str = "delta", **fields: Any
) -> Any:
    fields.setdefault("source", "wms")
    as_of_ms = shop.now_ms - ago_ms
    return shop.ask(CountStock("N-0", fields.pop("source"), as_of_ms, seq, scope, tuple(rows.items()), **fields))


def ship(shop: LoneCore, order_id: str, units: int) -> None:
    view = shop.ask(a_place(an_order(order_id, {"SKU-0": units})))
    assert isinstance(view, OrderView)
    act(shop, view, "release")
    act(shop, view, "ship")


# -- movements ----------------------------------------------------------------------------------------------------


def test_movements_carry_the_sign_of_their_kind() -> None:
    shop = a_shop()
    for kind, units, left in [
        ("received", 10, 10),
        ("damaged", 2, 8),
        ("sold_in_store", 3, 5),
        ("returned", 1, 6),
        ("adjusted", -4, 2),
        ("transferred_out", 5, -3),
    ]:
        reply = shop.ask(AdjustStock("N-0", (StockMove("SKU-0", kind, units),)))
        assert isinstance(reply, StockReply)
        assert (reply.positions[0].on_hand, reply.positions[0].short_by) == (left, max(0, -left))


@pytest.mark.parametrize(
    ("node", "moves", "code", "pointer"),
    [
        ("nope", [("SKU-0", "received", 1)], "unknown_node", "/node_id"),
        ("N-0", [("SKU-0", "received", 1), ("nope", "received", 1)], "unknown_sku", "/moves/1/sku"),
        ("N-0", [("SKU-0", "stolen", 1)], "invalid_field", "/moves/0/kind"),
        ("N-0", [("SKU-0", "received", -1)], "invalid_field", "/moves/0/quantity"),
        ("N-0", [("SKU-0", "adjusted", 0)], "invalid_field", "/moves/0/quantity"),
        ("N-0", [("SKU-0", "received", 10**9), ("SKU-0", "received", 1)], "invalid_field", "/moves/1/quantity"),
        ("N-0", [], "invalid_field", "/moves"),
    ],
)
def test_a_faulty_movement_stops_all_of_them(node: str, moves: list[Any], code: str, pointer: str) -> None:
    shop = a_shop()
    reply = shop.ask(AdjustStock(node, tuple(StockMove(*move) for move in moves)))
    assert problem(reply) == (code, pointer)
    assert not shop.entries


def test_a_repeated_movement_moves_nothing() -> None:
    shop = a_shop()
    command = AdjustStock("N-0", (StockMove("SKU-0", "received", 3),), key_hash=4, fingerprint=1)
    shop.ask(command)
    assert shop.ask(command).replayed
    assert position(shop)[0] == 3
    other = AdjustStock("N-0", (StockMove("SKU-0", "received", 4),), key_hash=4, fingerprint=2)
    assert problem(shop.ask(other))[0] == "key_reused"


def test_movements_that_expect_a_number_are_booked_only_where_it_is_there() -> None:
    """Each is compared with what is there in its turn; all that differ are named, and nothing is booked then."""
    shop = a_shop({"N-0": {"SKU-0": 10, "SKU-1": 4}})
    before = len(shop.entries)
    moves = tuple(StockMove(sku, "adjusted", units) for sku, units in (("SKU-0", 2), ("SKU-1", 5), ("SKU-2", 7)))
    refused = shop.ask(AdjustStock("N-0", moves, expected=(9, 4, 1)))
    assert isinstance(refused, Problem)
    assert refused.code == "stock_changed"
    assert [(e.pointer, e.facts) for e in refused.errors] == [
        ("/moves/0/expected_on_hand", {"sku": "SKU-0", "expected_on_hand": 9, "on_hand": 10}),
        ("/moves/2/expected_on_hand", {"sku": "SKU-2", "expected_on_hand": 1, "on_hand": 0}),
    ]
    assert len(shop.entries) == before
    taken = shop.ask(AdjustStock("N-0", moves, expected=(10, None, 0)))
    assert [view.on_hand for view in taken.positions] == [12, 9, 7]
    twice = tuple(StockMove("SKU-0", "adjusted", units) for units in (3, -1))
    assert isinstance(shop.ask(AdjustStock("N-0", twice, expected=(12, 15))), StockReply)
    assert position(shop)[0] == 14


# -- counts -------------------------------------------------------------------------------------------------------


def test_a_late_count_does_not_put_shipped_units_back() -> None:
    shop = a_shop({"N-0": {"SKU-0": 10}})
    shop.pass_time(60_000)
    ship(shop, "A-1", 4)  # after the count was taken
    shop.pass_time(60_000)
    count(shop, {"SKU-0": 10}, seq=1, ago_ms=90_000)
    assert position(shop) == (6, 0, 0)
    count(shop, {"SKU-0": 6}, seq=2)
    assert position(shop) == (6, 0, 0)


def test_uploads_are_forgotten_once_their_counts_are_too_old_and_feeds_never() -> None:
    """An import every hour, for ever: its node is written with every snapshot."""
    shop = a_shop()
    count(shop, {"SKU-0": 1}, seq=7)
    for n in range(1_000):
        shop.pass_time(3_600_000)
        count(shop, {"SKU-0": n}, seq=0, source=upload_source("key", n))
    feeds = shop.state.nodes[0].feeds
    assert len(feeds) <= 48 + 2 * LOOK_EVERY
    assert upload_source("key", 999) in feeds
    assert problem(count(shop, {"SKU-0": 1}, seq=7)) == ("stale_count", "/source_seq")
    again = count(shop, {"SKU-0": 1}, seq=0, source=upload_source("key", 0), ago_ms=999 * 3_600_000)
    assert problem(again) == ("stale_count", "/as_of"), "sent again, what was forgotten is refused"


def test_no_count_is_taken_while_the_clock_is_behind_the_journal() -> None:
    """Entries stand still at the newest time then: a movement of a minute ago would be added to a count of now."""
    shop = a_shop({"N-0": {"SKU-0": 10}})
    shop.now_ms -= 60_000
    ship(shop, "A-1", 4)
    later = count(shop, {"SKU-0": 6}, seq=1)
    assert isinstance(later, Problem)
    assert (later.code, later.errors[0].facts, later.retry_after_ms) == ("unavailable", {"behind_ms": 60_000}, 60_000)
    assert position(shop) == (6, 0, 0)
    shop.pass_time(60_000)
    count(shop, {"SKU-0": 6}, seq=1)
    assert position(shop) == (6, 0, 0)


def test_a_dry_run_of_a_count_is_decided_and_changes_nothing() -> None:
    shop = a_shop({"N-0": {"SKU-0": 10, "SKU-1": 4, "SKU-2": 6}})
    shop.pass_time(60_000)
    ship(shop, "A-1", 4)
    before = len(shop.entries)
    rows = {"SKU-0": 12, "SKU-1": 4}
    dry = count(shop, rows, seq=1, ago_ms=30_000, scope="full", dry_run=True)
    assert dry.would_change == WouldChange(2, 1, 2, 6), "12, of which 4 left since; 6 that are not listed"
    assert (len(shop.entries), position(shop)[0]) == (before, 6)
    assert count(shop, rows, seq=1, ago_ms=30_000, scope="full").would_change is None, "its number was not used up"
    assert position(shop)[0] == 8
    assert problem(count(shop, rows, seq=1, dry_run=True))[0] == "stale_count"


def test_a_feed_like_a_real_one_never_oversells() -> None:
    """A warehouse exports its shelf every 15 minutes; files arrive late, some out of order, some twice, while it ships.

    A late snapshot never re-adds shipped units: only what broke since the newest one that arrived is not known yet.
    """
    shop = a_shop({"N-0": {"SKU-0": 500}})
    rng = random.Random(7)
    shelf = 500  # what is really there
    exports: list[tuple[int, int, int]] = []  # (arrives at, taken at, units)
    broke_ms: list[int] = []
    counted_ms = shipped_late = 0
    for step in range(200):
        shop.pass_time(60_000)
        if rng.random() < 0.6:
            units = rng.randint(1, 3)
            reply = shop.ask(a_place(an_order(f"A-{step}", {"SKU-0": units})))
            if isinstance(reply, OrderView):
                act(shop, reply, "release")
                assert isinstance(act(shop, reply, "ship"), OrderView)
                shelf -= units
        if step % 15 == 0:
            if rng.random() < 0.3:
                shelf -= 1  # something broke, and only the count tells
                broke_ms.append(shop.now_ms)
            for _ in range(rng.choice([1, 1, 2])):
                exports.append((shop.now_ms + rng.randint(0, 40) * 60_000, shop.now_ms, shelf))
        for export in [e for e in exports if e[0] <= shop.now_ms]:
            exports.remove(export)
            reply = shop.ask(CountStock("N-0", "wms", export[1], export[1], "full", (("SKU-0", export[2]),)))
            if isinstance(reply, StockReply):
                counted_ms = export[1]
                shipped_late += shelf < export[2]
            else:
                assert problem(reply)[0] == "stale_count"
        assert position(shop)[0] == shelf + sum(at_ms > counted_ms for at_ms in broke_ms)
    assert shipped_late >= 5, "the feed is about snapshots that shipments overtook"
    count(shop, {"SKU-0": shelf}, seq=2**50)
    assert position(shop)[0] == shelf


def test_an_older_source_seq_is_refused_with_the_newest_one() -> None:
    shop = a_shop()
    count(shop, {"SKU-0": 5}, seq=8)
    reply = count(shop, {"SKU-0": 9}, seq=8)
    assert problem(reply) == ("stale_count", "/source_seq")
    assert isinstance(reply, Problem)
    newest = reply.errors[0].facts["newest_as_of"]
    assert isinstance(newest, str)
    assert 0 <= shop.now_ms - datetime.fromisoformat(newest).timestamp() * 1_000 < 200_000, "an instant, as everywhere"
    assert reply.errors[0].facts["newest_source_seq"] == 8
    assert isinstance(count(shop, {"SKU-0": 9}, seq=1, source="pos"), StockReply), "another source counts for itself"


def test_a_count_that_was_overtaken_by_another_source_changes_nothing() -> None:
    shop = a_shop()
    shop.pass_time(100_000)
    count(shop, {"SKU-0": 5}, seq=1)
    count(shop, {"SKU-0": 9}, seq=1, source="pos", ago_ms=50_000)
    assert position(shop)[0] == 5


@pytest.mark.parametrize("source", ["wms", "pos"])
def test_a_count_that_was_overtaken_within_the_second_changes_nothing(source: str) -> None:
    shop = a_shop()
    shop.pass_time(1_000 - shop.now_ms % 1_000 + 950)
    count(shop, {"SKU-0": 5}, seq=1, ago_ms=60)
    count(shop, {"SKU-0": 10}, seq=2, ago_ms=50)
    count(shop, {"SKU-0": 10}, seq=3, ago_ms=850, source=source)
    assert position(shop)[0] == 10


@pytest.mark.parametrize(("scope", "other"), [("full", 0), ("nonzero", 0), ("delta", 7)])
def test_what_a_count_does_not_list(scope: str, other: int) -> None:
    shop = a_shop({"N-0": {"SKU-0": 3, "SKU-1": 7}})
    count(shop, {"SKU-0": 5}, seq=1, scope=scope)
    assert (position(shop)[0], position(shop, "SKU-1")[0]) == (5, other)


def test_units_received_after_a_full_count_was_taken_stay() -> None:
    shop = a_shop({"N-0": {"SKU-1": 7}})
    shop.pass_time(60_000)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 4),)))
    shop.pass_time(60_000)
    count(shop, {"SKU-1": 7}, seq=1, scope="full", ago_ms=90_000)
    assert position(shop)[0] == 4


def test_a_catalogue_of_zeros_makes_no_positions() -> None:
    shop = a_shop(items=50)
    count(shop, {f"SKU-{n}": 0 for n in range(50)}, seq=1, scope="full")
    assert shop.state.positions.size == 0


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"ago_ms": -120_000}, "invalid_field", "/as_of"),
        ({"ago_ms": KEPT_MS + 60_000}, "stale_count", "/as_of"),
        ({"scope": "half"}, "invalid_field", "/scope"),
        ({"rows": {"nope": 1}}, "unknown_sku", "/rows/0/sku"),
        ({"rows": {"SKU-0": -1}}, "invalid_field", "/rows/0/quantity"),
        ({"rows": {"SKU-0": 10**9 + 1}}, "invalid_field", "/rows/0/quantity"),
    ],
)
def test_a_faulty_count_is_pointed_at(fields: dict[str, Any], code: str, pointer: str) -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    rows = fields.pop("rows", {"SKU-0": 1})
    refused = count(shop, rows, seq=1, **fields)
    assert problem(refused) == (code, pointer)
    if fields.get("ago_ms", 0) < 0:
        assert "more than 60 s in the future, by the engine's clock" in refused.errors[0].detail
        assert refused.errors[0].facts["now"].endswith("Z")
    assert position(shop)[0] == 1


def test_a_sku_listed_twice_is_not_counted() -> None:
    shop = a_shop()
    reply = shop.ask(CountStock("N-0", "wms", shop.now_ms, 1, "delta", (("SKU-0", 1), ("SKU-0", 2))))
    assert problem(reply) == ("invalid_field", "/rows/1/sku")


def test_counting_below_what_is_promised_leaves_a_shortage_not_an_error() -> None:
    shop = a_shop({"N-0": {"SKU-0": 10}})
    view = shop.ask(a_place(an_order(lines={"SKU-0": 8})))
    act(shop, view, "release")
    reply = count(shop, {"SKU-0": 5}, seq=1)
    assert (reply.positions[0].short_by, reply.legs_short) == (3, ()), "only unreleased legs can go elsewhere"
    assert free(shop, "SKU-0", "N-0") == -3
    assert isinstance(act(shop, view, "ship"), OrderView), "what is promised can still be shipped"
    assert position(shop) == (-3, 0, 0)


def test_the_age_of_a_feed_is_shown() -> None:
    shop = a_shop()
    count(shop, {"SKU-0": 5}, seq=1, ago_ms=10_000)
    shop.pass_time(20_000)
    reply = shop.ask(GetAvailability(("SKU-0",)))
    assert reply.positions[0].feed_age_s == 30


def test_what_a_count_corrects_is_no_movement_to_net_another_by() -> None:
    """Else a long count takes the room of the movements, and its own tail is refused once one of them is forgotten."""
    shop = a_shop({"N-0": {"SKU-0": 9}})
    remembered = len(shop.state.node(0).movements)
    count(shop, {"SKU-0": 5, "SKU-1": 7}, seq=2)
    assert len(shop.state.node(0).movements) == remembered
    count(shop, {"SKU-0": 3, "SKU-2": 4}, seq=1, ago_ms=500, source="robot")
    assert [free(shop, sku, "N-0") for sku in ("SKU-0", "SKU-1", "SKU-2")] == [5, 7, 4]


def test_a_count_in_parts_is_one_count() -> None:
    """The last part takes what none of them lists, and a part belongs to the newest count, not to an older one."""
    shop = a_shop({"N-0": {"SKU-0": 9, "SKU-1": 9, "SKU-2": 9}})
    count(shop, {"SKU-0": 5}, seq=3)
    last = {"seq": 3, "scope": "full", "listed": ("SKU-0", "no such item")}
    would = count(shop, {"SKU-1": 6}, **last, dry_run=True).would_change
    assert would == WouldChange(position_count=2, left_out_count=1, units_added=0, units_taken=12)
    count(shop, {"SKU-1": 6}, **last)
    assert [free(shop, sku, "N-0") for sku in ("SKU-0", "SKU-1", "SKU-2")] == [5, 6, 0]
    assert problem(count(shop, {"SKU-1": 7}, seq=3))[0] == "stale_count"
    assert problem(count(shop, {"SKU-1": 7}, seq=2, listed=("SKU-0",)))[0] == "stale_count"


# -- settings -----------------------------------------------------------------------------------------------------


def test_safety_is_never_promised_and_may_leave_a_position_short() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.ask(a_place(an_order(lines={"SKU-0": 3})))
    reply = shop.ask(SetPosition("N-0", (("SKU-0", 4, "counted", 0, 0),)))
    assert (reply.positions[0].safety, reply.positions[0].short_by) == (4, 2)
    assert problem(shop.ask(a_place(an_order("B"))))[0] == "out_of_stock"


def test_a_count_that_is_trusted_in_part_is_fenced_against_the_promise() -> None:
    shop = a_shop({"N-0": {"SKU-0": 10}})
    shop.ask(SetPosition("N-0", (("SKU-0", 0, "trusted", 3_333, 0),)))
    assert free(shop, "SKU-0", "N-0") == 3
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 10),)))
    assert free(shop, "SKU-0", "N-0") == 6
    shop.ask(SetPosition("N-0", (("SKU-0", 0, "counted", 0, 0),)))
    assert free(shop, "SKU-0", "N-0") == 20


def test_safety_alone_leaves_trust_and_uncounted_supply_as_they_are() -> None:
    shop = a_shop({"N-0": {"SKU-0": 10}})
    shop.ask(SetPosition("N-0", (("SKU-0", 0, "trusted", 5_000, 0), ("SKU-1", 0, "uncounted", 10_000, 50))))
    reply = shop.ask(SetPosition("N-0", tuple([(sku, 1, None, None, None) for sku in ("SKU-0", "SKU-1", "SKU-2")])))
    assert [position.supply for position in reply.positions] == ["trusted", "uncounted", "counted"]
    assert [free(shop, sku, "N-0") for sku in ("SKU-0", "SKU-1", "SKU-2")] == [4, 50, -1]


@pytest.mark.parametrize(
    ("row", "pointer"),
    [
        (("SKU-0", -1, "counted", 0, 0), "/rows/0/safety"),
        (("SKU-0", 0, "magic", 0, 0), "/rows/0/supply"),
        (("SKU-0", 0, "trusted", 10_001, 0), "/rows/0/trust_bp"),
        (("SKU-0", 0, "trusted", 1, -1), "/rows/0/daily_cap"),
        (("SKU-0", 0, "counted", 1, 7), "/rows/0/daily_cap"),
        (("nope", 0, "counted", 0, 0), "/rows/0/sku"),
    ],
)
def test_a_faulty_setting_is_pointed_at(row: Any, pointer: str) -> None:
    assert problem(a_shop().ask(SetPosition("N-0", (row,))))[1] == pointer


def test_availability_shows_what_can_be_promised_by_method_and_channel() -> None:
    nodes = [
        a_node("N-0", offers=("ship", "pickup"), safety_by_method={"pickup": 2}),
        a_node("N-1", offers=("ship",)),
        a_node("N-2", state="off"),
    ]
    shop = LoneCore(a_network(nodes=nodes))
    for node in ("N-0", "N-1", "N-2"):
        shop.ask(AdjustStock(node, (StockMove("SKU-0", "received", 5),)))
    assert [(p.node_id, p.available_to_promise) for p in shop.ask(GetAvailability(("SKU-0",))).positions] == [
        ("N-0", 5),
        ("N-1", 5),
    ]
    reply = shop.ask(GetAvailability(("SKU-0",), method=Method.PICKUP))
    assert [(p.node_id, p.available_to_promise, p.safety) for p in reply.positions] == [("N-0", 3, 2)]
    assert problem(shop.ask(GetAvailability(("nope",))))[0] == "unknown_sku"
    assert problem(shop.ask(GetAvailability(("SKU-0",), method=9))) == ("invalid_field", "/method")
    assert [p.node_id for p in shop.ask(GetAvailability(("SKU-0",), node_id="N-1")).positions] == ["N-1"]


@pytest.mark.parametrize(
    ("fields", "state"), [({"state": "drain"}, "drain"), ({"state": "off"}, "off"), ({"offers": ("pickup",)}, "on")]
)
def test_a_node_that_is_named_is_shown_though_it_sells_nothing(fields: dict[str, Any], state: str) -> None:
    shop = LoneCore(a_network(nodes=[a_node("N-0", **fields), a_node("N-1")]))
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 5),)))
    assert shop.ask(GetAvailability(("SKU-0",))).positions == ()
    (shown,) = shop.ask(GetAvailability(("SKU-0",), node_id="N-0")).positions
    assert (shown.on_hand, shown.available_to_promise, shown.node_state) == (5, 0, state)


# -- the movements kept -------------------------------------------------------------------------------------------


def test_movements_are_kept_for_two_days_and_not_more_than_their_room() -> None:
    kept = Movements()
    for n in range(5_000):
        kept.add(n * 60_000, n % 3, 1, now_ms=n * 60_000)
    assert len(kept) <= KEPT_MS // 60_000 + 2 * CHUNK
    assert kept.forgotten_ms > 0
    assert sum(kept.net_after(4_999 * 60_000 - KEPT_MS // 2).values()) == KEPT_MS // 2 // 60_000
    crowded = Movements()
    for n in range(KEPT_MAX + 2_048):
        crowded.add(n, 0, 1, now_ms=n)
    assert len(crowded) < KEPT_MAX + CHUNK
    again = Movements()
    again.load(*crowded.pack())
    assert again.pack() == crowded.pack()


def test_sealed_movements_net_as_loose_ones_do_and_take_half_the_bytes() -> None:
    draw = random.Random(3)
    instants = sorted(draw.randrange(86_400_000) for _ in range(5 * CHUNK + 7))
    instants[100], instants[1_000] = instants[1_000], 5  # counts that come late carry older instants
    loose = [(1_796_000_000_000 + ms, draw.randrange(2_000), draw.choice((-1, -2, 300))) for ms in instants]
    kept = Movements()
    for ms, item, change in loose:
        kept.add(ms, item, change, now_ms=ms)
    again = Movements()
    again.load(*kept.pack())
    for as_of_ms in [loose[n][0] for n in (0, 50, CHUNK, 1_000, 5 * CHUNK, 5 * CHUNK + 3)]:
        net: dict[int, int] = {}
        for ms, item, change in loose:
            if ms > as_of_ms:
                net[item] = net.get(item, 0) + change
        assert kept.net_after(as_of_ms) == again.net_after(as_of_ms) == net
    _, sealed = kept.pack()
    assert len(sealed) == 5
    assert all(len(chunk.steps_ms) + len(chunk.items) + len(chunk.changes) <= 8 * CHUNK for chunk in sealed)


def test_a_node_of_the_first_schema_is_read_and_its_movements_sealed() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    rows = 3 * CHUNK + 5
    loose = (
        7,
        np.arange(rows, dtype="<i8").tobytes(),
        np.zeros(rows, "<i4").tobytes(),
        np.ones(rows, "<i4").tobytes(),
    )
    fields = msgspec.msgpack.decode(pack_live(shop.state, "node:0"))
    old = msgspec.msgpack.encode([1, *fields[1:6], loose, *fields[7:11]])
    state = LoneCore(a_network(nodes=1)).state
    load_live(state, "node:0", old)
    movements = state.node(0).movements
    assert (len(movements), len(movements.sealed), movements.forgotten_ms) == (rows, 3, 7)
    assert movements.net_after(9) == {0: rows - 10}
    with pytest.raises(UnknownSchema, match="schema 3"):
        load_live(state, "node:0", msgspec.msgpack.encode([3, *fields[1:]]))


def test_a_node_that_was_packed_with_sealed_movements_is_read_by_later_versions() -> None:
    """The file was written once, by the version that brought the schema: 5 units of item 0, and movement n is -1 at 1,000 n ms."""
    packed = (Path(__file__).parents[1] / "golden" / "node-schema-2.msgpack").read_bytes()
    state = LoneCore(a_network(nodes=1)).state
    load_live(state, "node:0", packed)
    movements = state.node(0).movements
    assert len(movements) == 600 + 1  # the count that filled the shelf is one too
    assert len(movements.sealed) == 2
    assert movements.net_after(300_000) == {0: -95, 1: -100, 2: -100}
    assert state.positions.v_on_hand[state.positions.find(0, 0)] == 5


def test_a_count_older_than_the_movements_kept_is_refused() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.state.node(0).movements.forgotten_ms = shop.now_ms - 1_000
    assert problem(count(shop, {"SKU-0": 5}, seq=1, ago_ms=2_000)) == ("stale_count", "/as_of")


def test_stock_of_a_node_of_another_shard_is_not_ours_to_change() -> None:
    shop = LoneCore(a_network(nodes=2, shards=2))
    reply = shop.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", 1),)))
    assert isinstance(reply, Problem)
    assert reply.code == "moved"
    assert shop.ask(ActOnLeg("US510", 1, 1, "ship")).code == "moved"
