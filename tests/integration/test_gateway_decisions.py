"""A decision is read from the journal that has it, at once, wherever its order's slot has moved since."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.domain.commands import EditOrder, GetDecision
from engine.domain.decisions import encode
from engine.domain.ids import parse_public_id, public_id
from engine.domain.move_commands import BeginMove
from engine.domain.placement import CONTROL_SHARD
from engine.domain.plan import Plan
from engine.domain.replies import DecisionReply, OrderView, Problem
from tests.conftest import eventually
from tests.integration.gateway_engine import GatewayEngine, an_order_body, keyed
from tests.sim.greedy_planner import GreedyPlanner
from tests.unit.test_explanation import a_record


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayEngine]:
    """Without an archive; the nth decision of all was made n seconds after the first."""
    made, first, plan_one = itertools.count(), a_record().at_ms, GreedyPlanner._plan_one

    def recorded(self: GreedyPlanner, *arguments: Any) -> Plan:
        record = a_record(at_ms=first + 1_000 * next(made))
        return replace(plan_one(self, *arguments), record=encode(record))

    monkeypatch.setattr(GreedyPlanner, "_plan_one", recorded)
    engine = await GatewayEngine(tmp_path, archive_url="off").start()
    await engine.seen_by_all(await engine.stock_up("N-0", "SKU-0", 50))
    yield engine
    engine.door.gateway.history.close()
    await engine.close()


async def moved(engine: GatewayEngine, slot: str, target: int) -> None:
    async def is_there() -> bool:
        if engine.cluster.catalog.placement.moving is None and engine.cluster.shard_of_slot(slot) != target:
            await engine.cluster.ask(CONTROL_SHARD, BeginMove(f"slot:{slot}", target))
        return engine.cluster.shard_of_slot(slot) == target and engine.cluster.catalog.placement.moving is None

    await eventually(is_there)


async def test_decisions_of_all_homes_are_read_at_once_wherever_the_order_is(engine: GatewayEngine) -> None:
    answer = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("place"))
    assert answer.status_code == 201, answer.text
    found = parse_public_id(answer.json()["allocation_id"], "alc")
    assert found is not None
    ref, first = found[0], engine.cluster.shard_of_slot(found[0].slot)
    other = 1 - first
    homes = [first]

    async def edited(quantity: int) -> None:
        command = EditOrder(*ref, lines=(("1", quantity),), key_hash=quantity, fingerprint=quantity)
        reply = await engine.cluster.ask_owner(lambda: engine.cluster.shard_of_slot(ref.slot), command)
        assert isinstance(reply, OrderView), reply
        homes.append(engine.cluster.shard_of_slot(ref.slot))

    async def assert_readable() -> None:
        seen = []
        for number, home in enumerate(homes):
            reply = await engine.cluster.ask_decision(GetDecision(*ref, number))
            assert isinstance(reply, DecisionReply), reply
            assert reply.entry is not None and reply.entry[0] == home
            shown = await engine.client.get(f"/v1/decisions/{public_id('dec', ref, number)}")
            assert shown.status_code == 200, shown.text
            seen.append(shown.json()["decided_at"])
        assert seen == sorted(set(seen)), "each has its own record"

    await edited(2)
    await moved(engine, ref.slot, other)
    await assert_readable()
    await edited(3)
    await assert_readable()
    await moved(engine, ref.slot, first)
    await assert_readable()
    await edited(4)
    await assert_readable()
    assert homes == [first, first, other, first]
    beyond = await engine.cluster.ask_decision(GetDecision(*ref, len(homes)))
    assert isinstance(beyond, Problem) and beyond.code == "not_found"


async def test_a_shard_that_has_ended_is_not_waited_for(engine: GatewayEngine) -> None:
    """All of its journal is in the archive, which is asked after `not_found`."""
    answer = await engine.client.post("/v1/allocations", json=an_order_body(), headers=keyed("place"))
    found = parse_public_id(answer.json()["allocation_id"], "alc")
    assert found is not None
    ref, first = found[0], engine.cluster.shard_of_slot(found[0].slot)
    await moved(engine, ref.slot, 1 - first)
    placement = engine.cluster.catalog.placement
    engine.cluster.catalog.placement = replace(placement, ended=(first,))
    reply = await engine.cluster.ask_decision(GetDecision(*ref, 0))
    assert isinstance(reply, Problem) and reply.code == "not_found"
