"""Orders that collide over stock: who is sent to the joint solver, and what comes back."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from engine.actors.planner import SolverPlanner
from engine.domain.config import Carrier, RateCard
from engine.domain.decisions import candidates_of, decode, legs_of
from engine.domain.orders import Destination, LineRecord, OnShort, Rung
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import ShardState
from engine.settings import Settings
from solvers.joint_wire import JointAnswer, pack_answer, unpack_arrays
from solvers.worker import answer
from tests.builders import NOW_MS, a_catalog, a_channel, a_line, a_node, a_service, an_item, an_order
from tests.property.ruled_planner import RuledPlanner, money_rules, position_prices
from tests.property.solvers_reference import Reference, Rules


def a_world(stock: dict[tuple[int, int], int], *, nodes: int = 2, items: int = 2) -> ShardState:
    """Nodes on a line to the west of New York, 300 km apart; prices grow with the zone."""
    card = RateCard(
        break_g=[1_000, 5_000, 30_000], price_minor=[[500 + 200 * z, 700 + 300 * z, 1_500] for z in range(5)]
    )
    service = a_service(band_km=[200, 500, 800, 1_100, 9_000], transit_days=[1, 2, 3, 4, 5], cards=[card])
    catalog = a_catalog(
        documents=[
            a_channel(transit_day_bp=0),
            Carrier(carrier_id="acme", services=[service]),
            *[an_item(f"SKU-{n}", weight_g=400) for n in range(items)],
            *[a_node(f"N-{n}", lat=40.75, lon=-74.0 - 3.55 * n) for n in range(nodes)],
        ]
    )
    state = ShardState(catalog)
    for (item, node), units in stock.items():
        state.positions.v_on_hand[state.positions.ensure(item, node)] = units
    return state


def a_request(n: int, units: dict[int, int], *, lon: float = -74.0, on_short: int = OnShort.REFUSE) -> PlanRequest:
    lines = [a_line(f"SKU-{item}", count, line_id=str(item)) for item, count in units.items()]
    records = [LineRecord(line.line_id, int(line.sku[4:]), line.quantity) for line in lines]
    order = an_order(f"A-{n}", lines, ship_to=Destination("US", "10001", lat=40.75, lon=lon), on_short=on_short)
    return PlanRequest(order, records, 0)


def concluded(planner: SolverPlanner, plans: list[Plan], *, solve: bool = True) -> list[Plan]:
    """What becomes of a batch when the solver answers all its components (or none)."""
    final = list(plans)
    for component in sorted({plan.component for plan in plans if plan.component}):
        packed = planner.component_problem(component)
        improved = planner.improved(component, answer(packed, deadline_ms=10_000) if solve else None)
        members = [n for n, plan in enumerate(plans) if plan.component == component]
        for n, plan in zip(members, improved, strict=True):
            final[n] = plan
    return final


def total(plans: list[Plan]) -> int:
    return sum(sum(plan.money_minor) for plan in plans)


@pytest.fixture(scope="module")
def planner_settings() -> Settings:
    return Settings()


def test_deep_stock_needs_no_solver(planner_settings: Settings) -> None:
    planner = SolverPlanner(a_world({(0, 0): 100, (0, 1): 100}), planner_settings)
    plans = planner.plan([a_request(n, {0: 1}) for n in range(20)], now_ms=NOW_MS)
    assert {(plan.rung, plan.component) for plan in plans} == {(Rung.SEPARABLE, 0)}
    assert {leg.node for plan in plans for leg in plan.legs} == {0}


def test_the_solver_gives_the_last_cheap_unit_to_the_order_that_gains_most(planner_settings: Settings) -> None:
    """The first order takes both items of the near node, the second must split; swapping them saves a parcel."""
    state = a_world({(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 2): 1}, nodes=3)
    planner = SolverPlanner(state, planner_settings)
    requests = [a_request(1, {0: 1}), a_request(2, {0: 1, 1: 1})]
    greedy = planner.plan(requests, now_ms=NOW_MS)
    assert greedy[0].component == greedy[1].component != 0
    assert [plan.rung for plan in greedy] == [Rung.GREEDY, Rung.GREEDY]
    assert [len(plan.legs) for plan in greedy] == [1, 2]
    final = concluded(planner, greedy)
    assert [plan.rung for plan in final] == [Rung.EXACT, Rung.EXACT]
    assert [[leg.node for leg in plan.legs] for plan in final] == [[1], [0]]
    assert total(final) < total(greedy)
    record = decode(final[0].record)
    assert record.gap[0] == record.gap[1] == total(final)
    assert [leg.node for leg in legs_of(record)] == [1]
    assert next(candidates_of(record)).node == 1


def test_an_answer_dearer_than_the_greedy_plans_is_an_error(planner_settings: Settings) -> None:
    state = a_world({(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 2): 1}, nodes=3)
    planner = SolverPlanner(state, planner_settings)
    plans = planner.plan([a_request(1, {0: 1}), a_request(2, {0: 1, 1: 1})], now_ms=NOW_MS)
    problem = unpack_arrays(planner.component_problem(plans[0].component))
    starts, ends = problem.ptr[:-1].tolist(), problem.ptr[1:].tolist()
    dearest = [max(range(a, b), key=problem.cost.__getitem__) - a for a, b in zip(starts, ends, strict=True)]
    cost = sum(int(problem.cost[a + n]) for a, n in zip(starts, dearest, strict=True))
    assert cost > total(plans)
    with pytest.raises(AssertionError, match="dearer than the greedy"):
        planner.improved(plans[0].component, pack_answer(JointAnswer(dearest, cost, cost, 0, 1)))


def test_without_an_answer_the_greedy_plans_stand_and_say_so(planner_settings: Settings) -> None:
    state = a_world({(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 2): 1}, nodes=3)
    state.view_points[1] = (2, 77)
    planner = SolverPlanner(state, planner_settings)
    greedy = planner.plan([a_request(1, {0: 1}), a_request(2, {0: 1, 1: 1})], now_ms=NOW_MS)
    final = concluded(planner, greedy, solve=False)
    assert [plan.legs for plan in final] == [plan.legs for plan in greedy]
    assert {(plan.rung, plan.component) for plan in final} == {(Rung.GREEDY, 0)}
    record = decode(final[1].record)
    score, bound, orders, *_ = record.gap
    assert (score, orders, record.views) == (total(greedy), 2, [1, 2, 77]) and bound < score
    with pytest.raises(KeyError):
        planner.improved(greedy[0].component, None)


def test_who_gets_the_last_unit_is_settled_by_place_in_the_batch(planner_settings: Settings) -> None:
    planner = SolverPlanner(a_world({(0, 0): 1}), planner_settings)
    plans = concluded(planner, planner.plan([a_request(n, {0: 1}) for n in range(5)], now_ms=NOW_MS))
    assert [bool(plan.legs) for plan in plans] == [True, False, False, False, False]
    assert plans[1].unfilled == [(0, 1, "out_of_stock")]
    assert plans[0].rung == Rung.SEPARABLE


def test_with_no_room_at_the_solver_nothing_is_enumerated(planner_settings: Settings) -> None:
    state = a_world({(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 2): 1}, nodes=3)
    planner = SolverPlanner(state, planner_settings.model_copy(update={"solver_in_flight_max": 0}))
    plans = planner.plan([a_request(1, {0: 1}), a_request(2, {0: 1, 1: 1})], now_ms=NOW_MS)
    assert {plan.component for plan in plans} == {0}
    assert plans[1].rung == Rung.GREEDY


@pytest.mark.parametrize("seed", range(60))
def test_a_joint_plan_is_feasible_and_never_dearer(seed: int, planner_settings: Settings) -> None:
    rng = Random(seed)
    nodes, items = rng.randint(2, 5), rng.randint(1, 4)
    stock = {(i, n): rng.choice((0, 1, 2, 3)) for i in range(items) for n in range(nodes)}
    state = a_world(stock, nodes=nodes, items=items)
    planner = SolverPlanner(state, planner_settings)
    requests = [
        a_request(
            n,
            {item: rng.randint(1, 2) for item in rng.sample(range(items), rng.randint(1, items))},
            lon=rng.choice((-74.0, -78.0, -84.0)),
            on_short=rng.choice((OnShort.REFUSE, OnShort.PARTIAL)),
        )
        for n in range(rng.randint(2, 8))
    ]
    greedy = planner.plan(requests, now_ms=NOW_MS)
    final = concluded(planner, greedy)
    assert total(final) <= total(greedy)
    taken: dict[tuple[int, int], int] = {}
    for request, before, plan in zip(requests, greedy, final, strict=True):
        assert plan.unfilled == before.unfilled
        assert sum(u for leg in plan.legs for _, u in leg.lines) == sum(u for leg in before.legs for _, u in leg.lines)
        for leg in plan.legs:
            for i, units in leg.lines:
                key = (request.lines[i].item, leg.node)
                taken[key] = taken.get(key, 0) + units
        if plan.rung == Rung.EXACT:
            record = decode(plan.record)
            assert record.gap[0] == record.gap[1] and record.scope == 1
    assert all(units <= stock.get(key, 0) for key, units in taken.items())


def all_ways(reference: Reference, request: PlanRequest) -> list[tuple[int, dict[tuple[int, int], int]]]:
    """(score, takes) of every way to give the lines of an order to at most three nodes."""
    channel = reference.catalog.channels[0]
    assert channel is not None
    ways = []
    for nodes in itertools.product(range(len(reference.catalog.nodes)), repeat=len(request.lines)):
        if len(set(nodes)) > request.max_legs or reference.rules.banned & set(nodes):
            continue
        score = 0
        for n in sorted(set(nodes)):
            goods = [(line, line.quantity) for line, node in zip(request.lines, nodes, strict=True) if node == n]
            leg = reference.leg(request.order, channel, n, goods, 0)
            if leg is None:
                break
            score += leg.score
        else:
            takes = {(line.item, node): line.quantity for line, node in zip(request.lines, nodes, strict=True)}
            ways.append((score, takes))
    return ways


@pytest.mark.parametrize("seed", range(40))
def test_an_exact_batch_is_the_joint_optimum(seed: int, planner_settings: Settings) -> None:
    """Against plain enumeration of all ways of all orders, where all of them are served; half of them with rules and prices."""
    rng = Random(1_000 + seed)
    nodes, items = 3, 2
    stock = {(i, n): rng.choice((0, 1, 2, 2)) for i in range(items) for n in range(nodes)}
    requests = [
        a_request(
            n,
            dict.fromkeys(rng.sample(range(items), rng.randint(1, items)), 1),
            lon=rng.choice((-74.0, -78.0, -84.0)),
        )
        for n in range(3)
    ]
    state = a_world(stock, nodes=nodes, items=items)
    rules, prices = Rules(), dict[tuple[int, int], int]()
    if seed % 2:
        rules, prices = money_rules(rng, nodes), position_prices(rng, list(stock))
    planner = RuledPlanner(state, planner_settings, [rules], prices)
    final = concluded(planner, planner.plan(requests, now_ms=NOW_MS))
    reference = Reference(state.catalog, stock, NOW_MS, prices)
    reference.rules = rules
    served = [n for n, plan in enumerate(final) if plan.legs]
    best = None
    for chosen in itertools.product(*(all_ways(reference, requests[n]) for n in served)):
        asked: dict[tuple[int, int], int] = {}
        for _, takes in chosen:
            for key, units in takes.items():
                asked[key] = asked.get(key, 0) + units
        if all(units <= stock.get(key, 0) for key, units in asked.items()):
            score = sum(score for score, _ in chosen)
            best = score if best is None else min(best, score)
    assert best is not None and total(final) >= best
    if all(final[n].rung in (Rung.SEPARABLE, Rung.EXACT) for n in served):
        assert total(final) == best
    else:
        assert any(plan.rung == Rung.GREEDY for plan in final)
