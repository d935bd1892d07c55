"""The judges of long runs: they see what grew, what the books say, and draw what they saw."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from loadtests.chaos_checks import compare_books
from loadtests.chaos_day import Plan, as_text
from loadtests.chaos_watch import MIB, level, plot
from loadtests.ledger import Ledger
from loadtests.svg_plot import Panel, chart

_SVG = "{http://www.w3.org/2000/svg}"


def sample(at_s: float, pss_mib: int, *, complete: bool = True) -> dict[str, object]:
    counts = ("open_orders", "orders", "dedupe", "journal", "archive_lag", "index_lag", "archive_bytes", "index_bytes")
    return {
        "at_s": at_s,
        "complete": complete,
        "pss": {"shard-0": pss_mib * MIB},
        "redis": 5 * MIB,
        "dedupe_window_h": 24.0,
        **dict.fromkeys(counts, 7),
    }


def test_growth_is_seen_over_the_noise_and_a_restart_is_none() -> None:
    noise = (0, 3, -3, 1, -1)
    flat = level([(s, 1_000 + noise[s % 5] - 400 * (50 < s < 70)) for s in range(100)], 50)
    grows = level([(s, 1_000 + 4 * s + noise[s % 5]) for s in range(100)], 50)
    assert abs(flat.growth) < 0.01
    assert grows.growth == pytest.approx(1_390 / 1_190 - 1, rel=0.1)


def test_a_half_without_samples_says_nothing() -> None:
    seen = level([(0, 1), (1, 100)], 50)
    assert (seen.points, seen.second) == (0, 0.0)


def test_books_that_differ_are_named_and_equal_ones_are_not() -> None:
    ledger = Ledger()
    ledger.stock([(("N-0", "SKU-1"), 5), (("N-0", "SKU-2"), 4)])
    ledger.promise([{"state": "allocated", "node_id": "N-0", "lines": [{"sku": "SKU-1", "quantity": 2}]}])
    assert compare_books(ledger, {("N-0", "SKU-1"): (5, 1, 1), ("N-0", "SKU-2"): (4, 0, 0)}) == []
    (lost,) = compare_books(ledger, {("N-0", "SKU-1"): (5, 0, 0), ("N-0", "SKU-2"): (4, 0, 0)})
    assert "SKU-1 at N-0" in lost and "2 promised" in lost
    (unknown,) = compare_books(ledger, {("N-0", "SKU-1"): (5, 0, 2)})
    assert "SKU-2 at N-0" in unknown


def test_a_week_in_ten_minutes_is_a_thousand_times_as_fast() -> None:
    assert Plan("soak", "", minutes=10.08, hours=168, rate_per_s=1).speed == 1_000
    assert Plan("day", "", minutes=60, hours=24, rate_per_s=1).speed == 24


def test_a_plot_has_every_process_and_every_kill_and_leaves_out_half_samples() -> None:
    samples = [sample(0, 100), sample(10, 900, complete=False), sample(20, 110), sample(30, 105)]
    kills = [{"at_s": 10.0, "role": "shard-0", "back_s": 3.0}]
    tree = ElementTree.fromstring(plot({"speed": 360, "samples": samples, "kills": kills}, "a <day>"))
    texts = [element.text for element in tree.iter(_SVG + "text")]
    assert "a <day>" in texts and "shard-0" in texts
    lines = list(tree.iter(_SVG + "polyline"))
    assert {len((line.get("points") or "").split()) for line in lines} == {3}
    marks = [line for line in tree.iter(_SVG + "line") if line.get("stroke") == "#f3c6c6"]
    panels = [text for text in texts if text and text.endswith(")") and " (" in text]
    assert len(marks) == len(panels) == 8


@pytest.mark.parametrize("kills", [[], [{"at_s": 1.0}], [{"at_s": 1.0}, {"at_s": 2.0}]])
def test_a_result_is_written_as_it_is(kills: list[dict[str, float]]) -> None:
    result = {"holds": True, "kills": kills, "memory": {"all": {"points": 3}}, "samples": [sample(0, 1), sample(1, 1)]}
    assert json.loads(as_text(result)) == result


def test_a_chart_of_one_point_is_a_chart() -> None:
    made = ElementTree.fromstring(chart("one", "x", [Panel("p", "u", {"l": [(1.0, 0.0)]})]))
    texts = [text.strip() for text in made.itertext()]
    assert "one" in texts
    assert any(text.startswith("p") for text in texts), "the panel is named"
