"""Compiling configuration: tags to bits, levels, countries, calendars shared, items by category."""

from __future__ import annotations

from solvers import layout as at
from solvers.calendar import CalendarSpec
from solvers.network import NOBODY, TAG_BITS, Compiled, ItemSpec, ItemTable, NodeSpec, PolicySpec, ServiceSpec
from solvers.tariff import CardSpec


def a_node(**fields: object) -> NodeSpec:
    plain = NodeSpec(40.0, -74.0, True, ("ship",), None, {"": CalendarSpec()})
    return plain._replace(**fields)


def a_service(name: str = "s", **fields: object) -> ServiceSpec:
    card = CardSpec(0, (1_000,), ((500,), (700,)))
    plain = ServiceSpec(0, name, ("standard",), (100, 200, 300), (1, 2), 31, None, 5_000, 1, 1, 0, (), (card,))
    return plain._replace(**fields)


def test_tags_become_bits_and_unknown_ones_a_bit_that_nobody_has() -> None:
    compiled = Compiled([a_node(offers=("ship", "cold", "hazmat"))], ["web"], [a_service(tags=("cold", "export"))])
    cold, hazmat, export = (compiled.need([tag]) for tag in ("cold", "hazmat", "export"))
    assert len({cold, hazmat, export}) == 3
    assert compiled.need(["cold", "hazmat"]) == cold | hazmat
    assert compiled.need(["glowing"]) == NOBODY
    node = compiled.atlas[at.M_NODES]
    assert compiled.atlas[node + at.N_OFFER] == cold | hazmat
    service = compiled.atlas[at.M_SERVICES]
    assert compiled.atlas[service + at.S_TAGS] == cold | export
    many = Compiled([a_node(offers=("ship", *(f"t{n}" for n in range(TAG_BITS + 1))))], ["web"], [])
    assert many.need([f"t{TAG_BITS - 1}"]) == 1 << TAG_BITS - 1 and many.need([f"t{TAG_BITS}"]) == NOBODY


def test_levels_and_countries_name_their_services() -> None:
    compiled = Compiled(
        [a_node()],
        ["web"],
        [a_service("a"), a_service("b", levels=("standard", "express"), countries=("US", "CA")), a_service("c")],
    )
    first, count = compiled.level_of["standard"]
    start = compiled.atlas[at.M_LEVELS]
    assert compiled.atlas[start + first : start + first + count].tolist() == [0, 1, 2]
    assert compiled.level_of["express"][1] == 1
    serves = compiled.atlas[compiled.atlas[at.M_SERVES] :].tolist()
    assert serves[:3] == [1, 0, 1]  # a country that nobody names
    canada = compiled.country_of["CA"]
    assert serves[3 * canada : 3 * canada + 3] == [1, 1, 1]


def test_short_rows_of_a_service_go_on_with_their_last_value() -> None:
    compiled = Compiled([a_node()], ["web"], [a_service()])
    m = compiled.atlas
    service = m[at.M_SERVICES]
    arrivals = m[m[service + at.S_ARRIVAL] :][:3].tolist()
    assert arrivals == [1, 2, 2]  # shipped on a Monday
    floors = m[m[service + at.S_FLOORS] :][:3].tolist()
    assert floors == [500, 700, 700]


def test_equal_calendars_are_kept_once() -> None:
    late = CalendarSpec(cut_off_minute=1_000)
    nodes = [a_node(), a_node(calendars={"": CalendarSpec(), "s": late}), None, a_node(calendars={"": late})]
    compiled = Compiled(nodes, ["web"], [a_service("s"), a_service("t")])
    start = compiled.atlas[at.M_CALENDAR_OF]
    rows = compiled.atlas[start : start + 12].reshape(4, 3).tolist()
    assert rows == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert len(compiled.calendars.options) == 2


def test_refreshing_rewrites_the_calendars_in_place() -> None:
    compiled = Compiled([a_node()], ["web"], [a_service()])
    atlas = compiled.atlas
    compiled.refresh(1_790_000_000_000)
    first = atlas[atlas[at.M_OPTIONS]]
    compiled.refresh(1_790_000_000_000 + 7 * 86_400_000)
    assert compiled.atlas is atlas and atlas[atlas[at.M_OPTIONS]] == first + 7
    assert atlas[at.M_NOW] == 1_790_000_000_000 + 7 * 86_400_000


def test_the_default_policy_is_neutral_and_a_ban_is_beyond_all_money() -> None:
    compiled = Compiled([a_node(), a_node()], ["web"], [], [PolicySpec(), PolicySpec({0: -50}, frozenset({1}), 2)])
    m = compiled.atlas
    rows = m[m[at.M_POLICY] :][: 2 * at.POLICY_COLUMNS].reshape(2, at.POLICY_COLUMNS)
    assert rows[:, at.Y_NEUTRAL].tolist() == [1, 0] and rows[:, at.Y_MAX_LEGS].tolist() == [16, 2]
    assert m[m[at.M_POLICY_NODE] :][:4].tolist() == [0, 0, -50, at.LIMIT]
    assert rows[:, at.Y_BANS].tolist() == [0, 1]
    money = Compiled([a_node()], ["web"], [], [PolicySpec({0: 5}), PolicySpec({0: at.LIMIT})]).atlas
    rows = money[money[at.M_POLICY] :][: 2 * at.POLICY_COLUMNS].reshape(2, at.POLICY_COLUMNS)
    assert rows[:, at.Y_BANS].tolist() == [0, 1], "as much money is a ban too"


def test_who_keeps_units_back_is_known_by_method() -> None:
    def keeps(**safety: int) -> Compiled:
        return Compiled([None, a_node(), a_node(safety_by_method=safety)], ["web"], [])

    assert keeps().atlas[at.M_KEEPS_BACK] == keeps(ship=0).atlas[at.M_KEEPS_BACK] == 0
    assert keeps(ship=1).atlas[at.M_KEEPS_BACK] == 1
    compiled = keeps(pickup=2, ship_to_store=1)
    assert compiled.atlas[at.M_KEEPS_BACK] == 0b110
    compiled.keep_back(True)
    assert compiled.atlas[at.M_KEEPS_BACK] == 0b110 | at.KEEPS_STALE
    compiled.keep_back(False)
    assert compiled.atlas[at.M_KEEPS_BACK] == 0b110


def test_items_without_a_weight_follow_their_category_whatever_the_order_of_changes() -> None:
    def spec(weight_g: int | None, category: str = "tea") -> ItemSpec:
        return ItemSpec(weight_g, 0, False, (), 0, category)

    table = ItemTable()
    table.put(0, spec(None), 0)
    table.put(1, spec(100), 0)
    table.put(2, spec(300), 0)
    table.put(3, spec(None, "coffee"), 0)
    table.settle()
    assert table.rows[:4, at.I_WEIGHT].tolist() == [200, 100, 300, 500]
    table.put(2, spec(500), 0)
    table.put(1, spec(None), 0)
    table.put(700, spec(900, "coffee"), 0)
    table.settle()
    assert table.rows[:4, at.I_WEIGHT].tolist() == [500, 500, 500, 900]
    assert table.rows[1, at.I_FLAGS] == at.ITEM_ASSUMED and table.rows[700, at.I_FLAGS] == 0
