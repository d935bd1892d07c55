"""The planner against plain enumeration: orders of up to six lines over up to five nodes, batches on one stock.

In half of the worlds orders have rules (bans, money of nodes, weights, caps) and positions prices, which nothing sets yet.
"""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from engine.actors.planner import SolverPlanner
from engine.domain.catalog import Catalog
from engine.domain.config import Carrier, CarrierService, NodeCapacity, RateCard
from engine.domain.decisions import decode, legs_of
from engine.domain.orders import Destination, LineRecord, OnShort, Rung
from engine.domain.plan import Plan, PlanRequest
from engine.domain.state import ShardState
from engine.settings import Settings
from solvers import layout as at
from tests.builders import NOW_MS, a_catalog, a_channel, a_line, a_node, an_item, an_order
from tests.property.ruled_planner import RuledPlanner, all_rules, money_rules, position_prices
from tests.property.solvers_reference import Reference, Rules

ZONES = ("America/New_York", "America/Los_Angeles", "Europe/Berlin", "UTC")
MAX_LEGS = 3
CHUNKS = 8
SEEDS = 60


def cards(rng: Random, zones: int) -> RateCard:
    breaks = rng.choice([[500], [500, 2_000], [300, 1_000, 5_000], [1_000, 30_000]])
    prices = [[rng.randint(100, 2_000) for _ in breaks] for _ in range(zones)]
    if rng.random() < 0.6:  # as real cards: dearer by zone and by weight
        by_break = [sorted(row) for row in prices]
        prices = [list(row) for row in zip(*[sorted(column) for column in zip(*by_break, strict=True)], strict=True)]
    return RateCard(
        effective_from=rng.choice(["1970-01-01", "2026-09-23", "2026-10-01"]),
        break_g=breaks,
        price_minor=prices,
        minimum_minor=rng.choice([0, 300]),
        fuel_bp=rng.choice([0, 725]),
        residential_minor=rng.choice([0, 150]),
        oversize_minor=rng.choice([0, 900]),
        peak_minor=rng.choice([0, 35]),
    )


def services(rng: Random, n: int) -> CarrierService:
    bands = rng.choice([[9_000], [300, 9_000], [150, 600, 9_000], [100, 500, 2_000]])
    return CarrierService(
        service_id=f"s{n}",
        levels=rng.choice([("standard",), ("standard", "express")]),
        band_km=bands,
        transit_days=[rng.randint(0, 5) for _ in bands],
        delivery_days=rng.choice([(0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), (6,)]),
        divisor_mm3_per_g=rng.choice([5_000, 6_000]),
        max_parcel_g=rng.choice([1_000, 30_000]),
        max_parcel_mm3=rng.choice([3_000_000, 150_000_000]),
        oversize_g=rng.choice([None, 900]),
        tags=rng.choice([[], ["cold"], ["cold"]]),
        cards=[cards(rng, len(bands)) for _ in range(rng.randint(1, 2))],
    )


def worlds(rng: Random, *, least: int = 2, most: int = 5, spread: float = 0.0) -> Catalog:
    """`spread`: degrees that nodes lie off a few places, where several of them are."""
    nodes = [
        a_node(
            f"N-{n}",
            lat=rng.choice([40.0, 41.5, 44.0]) + spread * rng.random(),
            lon=rng.choice([-74.0, -75.5, -80.0, -100.0]) + spread * rng.random(),
            time_zone=rng.choice(ZONES),
            cut_off=rng.choice(["09:30", "15:00", "23:59"]),
            working_days=rng.choice([(0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5, 6), (2, 5)]),
            processing_minutes=rng.choice([0, 90, 3_000]),
            waves=rng.choice([[], ["08:00", "12:00"]]),
            handling_line_minor=rng.choice([0, 25]),
            handling_unit_minor=rng.choice([0, 10]),
            surcharge_minor=rng.choice([0, 0, 400]),
            offers=rng.choice([("ship",), *[("ship", "cold")] * 6, ("pickup",)]),
            channels=rng.choice([*[None] * 9, ["other"]]),
            state=rng.choice([*["on"] * 9, "drain"]),
            capacity=rng.choice(
                [
                    *[None] * 6,
                    NodeCapacity(unit="orders", per_day=1),
                    NodeCapacity(unit="units", per_day=4),
                    NodeCapacity(unit="lines", per_day=2, hard=False, over_price_minor=120),
                ]
            ),
        )
        for n in range(rng.randint(least, most))
    ]
    items = [
        an_item(
            f"SKU-{n}",
            weight_g=rng.choice([50, 400, 1_500]),
            length_mm=rng.choice([None, 100, 300]),
            width_mm=100,
            height_mm=150,
            ship_alone=rng.choice([False, False, False, True]),
            tags=rng.choice([*[[]] * 7, ["cold"]]),
            unit_value_minor=rng.choice([0, 1_200]),
        )
        for n in range(rng.randint(2, 6))
    ]
    carrier = Carrier(carrier_id="acme", services=[services(rng, n) for n in range(rng.randint(1, 3))])
    channel = a_channel(promise_days=rng.choice([{}, {"standard": 2}]), late_day_minor=rng.choice([0, 500]))
    return a_catalog(documents=[channel, carrier, *items, *nodes])


def stock_up(state: ShardState, units: dict[tuple[int, int], int]) -> None:
    for (item, node), count in sorted(units.items()):
        state.positions.v_on_hand[state.positions.ensure(item, node)] = count


def batches(rng: Random, items: int) -> list[PlanRequest]:
    requests = []
    for n in range(rng.randint(1, 3)):
        count = rng.randint(1, items)
        skus = rng.sample(range(items), count) if rng.random() < 0.8 else rng.choices(range(items), k=count)
        lines = [
            a_line(
                f"SKU-{skus[i]}",
                rng.randint(1, 3),
                line_id=str(i),
                unit_price_minor=rng.choice([0, 2_500]),
            )
            for i in range(count)
        ]
        records = [
            LineRecord(
                line.line_id,
                int(line.sku[4:]),
                line.quantity,
                line.unit_price_minor,
                group=rng.choice([0, 0, 0, 0, 1]),
                splittable=rng.random() < 0.5,
                tags=rng.choice([*[()] * 7, ("cold",)]),
            )
            for line in lines
        ]
        order = an_order(
            f"A-{n}",
            lines,
            ship_to=Destination("US", "10001", lat=40.75, lon=-74.0, residential=rng.random() < 0.5),
            on_short=rng.choice([OnShort.REFUSE, OnShort.PARTIAL]),
            ship_after_ms=rng.choice([None, None, NOW_MS + 3 * 86_400_000]),
            promised_by_ms=rng.choice([None, NOW_MS + 2 * 86_400_000]),
        )
        excluded = rng.choice([(), (), (), (0,)])
        requests.append(PlanRequest(order, records, 0, excluded, rng.randint(1, MAX_LEGS)))
    return requests


def without_bounds(planner: SolverPlanner) -> SolverPlanner:
    """A planner that prices every candidate: its policies pass for weighted ones, whose parts nothing bounds; the weights stay 1."""
    planner._refresh(NOW_MS)
    atlas = planner._view.compiled.atlas
    for row in range(atlas[at.M_POLICY], atlas[at.M_POLICY_NODE], at.POLICY_COLUMNS):
        assert atlas[row + at.Y_NEUTRAL] == 1
        atlas[row + at.Y_NEUTRAL] = 0
    return planner


@pytest.mark.parametrize("chunk", range(4))
def test_what_is_not_priced_because_of_a_bound_would_not_have_been_chosen(
    chunk: int, planner_settings: Settings
) -> None:
    """Some dozen nodes, many as far as another: where bounds on parcels leave candidates away."""
    legs = 0
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        rng = Random(f"bounds {seed}")
        catalog = worlds(rng, least=12, most=40, spread=2.0)
        states = ShardState(catalog), ShardState(catalog)
        keys = [(item, node) for item in range(len(catalog.items)) for node in range(len(catalog.nodes))]
        units = {key: rng.choice((0, 2, 12, 12)) for key in keys}
        for state in states:
            stock_up(state, units)
        requests = batches(rng, len(catalog.items))
        rules, prices = [Rules()], dict[tuple[int, int], int]()
        if rng.random() < 0.5:
            rules = [money_rules(rng, len(catalog.nodes)) for _ in range(2)]
            prices = position_prices(rng, keys)
        plans, all_priced = (
            planner.plan(requests, now_ms=NOW_MS)
            for planner in (
                RuledPlanner(states[0], planner_settings, rules, prices),
                without_bounds(RuledPlanner(states[1], planner_settings, rules, prices)),
            )
        )
        for plan, priced in zip(plans, all_priced, strict=True):
            assert (plan.legs, plan.money_minor) == (priced.legs, priced.money_minor), f"seed {seed}"
            legs += len(plan.legs)
    assert legs > SEEDS


def check_feasible(reference: Reference, request: PlanRequest, plan: Plan) -> None:
    """The plan takes what there is, at nodes that may serve, leaves no group in two places and keeps to the caps of the rules."""
    channel = reference.catalog.channels[0]
    assert channel is not None
    taken: dict[tuple[int, int], int] = {}
    got = [0] * len(request.lines)
    where: dict[int, set[int]] = {}
    assert len(plan.legs) <= min(request.max_legs, reference.rules.max_legs)
    assert len({leg.node for leg in plan.legs}) == len(plan.legs)
    for leg in plan.legs:
        assert leg.node not in request.excluded
        worth = 0
        for i, units in leg.lines:
            line = request.lines[i]
            assert units > 0 and reference.may_serve(leg.node, channel, line)
            worth += reference.value(line, units)
            taken[(line.item, leg.node)] = taken.get((line.item, leg.node), 0) + units
            got[i] += units
            where.setdefault(i, set()).add(leg.node)
        assert len(plan.legs) == 1 or worth >= reference.rules.leg_value_minor, "a leg too small to be split off"
    for key, units in taken.items():
        assert units <= reference.stock.get(key, 0)
    left = {i: units for i, units, _ in plan.unfilled}
    for i, line in enumerate(request.lines):
        assert got[i] + left.get(i, 0) == line.quantity or not plan.legs
        assert line.splittable or len(where.get(i, ())) <= 1
    for group in reference.groups(request.lines):
        if len(group) > 1:
            assert len(set().union(*(where.get(i, set()) for i in group))) <= 1
            assert len({got[i] > 0 for i in group}) == 1


def check_money(reference: Reference, request: PlanRequest, plan: Plan) -> None:
    """Every leg's money is what the reference asks for the same goods."""
    channel = reference.catalog.channels[0]
    assert channel is not None
    total = sum(reference.value(line, line.quantity) for line in request.lines)
    cash = service = policy = opportunity = 0
    for leg in plan.legs:
        goods = [(request.lines[i], units) for i, units in leg.lines]
        priced = reference.leg(request.order, channel, leg.node, goods, total)
        assert priced is not None
        assert (leg.service, leg.ship_day, sum(leg.cash_minor)) == (priced.service, priced.ship_day, priced.cash_minor)
        cash += priced.cash_minor
        service += priced.service_minor
        policy += priced.policy_minor
        opportunity += priced.opportunity_minor
    assert plan.money_minor == (cash, service, policy, opportunity)


def take(reference: Reference, request: PlanRequest, plan: Plan) -> None:
    for leg in plan.legs:
        for i, units in leg.lines:
            key = (request.lines[i].item, leg.node)
            reference.stock[key] -= units
        if leg.capacity_units:
            day = (leg.node, leg.ship_day)
            reference.capacity[day] = reference.capacity.get(day, 0) + leg.capacity_units


@pytest.fixture(scope="module")
def planner_settings() -> Settings:
    return Settings()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_plan_is_the_cheapest_way_within_the_scope_that_it_claims(chunk: int, planner_settings: Settings) -> None:
    compared = 0
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        try:
            compared += check_seed(seed, planner_settings)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert compared >= SEEDS // 2, "too few plans claim to be the best of all: the comparison shows nothing"


def check_seed(seed: int, planner_settings: Settings) -> int:
    """Plans that were compared with the brute-force optimum and met it."""
    compared = 0
    rng = Random(seed)
    catalog = worlds(rng)
    state = ShardState(catalog)
    keys = [(item, node) for item in range(len(catalog.items)) for node in range(len(catalog.nodes))]
    units = {key: rng.choice((0, 0, 1, 2, 3, 6, 12)) for key in keys}
    stock_up(state, units)
    twin = ShardState(catalog)
    stock_up(twin, units)
    (state if rng.random() < 0.5 else twin).positions.merge()
    requests = batches(rng, len(catalog.items))
    rules, prices = [Rules()], dict[tuple[int, int], int]()
    if rng.random() < 0.5:
        rules = [all_rules(rng, len(catalog.nodes)) for _ in range(2)]
        prices = position_prices(rng, keys)
    before = state.positions.claimed.copy()
    plans = RuledPlanner(state, planner_settings, rules, prices).plan(requests, now_ms=NOW_MS)
    assert (state.positions.claimed == before).all()
    again = RuledPlanner(twin, planner_settings, rules, prices).plan(requests, now_ms=NOW_MS)
    assert plans == again, "the same stock in another order, another plan"
    reference = Reference(catalog, units, NOW_MS, prices)
    channel = catalog.channels[0]
    assert channel is not None
    limited = any(node.capacity for node in catalog.nodes if node)
    for n, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        reference.rules = rules[n % len(rules)]
        check_feasible(reference, request, plan)
        check_money(reference, request, plan)
        best = reference.best(request.order, channel, request.lines, request.excluded, request.max_legs)
        distinct = len({line.item for line in request.lines}) == len(request.lines)
        if best is not None:
            assert not plan.unfilled
            record = decode(plan.record)
            assert sum(plan.money_minor) >= best
            if record.scope == 0 and distinct:
                assert sum(plan.money_minor) == best
                compared += 1
        elif plan.unfilled and distinct and not (limited or reference.rules.leg_value_minor):
            assert not reference.can_split(request.order, channel, request.lines, request.excluded, request.max_legs)
        if plan.legs:
            assert plan.rung in (Rung.SEPARABLE, Rung.GREEDY)
            packed = decode(plan.record)
            assert [leg.node for leg in legs_of(packed)] == [leg.node for leg in plan.legs]
            fields = list(msgspec.structs.astuple(packed))
            while fields[-1] == []:
                fields.pop()
            assert plan.record == msgspec.msgpack.encode(fields), "not the shortest form"
            assert sum(leg.cash_parcels for leg in legs_of(packed)) == sum(leg.cash_minor[0] for leg in plan.legs)
        take(reference, request, plan)
    return compared
