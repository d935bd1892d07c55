"""What a carrier asks: parcels, billable weight, rate cards. Integers only; the compiled functions are the only arithmetic.

Parcels of a leg      n = max(1, weight / parcel limit, volume / parcel limit, billable / last break), each rounded up;
                      a ship-alone unit is a parcel (or more) of its own
Billable weight       max(weight, volume / divisor), shared evenly by the n parcels, rounded up
One parcel            max(price[zone][break], minimum), + fuel %, + residential, + oversize at the limit, + peak
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from solvers.jit import jit
from solvers.layout import (
    C_BREAKS,
    C_FLOORS,
    C_FROM,
    C_FUEL_BP,
    C_MINIMUM,
    C_OVERSIZE,
    C_PEAK,
    C_PRICES,
    C_RATES,
    C_RESIDENTIAL,
    CARD_HEADER,
    I64,
    LIMIT,
)

RATE_MAX = 100_000
"""Cap of the under-estimate's rate (minor units a kilogram): keeps the product in int64; a lower rate is still one below."""


class CardSpec(NamedTuple):
    """Prices from a day on (days since 1970). `prices[zone][break]`; short rows are continued with their last value."""

    from_day: int
    breaks_g: tuple[int, ...]
    prices_minor: tuple[tuple[int, ...], ...]
    minimum_minor: int = 0
    fuel_bp: int = 0
    residential_minor: int = 0
    oversize_minor: int = 0
    peak_minor: int = 0


def pack_card(pool: list[int], card: CardSpec, *, zones: int) -> int:
    """Append a card to the pool; its offset."""
    at = len(pool)
    breaks = card.breaks_g
    rows = [list(row[: len(breaks)]) + [row[-1]] * (len(breaks) - len(row)) for row in card.prices_minor[:zones]]
    rows += [rows[-1]] * (zones - len(rows))
    prices_at = at + CARD_HEADER + len(breaks)
    floors_at = prices_at + zones * len(breaks)
    pool += (
        card.from_day,
        len(breaks),
        card.minimum_minor,
        card.fuel_bp,
        card.residential_minor,
        card.oversize_minor,
        card.peak_minor,
        prices_at,
        floors_at,
        floors_at + zones,
    )
    pool += breaks
    for row in rows:
        pool += row
    floors = []
    rates = []
    for row in rows:
        parcels = [_plain_parcel(price, card) for price in row]
        floors.append(min(parcels))
        rates.append(min(RATE_MAX, min(p * 1_000 // b for p, b in zip(parcels, breaks, strict=True))))
    pool += floors
    pool += rates
    return at


def _plain_parcel(price: int, card: CardSpec) -> int:
    base = max(price, card.minimum_minor)
    return base + (base * card.fuel_bp + 5_000) // 10_000 + card.peak_minor


def card_errors(card: CardSpec) -> list[str]:
    """What is wrong with a card; a card with errors must not be compiled."""
    errors = []
    if not card.breaks_g or any(b <= a for a, b in zip(card.breaks_g, card.breaks_g[1:], strict=False)):
        errors.append("weight breaks must go up")
    if not card.prices_minor or any(not row for row in card.prices_minor):
        errors.append("every zone needs a price")
    return errors


@jit
def times(a: int, b: int) -> int:
    """Product of two non-negative integers, saturated at LIMIT."""
    if a != 0 and b > LIMIT // a:
        return LIMIT
    return a * b


@jit
def card_at(pool: I64, cards: int, count: int, day: int) -> int:
    """Offset of the newest card in force on a day; before the first one, the first. `pool[cards + n]` go up by day."""
    n = count - 1
    while n > 0 and pool[pool[cards + n] + C_FROM] > day:
        n -= 1
    return int(pool[cards + n])


@jit
def parcel_minor(pool: I64, card: int, zone: int, oversize_g: int, residential: int, billable_g: int) -> int:
    """Price of one parcel. `oversize_g` 0 = no limit."""
    breaks = pool[card + C_BREAKS]
    low = 0
    high = breaks - 1
    while low < high:
        middle = (low + high) >> 1
        if pool[card + CARD_HEADER + middle] < billable_g:
            low = middle + 1
        else:
            high = middle
    base = max(pool[pool[card + C_PRICES] + zone * breaks + low], pool[card + C_MINIMUM])
    price = base + (base * pool[card + C_FUEL_BP] + 5_000) // 10_000 + pool[card + C_PEAK]
    if residential:
        price += pool[card + C_RESIDENTIAL]
    if oversize_g and billable_g >= oversize_g:
        price += pool[card + C_OVERSIZE]
    return int(price)


@jit
def billable(weight_g: int, volume_mm3: int, divisor: int) -> int:
    """Billable weight: the actual or the dimensional one, rounded up."""
    return max(weight_g, (volume_mm3 + divisor - 1) // divisor)


@jit
def tariff(
    pool: I64,
    card: int,
    zone: int,
    divisor: int,
    max_g: int,
    max_mm3: int,
    oversize_g: int,
    residential: int,
    weight_g: int,
    volume_mm3: int,
) -> tuple[int, int]:
    """(price, parcels) of goods packed together."""
    grams = billable(weight_g, volume_mm3, divisor)
    last = pool[card + CARD_HEADER + pool[card + C_BREAKS] - 1]
    if weight_g <= max_g and volume_mm3 <= max_mm3 and grams <= last:  # most legs: no division
        return parcel_minor(pool, card, zone, oversize_g, residential, grams), 1
    parcels = max(1, (weight_g + max_g - 1) // max_g)
    parcels = max(parcels, (volume_mm3 + max_mm3 - 1) // max_mm3)
    parcels = max(parcels, (grams + last - 1) // last)
    each = (grams + parcels - 1) // parcels
    return times(parcels, parcel_minor(pool, card, zone, oversize_g, residential, each)), parcels


@jit
def under_estimate(pool: I64, card: int, zone: int, divisor: int, weight_g: int, volume_mm3: int) -> int:
    """Never above `tariff`: the cheapest parcel, or the best price a kilogram for all grams, whichever is more.

    The second part is additive in goods: parcels * price(grams / parcels) >= grams * min over breaks of price / break.
    """
    grams = billable(weight_g, volume_mm3, divisor)
    rate = pool[pool[card + C_RATES] + zone]
    return int(max(pool[pool[card + C_FLOORS] + zone], times(rate, grams) // 1_000))


def pack_cards(pool: list[int], cards: Sequence[CardSpec], *, zones: int) -> tuple[int, int]:
    """Append the cards of a service and the list of their offsets, oldest first; (offset of the list, count)."""
    offsets = [pack_card(pool, card, zones=zones) for card in sorted(cards, key=lambda c: c.from_day)]
    at = len(pool)
    pool += offsets
    return at, len(offsets)
