"""Columns of the flat tables that the kernel reads and writes, all int64 unless said otherwise, and how they travel together.

Flat integer tables instead of objects: the compiled code reads them without the interpreter, and the same integers always give
the same plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]

LIMIT = 1_000_000_000_000_000
"""Money, weights and volumes saturate here (10^15), so that no sum or product leaves int64."""
NEVER = 2_000_000_000_000_000_000
"""A score that no plan reaches; four of them still fit int64."""
NO_DAY = -1
NO_PROMISE = 1 << 40
"""A promise day that no delivery misses."""

CANDIDATES_MAX = 64
GROUPS_EXACT = 6
"""Orders of up to so many groups are enumerated; larger ones are covered greedily."""
LEGS_EXACT = 3
LEGS_MAX = 16
"""Most legs of any plan."""
RECORD_CANDIDATES = 8

# nodes[node, ...]
N_ZONE, N_OFFER, N_LINE, N_UNIT, N_SURCHARGE, N_CAP_KIND, N_CAP_DAY, N_CAP_HARD, N_CAP_OVER = range(9)
N_SAFETY = 9
"""Three columns: least safety for ship, pickup, ship to store."""
NODE_COLUMNS = 12
CAP_NONE, CAP_ORDERS, CAP_LINES, CAP_UNITS = range(4)

# flags[channel, node] (uint8)
F_ON, F_SHIP, F_PICKUP, F_STORE, F_CHANNEL = 1, 2, 4, 8, 16

# stale[node] (uint8)
FRESH, STALE_EXCLUDED, STALE_SAFETY = 0, 1, 2

# services[service, ...]
(
    S_CODE,
    S_BANDS,
    S_BAND_COUNT,
    S_TRANSIT,
    S_DAYS,
    S_DIVISOR,
    S_MAX_G,
    S_MAX_MM3,
    S_OVERSIZE_G,
    S_TAGS,
    S_CARDS,
    S_CARD_COUNT,
) = range(12)
SERVICE_COLUMNS = 12

# a rate card inside the pool, at its offset
(C_FROM, C_BREAKS, C_MINIMUM, C_FUEL_BP, C_RESIDENTIAL, C_OVERSIZE, C_PEAK, C_PRICES, C_FLOORS, C_RATES) = range(10)
CARD_HEADER = 10
"""Then the breaks, prices by zone and break, floor by zone, rate per kg by zone; C_PRICES, C_FLOORS, C_RATES are offsets."""

# items[item, ...]
I_WEIGHT, I_VOLUME, I_FLAGS, I_NEED, I_VALUE = range(5)
ITEM_COLUMNS = 5
ITEM_ALONE, ITEM_ASSUMED = 1, 2

# options[calendar, n, ...]
P_DAY, P_SHIP_BY, P_ORDER_BY = range(3)

# policy[policy, ...]: neutral = weights of 10,000, no least leg value, no cap on legs
(
    Y_NEUTRAL,
    Y_MAX_LEGS,
    Y_LEG_VALUE,
    Y_W_PARCELS,
    Y_W_LINES,
    Y_W_UNITS,
    Y_W_SURCHARGE,
    Y_W_LATE,
    Y_W_TRANSIT,
    Y_W_OPPORTUNITY,
) = range(10)
POLICY_COLUMNS = 10

# orders[part, ...]: an order is one part, or several where its lines differ in method or store
(
    O_LAST,
    O_DEST,
    O_COUNTRY,
    O_CHANNEL,
    O_LEVEL,
    O_LEVEL_COUNT,
    O_RESIDENTIAL,
    O_READY_MS,
    O_PROMISE_DAY,
    O_LATE_MINOR,
    O_TRANSIT_BP,
    O_MAX_LEGS,
    O_ATOMIC,
    O_METHOD,
    O_HOME,
    O_ONLY_HOME,
    O_LINE,
    O_LINE_COUNT,
    O_EXCLUDED,
    O_EXCLUDED_COUNT,
    O_POLICY,
) = range(21)
ORDER_COLUMNS = 21

# lines[line, ...]
L_ITEM, L_UNITS, L_VALUE, L_GROUP, L_SPLIT, L_NEED = range(6)
LINE_COLUMNS = 6

# legs[leg, ...]; the first fourteen are also what pricing a leg fills in
(
    G_SCORE,
    G_SERVICE,
    G_PARCELS,
    G_SHIP_DAY,
    G_SHIP_BY,
    G_DELIVER_DAY,
    G_CASH,
    G_CASH_LINES,
    G_CASH_UNITS,
    G_CASH_SURCHARGE,
    G_LATE,
    G_TRANSIT,
    G_POLICY,
    G_OPPORTUNITY,
    G_CAP_UNITS,
    G_DELIVER_BY,
    G_DAYS,
    G_NODE,
    G_LINE,
    G_LINE_COUNT,
    G_KM,
) = range(21)
LEG_COLUMNS = 21

# leg_lines[n, ...]
K_LINE, K_UNITS, K_ROW = range(3)

# unfilled[n, ...]
U_LINE, U_UNITS, U_REASON = range(3)
OUT_OF_STOCK, NO_NODE, MAX_LEGS, NO_CAPACITY = range(4)

# parts[part, ...]: what came of it
(
    R_LEG,
    R_LEG_COUNT,
    R_UNFILLED,
    R_UNFILLED_COUNT,
    R_SCOPE,
    R_COLLIDED,
    R_REFUSED,
    R_RUNNER_LEGS,
    R_RUNNER_NODE,
    R_RUNNER_NODE_2,
    R_RUNNER_NODE_3,
    R_RUNNER_CASH,
    R_RUNNER_SERVICE,
    R_RUNNER_POLICY,
    R_RUNNER_OPPORTUNITY,
    R_CANDIDATE,
    R_CANDIDATE_COUNT,
    R_SEEN,
    R_CONSIDERED,
    R_ASSUMED,
    R_SCORE,
    R_BLOCKED,
) = range(22)
"""From R_BLOCKED on: nodes that hold units of the part and may not serve it, by reason."""
B_SWITCH, B_EXCLUDED, B_STALE, B_REACH, B_POLICY, B_TAGS = range(6)
BLOCKS = 6
PART_COLUMNS = R_BLOCKED + BLOCKS

# what a candidate came to
V_CHOSEN, V_DEARER, V_SHORT, V_NO_SERVICE, V_FULL, V_PART = range(6)
"""Chosen (a = leg) | dearer alone (parts = difference to the chosen plan) | short of line a, which has b units | no carrier
service takes the goods there | no capacity | its part of a dearer split."""

SCOPE_SPLITS, SCOPE_COLUMNS = 0, 1
"""All ways to give groups to at most three of the candidates | only the columns that the search built."""

# candidates[n, ...]
V_NODE, V_KM, V_CODE, V_A, V_B, V_CASH, V_SERVICE, V_POLICY, V_OPPORTUNITY = range(9)
CANDIDATE_COLUMNS = 9


class Network(NamedTuple):
    """What configuration says, compiled. `km[destination, node]` int16, -1 = the node is not on the map."""

    nodes: I64
    flags: U8
    calendar_of: I32
    services: I64
    pool: I64
    level_services: I32
    serves: U8
    """[country, service] 1 = delivers there."""
    items: I64
    policy: I64
    policy_node: I64
    """[policy, node] money; LIMIT and above = never this node."""


class Calendar(NamedTuple):
    """Ship days from now on. `options[calendar, n]` = (local day, ship by ms, order before ms); day NO_DAY ends a row."""

    options: I64
    midnight: I64
    """[time zone, n] instant (ms) at which local day `base_day + n` ends."""
    base_day: int


class Stock(NamedTuple):
    """The position columns (engine.domain.positions). `prices` = opportunity money per unit by row, empty = none."""

    offset: I64
    head: I32
    node: I32
    next: I32
    on_hand: I32
    held: I32
    allocated: I32
    safety: I32
    claimed: I32
    fenced: I32
    prices: I32


class Load(NamedTuple):
    """Capacity given away: `used[node, day % days]` where `day[...]` matches; `taken` likewise, by this batch."""

    used: I32
    day: I32
    taken: I32
    stale: U8


class Batch(NamedTuple):
    orders: I64
    lines: I64
    excluded: I32
    km: I16
    """[destination, node]"""
    candidates: int
    reach_km: int


class Outcome(NamedTuple):
    parts: I64
    legs: I64
    leg_lines: I64
    unfilled: I64
    candidates: I64
    count: I64
    """Legs, leg lines, unfilled, candidates in use."""
