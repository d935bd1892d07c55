"""Tariffs: the under-estimate never above the tariff, parcels that fit, prices against a plain reading of the card."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.layout import LIMIT
from solvers.tariff import (
    CardSpec,
    billable,
    card_at,
    card_errors,
    pack_card,
    pack_cards,
    parcel_minor,
    tariff,
    times,
    under_estimate,
)

money = st.integers(0, 10_000)
grams = st.integers(0, 500_000)


@st.composite
def cards(draw: st.DrawFn) -> CardSpec:
    breaks = tuple(sorted(draw(st.sets(st.integers(1, 60_000), min_size=1, max_size=6))))
    rows = draw(st.lists(st.lists(money, min_size=1, max_size=len(breaks)), min_size=1, max_size=4))
    return CardSpec(
        draw(st.integers(0, 30_000)),
        breaks,
        tuple(tuple(row) for row in rows),
        draw(money),
        draw(st.integers(0, 20_000)),
        draw(money),
        draw(money),
        draw(money),
    )


@settings(max_examples=300, deadline=None)
@given(
    card=cards(),
    weight=grams,
    volume=st.integers(0, 10**10),
    divisor=st.integers(1, 10_000),
    max_g=st.integers(1, 60_000),
    max_mm3=st.integers(1, 10**9),
    oversize_g=st.integers(0, 50_000),
    residential=st.integers(0, 1),
    zone=st.integers(0, 3),
)
def test_the_tariff_reads_the_card_and_the_under_estimate_stays_below(
    card: CardSpec,
    weight: int,
    volume: int,
    divisor: int,
    max_g: int,
    max_mm3: int,
    oversize_g: int,
    residential: int,
    zone: int,
) -> None:
    pool: list[int] = [7]
    at = pack_card(pool, card, zones=4)
    m = np.array(pool, np.int64)
    price, parcels = tariff(m, at, zone, divisor, max_g, max_mm3, oversize_g, residential, weight, volume)
    assert under_estimate(m, at, zone, divisor, weight, volume) <= price

    total = max(weight, ceil(Fraction(volume, divisor)))
    assert billable(weight, volume, divisor) == total
    assert parcels == max(
        1,
        ceil(Fraction(weight, max_g)),
        ceil(Fraction(volume, max_mm3)),
        ceil(Fraction(total, card.breaks_g[-1])),
    )
    each = ceil(Fraction(total, parcels))
    place = next(i for i, upper in enumerate(card.breaks_g) if each <= upper)
    row = card.prices_minor[min(zone, len(card.prices_minor) - 1)]
    base = max(row[min(place, len(row) - 1)], card.minimum_minor)
    one = base + floor(Fraction(base * card.fuel_bp, 10_000) + Fraction(1, 2)) + card.peak_minor
    one += card.residential_minor if residential else 0
    one += card.oversize_minor if oversize_g and each >= oversize_g else 0
    assert parcel_minor(m, at, zone, oversize_g, residential, each) == one
    assert price == one * parcels


@given(days=st.lists(st.integers(0, 100), min_size=1, max_size=5, unique=True), day=st.integers(0, 100))
def test_the_newest_card_in_force_counts(days: list[int], day: int) -> None:
    pool: list[int] = []
    offsets, count = pack_cards(pool, [CardSpec(d, (1_000,), ((d,),)) for d in days], zones=1)
    m = np.array(pool, np.int64)
    found = parcel_minor(m, card_at(m, offsets, count, day), 0, 0, 0, 1)
    in_force = [d for d in days if d <= day]
    assert found == (max(in_force) if in_force else min(days))


@given(a=st.integers(0, 2**62), b=st.integers(0, 2**62))
def test_products_saturate(a: int, b: int) -> None:
    assert times(a, b) == min(a * b, LIMIT)


def test_a_card_says_what_is_wrong_with_it() -> None:
    assert card_errors(CardSpec(0, (1_000, 500), ((1,),))) == ["weight breaks must go up"]
    assert card_errors(CardSpec(0, (500,), ((1,), ()))) == ["every zone needs a price"]
    assert card_errors(CardSpec(0, (500,), ((1,),))) == []
