"""The core of a shard: batches, held-back answers, order of work, limits, tokens, commit to durable, dumps."""

from __future__ import annotations

from typing import Any

import pytest

from engine.domain.commands import (
    AdjustStock,
    CancelOrder,
    DumpPart,
    GetAvailability,
    GetConfig,
    GetDecision,
    GetOrder,
    GetStatus,
    PutConfig,
    ReleaseHold,
    StockMove,
)
from engine.domain.config import Node
from engine.domain.errors import InvariantBreach
from engine.domain.ids import ORDER_COUNTER_MAX, make_order_no
from engine.domain.keys import hash_of
from engine.domain.plan import Plan, PlannedLeg, PlanRequest
from engine.domain.replies import DecisionAt, DumpReply, OrderView, Problem, StockReply
from engine.domain.state import ShardState
from engine.protocol.effects import Fetch
from engine.protocol.shard_core import AFTER_WAIT_MS, BATCH_ITEMS_MAX, OUTSTANDING_WAKE_MS, QUEUE_MAX
from tests.builders import NOW_MS, a_network, a_node, a_place, an_order
from tests.sim.greedy_planner import GreedyPlanner
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import a_shop, free, problem


def test_one_entry_is_outstanding_and_answers_wait_for_the_one_they_rest_on() -> None:
    # P1, P2
    shop = a_shop({"N-0": {"SKU-0": 5}})
    one = shop.send(a_place(an_order("A")))
    effects = shop.poll(durable=False)
    assert effects.append is not None and not effects.answers
    two, read = shop.send(a_place(an_order("B"))), shop.send(GetAvailability(("SKU-0",)))
    refusal = shop.send(a_place(an_order("C", {"SKU-0": 9})))
    effects = shop.poll(durable=False)
    assert effects.append is None, "a second append while one is outstanding"
    assert not effects.answers, "a read shows units of an order that is not durable"
    shop.core.appended(shop.entries[-1].seq)
    effects = shop.poll(durable=False)
    assert [answer.corr for answer in effects.answers] == [one]
    assert effects.append is not None
    shop.core.appended(effects.append.seq)
    assert {answer.corr for answer in shop.poll().answers} == {refusal, two, read}


def test_what_is_due_next_is_looked_for_once_nothing_is_outstanding() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.send(a_place(an_order("A"), ttl_s=30))
    effects = shop.poll(durable=False)
    assert effects.append is not None
    assert effects.wake_at_ms == shop.now_ms + OUTSTANDING_WAKE_MS, "should the acknowledgement not come"
    shop.send(a_place(an_order("B")))
    assert shop.poll(durable=False).wake_at_ms == shop.now_ms + OUTSTANDING_WAKE_MS, "nothing can be written before"
    shop.core.appended(effects.append.seq)
    effects = shop.poll(durable=False)
    assert effects.append is not None, "it was decided meanwhile"
    shop.core.appended(effects.append.seq)
    wake_at_ms = shop.poll().wake_at_ms
    assert wake_at_ms is not None and 29_000 < wake_at_ms - shop.now_ms <= 30_000, "the end of the hold"


@pytest.mark.parametrize("used", [0, ORDER_COUNTER_MAX - 6, ORDER_COUNTER_MAX - 5, ORDER_COUNTER_MAX - 1])
@pytest.mark.parametrize("later_ms", [0, 1])
def test_numbers_for_a_group_are_those_that_its_orders_would_get_one_by_one(used: int, later_ms: int) -> None:
    single, group = a_shop({"N-0": {"SKU-0": 5}}).core, a_shop({"N-0": {"SKU-0": 5}}).core
    for core in (single, group):
        core._order_ms, core._order_counter = NOW_MS, used
    for count in (5, 1, 3):
        wanted = [single.next_order_no(NOW_MS + later_ms) for _ in range(count)]
        assert list(group.order_nos(NOW_MS + later_ms, count)) == wanted == sorted(set(wanted))


def test_an_order_whose_key_and_id_come_to_one_number_is_placed_all_the_same() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    corrs = {shop.send(a_place(an_order("A"))), shop.send(a_place(an_order("B"), key=hash_of("B")))}
    answers = [answer for _ in range(3) for answer in shop.poll().answers]
    assert {answer.corr for answer in answers} == corrs
    assert all(isinstance(answer.reply, OrderView) for answer in answers)


def test_a_read_of_durable_state_waits_for_nothing() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    corr = shop.send(GetStatus())
    assert [answer.corr for answer in shop.poll().answers] == [corr]


def test_finishing_work_is_decided_before_new_work() -> None:
    # P3
    shop = a_shop({"N-0": {"SKU-0": 1}})
    held = shop.ask(a_place(an_order("A"), ttl_s=60))
    new = shop.send(a_place(an_order("B")))
    shop.send(ReleaseHold(held.slot, held.order_no))
    shop.settle()
    assert isinstance(shop.replies[new][0], OrderView)


def test_an_entry_has_a_bounded_number_of_orders() -> None:
    shop = a_shop({"N-0": {"SKU-0": 2_000}})
    for n in range(BATCH_ITEMS_MAX * 2 + 10):
        shop.send(a_place(an_order(f"A-{n}")))
    entries = len(shop.entries)
    shop.settle()
    assert len(shop.entries) - entries == 3
    assert len(shop.replies) == BATCH_ITEMS_MAX * 2 + 10


def test_new_work_beyond_the_queue_is_shed_and_finishing_work_is_not() -> None:
    shop = a_shop({"N-0": {"SKU-0": 1}})
    for _ in range(QUEUE_MAX):
        shop.core.receive(9, 1, a_place(), now_ms=NOW_MS)
    corr = shop.send(a_place())
    finishing = shop.send(CancelOrder("US100", 1))
    shop.poll()
    (reply,) = shop.replies[corr]
    assert isinstance(reply, Problem)
    assert (reply.code, reply.retry_after_ms) == ("overloaded", 500)
    shop.poll()
    assert problem(shop.replies[finishing][0])[0] == "not_found"


def test_commands_for_other_kinds_of_shards_are_told_so() -> None:
    shop = a_shop()
    assert problem(shop.ask(PutConfig("item", (b"{}",))))[0] == "not_found"
    assert problem(shop.ask(GetConfig("item", "A")))[0] == "not_found"


def test_a_slot_of_another_shard_is_named_with_its_owner() -> None:
    shop = LoneCore(a_network(nodes=2, shards=2), shard=1)
    for command in (a_place(), GetOrder("US100", 1), CancelOrder("US100", 1), GetDecision("US100", 1, 0)):
        reply = shop.ask(command)
        assert isinstance(reply, Problem)
        assert (reply.code, reply.errors[0].facts["shard"]) == ("moved", 0)


# -- tokens -------------------------------------------------------------------------------------------------------


def test_an_order_waits_until_the_views_contain_its_token() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    view = shop.ask(a_place(an_order("A")))
    assert isinstance(shop.ask(a_place(an_order("B"), after=view.token)), OrderView)
    assert shop.ask(a_place(an_order("C"), after="nonsense")).code == "invalid_token"
    corr = shop.send(a_place(an_order("D"), after="0:1:999"))
    shop.settle()
    assert corr not in shop.replies
    shop.pass_time(AFTER_WAIT_MS)
    assert problem(shop.replies[corr][0])[0] == "view_behind"
    waiting = shop.send(a_place(an_order("E"), after=f"0:1:{shop.state.seq + 1}"))
    shop.settle()
    assert waiting not in shop.replies
    shop.ask(a_place(an_order("F")))
    shop.settle()
    assert isinstance(shop.replies[waiting][0], OrderView)


# -- decisions ----------------------------------------------------------------------------------------------------


def test_a_decision_is_fetched_from_where_its_entry_says() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.send(a_place(an_order("A")))
    corr = shop.send(a_place(an_order("B")))
    shop.settle()
    view = shop.replies[corr][0]
    assert isinstance(view, OrderView)
    assert shop.entries[-1].decisions == [b"why", b"why"]
    asked = shop.send(GetDecision(view.slot, view.order_no, 0))
    assert shop.poll().fetches == [Fetch(1, asked, 1, shop.entries[-1].seq, 1)]
    assert problem(shop.ask(GetDecision(view.slot, view.order_no, 1)))[0] == "not_found"
    assert problem(shop.ask(GetDecision(view.slot, view.order_no, -1)))[0] == "not_found"


def test_a_decision_of_another_home_is_answered_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    placed = shop.ask(a_place(an_order("A")))
    assert isinstance(placed, OrderView)
    record = shop.state.order(placed.slot, placed.order_no)
    assert record is not None
    record.decided_at = [(7, 8, 9), (10, 11, 12), (13, 14, 15, 2), (16, 17, 18, 0)]
    came = make_order_no(time_ms=NOW_MS, shard=1, counter=0)
    monkeypatch.setattr(type(shop.state), "order", lambda state, slot, order_no: record)
    assert shop.ask(GetDecision(placed.slot, came, 0)) == DecisionAt(1, 7, 8, 9)
    assert problem(shop.ask(GetDecision(placed.slot, came, 1)))[0] == "not_found", "an old record: anybody's"
    assert shop.ask(GetDecision(placed.slot, came, 2)) == DecisionAt(2, 13, 14, 15)
    asked = shop.send(GetDecision(placed.slot, came, 3))
    assert shop.poll().fetches == [Fetch(1, asked, 16, 17, 18)]
    monkeypatch.setattr(shop.core.views, "owns_slot", lambda slot: False)
    asked = shop.send(GetDecision(placed.slot, came, 2, at=(13, 14, 15)))
    assert shop.poll().fetches == [Fetch(1, asked, 13, 14, 15)], "whoever has the slot by now"


# -- planners that are wrong --------------------------------------------------------------------------------------


class Dreamer(GreedyPlanner):
    """Sees stock that is not there: the first time, or always."""

    always = False

    def __init__(self, state: ShardState) -> None:
        super().__init__(state)
        self._asked = 0

    def plan(self, requests: Any, *, now_ms: int) -> list[Plan]:
        self._asked += 1
        if self._asked > 1 and not self.always:
            return super().plan(requests, now_ms=now_ms)
        return [self._dream(request) for request in requests]

    def _dream(self, request: PlanRequest) -> Plan:
        return Plan([PlannedLeg(0, [(i, line.quantity) for i, line in enumerate(request.lines)])], [])


class Fool(Dreamer):
    always = True


def test_a_plan_that_does_not_fit_is_planned_again_and_never_believed() -> None:
    shop = LoneCore(a_network(nodes=2), make_planner=Dreamer)
    shop.ask(AdjustStock("N-1", (StockMove("SKU-0", "received", 1),)))
    view = shop.ask(a_place())
    assert view.legs[0].node_id == "N-1"
    assert shop.core.counts["plans_unfit"] == 1


def test_a_planner_that_insists_gets_a_problem_not_the_units() -> None:
    shop = LoneCore(a_network(nodes=2), make_planner=Fool)
    assert shop.ask(a_place()).code == "internal"
    assert not shop.entries


def test_a_planner_that_overfills_a_day_is_not_believed_either() -> None:
    from engine.domain.config import NodeCapacity

    class Crammer(Fool):
        def _dream(self, request: PlanRequest) -> Plan:
            return Plan([PlannedLeg(0, [(0, 1)], ship_day=5, capacity_units=2)], [])

    nodes = [a_node("N-0", capacity=NodeCapacity(unit="orders", per_day=1))]
    shop = LoneCore(a_network(nodes=nodes), make_planner=Crammer)
    shop.ask(AdjustStock("N-0", (StockMove("SKU-0", "received", 9),)))
    assert shop.ask(a_place()).code == "internal"


def test_an_event_that_oversells_stops_the_shard() -> None:
    # S1, S3: whatever decided it, applying it is refused.
    from engine.domain.events import OrderPut

    shop = a_shop({"N-0": {"SKU-0": 1}})
    batch = shop.core.batch(shop.now_ms)
    with pytest.raises(InvariantBreach, match="S1"):
        shop.core.put(batch, OrderPut(1, "US100", 1, b"", (0, 0, 0, 0, 2)))
    with pytest.raises(InvariantBreach, match="S3"):
        shop.core.put(batch, OrderPut(2, "US100", 1, b"", (0, 0, 0, -1, 0)))
    with pytest.raises(InvariantBreach, match="S3"):
        shop.core.put(batch, OrderPut(2, "US100", 1, b"", (), (0, 5, -1)))


# -- configuration ------------------------------------------------------------------------------------------------


def test_a_pushed_configuration_is_used_and_named_by_the_next_order() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    version = shop.catalog.version
    node = shop.catalog.nodes[0]
    assert isinstance(node, Node)
    from engine.domain.replies import ConfigDoc
    from tests.builders import as_docs

    (doc,) = as_docs([a_node("N-0", state="off")])
    shop.core.configure([ConfigDoc("node", "N-0", 0, version + 1, doc.document)], version + 1)
    assert problem(shop.ask(a_place()))[0] == "out_of_stock"
    (doc,) = as_docs([a_node("N-0")])
    shop.core.configure([ConfigDoc("node", "N-0", 0, version + 2, doc.document)], version + 2)
    view = shop.ask(a_place())
    record = shop.state.order(view.slot, view.order_no)
    assert record is not None
    assert record.config == version + 2


# -- snapshots ----------------------------------------------------------------------------------------------------


def test_parts_are_packed_between_batches_only_and_oldest_change_first() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.ask(a_place())
    assert shop.core.dirty_parts() == ["node:0", "slot:US100"]
    shop.send(a_place(an_order("B")))
    shop.poll(durable=False)
    with pytest.raises(AssertionError):
        shop.core.pack_part("node:0")
    shop.core.appended(shop.entries[-1].seq)
    seq, data = shop.core.pack_part("node:0")
    assert (seq, shop.core.dirty_parts()) == (len(shop.entries), ["slot:US100"])
    assert len(data) < 2_000


def test_a_part_of_an_unknown_schema_is_refused() -> None:
    from engine.domain.parts import UnknownSchema

    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.ask(a_place())
    for part in ("node:0", "slot:US100", "misc"):
        _, data = shop.core.pack_part(part)
        with pytest.raises(UnknownSchema):
            shop.new_core().load_part(part, 1, data[:1] + b"\x63" + data[2:])


def test_a_restart_from_parts_and_tail_is_the_same_shard() -> None:
    shop = a_shop({"N-0": {"SKU-0": 50}, "N-1": {"SKU-1": 50}})
    parts = {}
    for n in range(6):
        view = shop.ask(a_place(an_order(f"A-{n}", {"SKU-0": 1, "SKU-1": 2}), key=n + 1, ttl_s=60 * (n % 2)))
        if n == 2:
            parts = {part: shop.core.pack_part(part) for part in shop.core.dirty_parts()}
        if n % 3 == 0:
            shop.ask(CancelOrder(view.slot, view.order_no))
    shop.check_recovery(parts)


# -- dumps and status ---------------------------------------------------------------------------------------------


def test_dumps_come_in_pages_that_leave_nothing_out() -> None:
    shop = a_shop({"N-0": {"SKU-0": 50, "SKU-1": 5}, "N-1": {"SKU-0": 7}})
    views = [shop.ask(a_place(an_order(f"A-{n}"))) for n in range(7)]
    for kind, expected in (("node", 3), ("slot", 7), ("foreign", 0)):
        rows: list[Any] = []
        cursor = ""
        while True:
            reply = shop.ask(DumpPart(kind, cursor, 2))
            assert isinstance(reply, DumpReply)
            rows += reply.rows
            cursor = reply.cursor
            if not cursor:
                break
        assert len(rows) == len({tuple(row[:2]) for row in rows}) == expected
        if kind == "slot":
            assert [row[1] for row in rows] == [view.order_no for view in views]
        if kind == "node":
            assert rows[0] == (0, 0, 50, 0, 7, 0)
    assert problem(shop.ask(DumpPart("what")))[0] == "invalid_field"
    assert problem(shop.ask(DumpPart("node", "x")))[0] == "invalid_cursor"


def test_status_counts_what_there_is() -> None:
    shop = a_shop({"N-0": {"SKU-0": 5}})
    shop.ask(a_place(an_order("A"), key=1))
    shop.ask(a_place(an_order("B"), ttl_s=60))
    shop.core.note_shell({"append_p99_ms": 3})
    facts = shop.ask(GetStatus()).facts
    assert (facts["open_orders"], facts["open_holds"], facts["orders"], facts["dedupe_entries"]) == (1, 1, 2, 1)
    assert (facts["count_placed"], facts["append_p99_ms"], facts["dedupe_window_ms"]) == (2, 3, 86_400_000)


def test_a_repeated_stock_command_is_answered_without_positions() -> None:
    shop = a_shop()
    command = AdjustStock("N-0", (StockMove("SKU-0", "received", 1),), key_hash=3, fingerprint=3)
    first, again = shop.ask(command), shop.ask(command)
    assert isinstance(again, StockReply)
    assert (len(first.positions), again.positions, again.replayed) == (1, (), True)
    assert free(shop, "SKU-0", "N-0") == 1
