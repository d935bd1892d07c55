"""Columns of the flat tables that the kernel reads and writes, all int64 unless said otherwise, and how they travel together.

Flat integer tables instead of objects: the compiled code reads them without the interpreter, and the same integers always give
the same plan. Configuration is one long array (`atlas`) with offsets in its head, scratch is another (`w`) with fixed places:
a compiled call that takes two arrays is several times cheaper, and faster to compile, than one that takes thirty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

LIMIT = 1_000_000_000_000_000
"""Money, weights and volumes saturate here (10^15), so that no sum or product leaves int64."""
NEVER = 2_000_000_000_000_000_000
"""A score that no plan reaches; four of them still fit int64."""
NO_DAY = -1
DAY_MS = 86_400_000
NO_PROMISE = 1 << 40
"""A promise day that no delivery misses."""

CANDIDATES_MAX = 64
STRETCH = 512
"""Positions of an item that are read at once."""
SERVICES_MAX = 32
"""Carrier services of one level; those beyond (in the order of carriers) are not offered."""
GROUPS_EXACT = 6
"""Orders of up to so many groups are enumerated; larger ones are covered greedily."""
LEGS_EXACT = 3
LEGS_MAX = 16
"""Most legs of any plan."""
RECORD_CANDIDATES = 8
OPTIONS = 48
"""Ship days kept ahead: more than two calendar months of working days, as far as capacity looks."""
MIDNIGHTS = 320
"""Local days whose end is tabulated: the ship days ahead plus the longest transit."""

# atlas: offsets of the tables of one configuration, then the tables; rate cards lie among them by their own offsets
(
    M_NODES,
    M_CALENDAR_OF,
    M_SERVICES,
    M_LEVELS,
    M_SERVES,
    M_POLICY,
    M_POLICY_NODE,
    M_OPTIONS,
    M_MIDNIGHT,
    M_BASE_DAY,
    M_NODE_COUNT,
    M_SERVICE_COUNT,
    M_TODAY,
    M_NOW,
    M_KEEPS_BACK,
) = range(15)
ATLAS_HEADER = 15
"""calendar_of[node, service], last column = without a service; levels = services by level; serves[country, service];
policy_node[policy, node] money, LIMIT and above = never; options[calendar, OPTIONS]; midnight[zone, MIDNIGHTS] = instant (ms) at
which local day `base day + n` ends; today[zone] = local day of the instant M_NOW (ms), where the tables were refreshed;
M_KEEPS_BACK: some node keeps more back than its positions say: bit by method that it does so for, KEEPS_STALE = its feed is old."""

KEEPS_STALE = 16

# nodes[node, ...]
N_ZONE, N_OFFER, N_LINE, N_UNIT, N_SURCHARGE, N_CAP_KIND, N_CAP_DAY, N_CAP_HARD, N_CAP_OVER = range(9)
N_SAFETY = 9
"""Three columns: units kept back beyond a position's own safety for ship, pickup, ship to store."""
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
    S_ARRIVAL,
    S_FLOORS,
    S_DIVISOR,
    S_MAX_G,
    S_MAX_MM3,
    S_OVERSIZE_G,
    S_TAGS,
    S_CARDS,
    S_CARD_COUNT,
    S_RISES,
) = range(13)
SERVICE_COLUMNS = 13
"""S_RISES: 1 = one card, whose prices never fall with the zone. S_ARRIVAL: days to the door by weekday of the ship day (0 = Monday) and zone; S_FLOORS: least parcel price by zone."""

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
OPTION_COLUMNS = 3

# policy[policy, ...]: neutral = weights of 10,000, no least leg value, no cap on legs; bans = some node is never to be used
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
    Y_BANS,
) = range(11)
POLICY_COLUMNS = 11

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
L_ITEM, L_UNITS, L_VALUE, L_GROUP, L_SPLIT, L_NEED, L_PLACE = range(7)
LINE_COLUMNS = 7
"""L_PLACE: place of the line in its order, by which the outcome names it."""

# legs[leg, ...]; pricing a leg fills all up to G_DAYS
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

# parts[part, ...]: what came of it; the first nine are what plans are made of
(
    R_LEG,
    R_LEG_COUNT,
    R_UNFILLED,
    R_UNFILLED_COUNT,
    R_SCOPE,
    R_COLLIDED,
    R_SCORE,
    R_RECORD,
    R_RECORD_END,
    R_REFUSED,
    R_CANDIDATE,
    R_CANDIDATE_COUNT,
    R_SEEN,
    R_CONSIDERED,
    R_ASSUMED,
    R_RUNNER_LEGS,
    R_RUNNER_CASH,
    R_RUNNER_SERVICE,
    R_RUNNER_POLICY,
    R_RUNNER_OPPORTUNITY,
    R_RUNNER_NODE,
) = range(21)
R_BLOCKED = R_RUNNER_NODE + LEGS_MAX
PLAN_COLUMNS = 9
"""The record's body is named by the last part of an order. R_RUNNER_NODE: up to LEGS_MAX nodes. From R_BLOCKED on: nodes that hold
units of the part and may not serve it, by reason."""
B_OFF, B_EXCLUDED, B_STALE, B_REACH, B_POLICY, B_TAGS, B_CHANNEL, B_METHOD = range(8)
BLOCKS = 8
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


# goods of a leg: what its units amount to
Q_WEIGHT, Q_VOLUME, Q_VALUE, Q_LINES, Q_UNITS, Q_PACKED, Q_NEED, Q_OPPORTUNITY = range(8)
GOODS_COLUMNS = 8
"""Weight and volume of the units that are packed together (Q_PACKED of them); the others ship alone."""

# alone[n, ...]: lines whose units ship alone, then how many of them are in each leg
A_WEIGHT, A_VOLUME, A_UNITS, A_GROUP = range(4)
A_LEG = 4
"""Columns of the legs of a cover; the last one is for trials."""
A_TRIAL = A_LEG + LEGS_MAX
ALONE_COLUMNS = A_TRIAL + 1

# table[line or group, ...] of the part at hand
(
    T_ITEM,
    T_UNITS,
    T_SPLIT,
    T_NEED,
    T_WEIGHT,
    T_VOLUME,
    T_VALUE,
    T_ALONE,
    T_GROUP,
    T_CANON,
    T_WHOLE,
    T_ANY,
    T_MAY,
    T_MOST,
    T_LEFT,
    T_DIVIDE,
    T_NEXT,
    T_FIRST,
    T_SIZE,
) = range(19)
TABLE_COLUMNS = 19
"""Of a line: weight, volume, value of one unit; number among the ship-alone lines or -1; dense group; first line of the same
item; units that all lines of its item ask (what a node must have to hold it whole); units free anywhere, at nodes that may
serve, most at one of those; units not yet covered; 1 = may be divided; next line of its group. Of a group: first line, size."""

# seen[..., node] by node, from E_KEY on by place among the seen
E_STAMP, E_SLOT, E_EXCLUDED, E_CANDIDATE, E_KEY, E_FULL, E_LINES, E_GROUP = range(8)
SEEN_COLUMNS = E_GROUP + GROUPS_EXACT
"""Part that saw or excludes the node last; place among the seen or -1 - reason; candidate + 1 while reading; distance << 32 |
node; bits of groups held whole; lines held whole; lines of each group held whole."""

# grid[plane, candidate, line]
X_FREE, X_ROW, X_LEFT = range(3)
"""Units free, position row (-1 = none), units a cover has not used (by the first line of the item)."""

# reach of a candidate by service: tariff zone (-1 = none), place of its ship day, delivery day, rate card
H_ZONE, H_OPTION, H_DAY, H_CARD = range(4)
REACH_COLUMNS = 4
RING = 64
"""Days that capacity is counted for (engine.domain.positions.Capacity)."""

# a plan on trial in the exact search
D_SCORE, D_DAY, D_LEGS, D_MASK, D_CANDIDATE, D_NODE = 0, 1, 2, 3, 6, 9
TRIAL_COLUMNS = 12

# w: scratch with fixed places
_SUBSETS = 1 << GROUPS_EXACT
W_ORDER = 0
W_STAMP = 32
W_COLLIDED = 33
W_CAPACITY = 34
W_VALUE = 35
W_ALONE = 36
W_KEPT = 37
W_GROUPS = 38
W_HELD = 61
W_REACHABLE = 62
W_DIVIDE = 63
W_ENTRIES = 68
W_COLLECT = 69
W_WAYS_USED = 70
W_MEMO = 71
W_FITTING = 39
W_LEG = 40
W_SUMS = 64
W_BEST = 72
W_RUNNER = W_BEST + TRIAL_COLUMNS
W_TRIAL = W_RUNNER + TRIAL_COLUMNS
W_NODE = W_TRIAL + TRIAL_COLUMNS
W_KM = W_NODE + CANDIDATES_MAX
W_FULL = W_KM + CANDIDATES_MAX
W_FLOOR = W_FULL + CANDIDATES_MAX
W_DAYS = W_FLOOR + CANDIDATES_MAX
W_TODAY = W_DAYS + CANDIDATES_MAX
W_OPENED = W_TODAY + CANDIDATES_MAX
W_OPPORTUNITY = W_OPENED + CANDIDATES_MAX
W_GOODS = W_OPPORTUNITY + CANDIDATES_MAX * GROUPS_EXACT
W_DONE = W_GOODS + _SUBSETS * GOODS_COLUMNS
W_LEAST = W_DONE + _SUBSETS
W_SCORE = W_LEAST + _SUBSETS
ENTRIES = 8
W_ENTRY = W_SCORE + _SUBSETS * ENTRIES
W_DAY = W_ENTRY + _SUBSETS * ENTRIES
W_LEG_CANDIDATE = W_DAY + _SUBSETS * ENTRIES
W_LEG_SCORE = W_LEG_CANDIDATE + LEGS_MAX
W_LEG_GOODS = W_LEG_SCORE + LEGS_MAX
W_TRIAL_GOODS = W_LEG_GOODS + LEGS_MAX * GOODS_COLUMNS
W_COVER = W_TRIAL_GOODS + GOODS_COLUMNS
W_COVER_CANDIDATE = W_COVER + 1
W_REACH = W_COVER_CANDIDATE + LEGS_MAX
W_USED = W_REACH + CANDIDATES_MAX * SERVICES_MAX * REACH_COLUMNS
W_TAKEN = W_USED + CANDIDATES_MAX * RING
WAYS_MAX = 40
"""Columns of one order for the joint solver."""
W_MEMOS = W_TAKEN + CANDIDATES_MAX * RING
MEMO_COLUMNS = 5
"""Goods they are of, zone, card, price, parcels."""
W_NEAREST = W_MEMOS + SERVICES_MAX * MEMO_COLUMNS
COVER_COLUMNS = 7 + LEGS_MAX
"""Legs, units left, score; cash, service, policy, opportunity; nodes in order."""
W_COVER_BEST = W_NEAREST + SERVICES_MAX
W_COVER_RUNNER = W_COVER_BEST + COVER_COLUMNS
W_COVER_TRIAL = W_COVER_RUNNER + COVER_COLUMNS
W_NEAR = W_COVER_TRIAL + COVER_COLUMNS
W_ROOM = W_NEAR + 2 * GROUPS_EXACT
W_WAYS = W_ROOM + CANDIDATES_MAX
W_SIZE = W_WAYS + WAYS_MAX * TRIAL_COLUMNS
"""The order's row; stamp of the part; collided (1 stock, 2 capacity); capacity in the way; value of the part; ship-alone lines;
candidates kept; groups; 1 = a cover's legs keep to the room of their days; groups that some candidate holds; 1 = some candidate is in reach; 1 = some line must be divided; entries
kept a subset; 1 = collect ways, how many there are; which goods the tariffs of W_MEMOS are kept for, 0 = do not keep; a leg on trial; sums; best, runner-up and trial of the exact search; candidates: node, km, groups held
whole, least parcel price (NEVER = no service reaches), least days, local day, opened by the cover; opportunity[candidate,
group]; goods[subset]; entries of subsets: done, under-estimate, then score, candidate, day of up to eight; legs of a cover; the best
cover (legs, then candidates); reach[candidate, service]; capacity used and taken[candidate, day % RING]; the last tariff by
service; nearest zone that occurs by service (NEVER = none, -1 = prices prove nothing); the best cover, its
runner-up and the one on trial; the two nearest holders of each group; room of candidates;
the cheapest ways, like trials."""


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
    """Capacity given away: `used[node, day % RING]` where `day[...]` matches; `taken` likewise, by this batch."""

    used: I32
    day: I32
    taken: I32
    stale: U8


class Batch(NamedTuple):
    """What to plan: rows of parts and lines, excluded nodes, destinations as `points[destination, (lat, lon)]`, and the rest of
    the configuration: where nodes are (`solvers.places.sphere`), `flags[channel, node]`, `items`."""

    parts: I64
    lines: I64
    excluded: I32
    points: F64
    sphere: F64
    flags: U8
    items: I64


class Scratch(NamedTuple):
    """Kept between calls; only `seen[E_STAMP..E_CANDIDATE]` and `w[W_STAMP]` must survive them."""

    w: I64
    seen: I64
    table: I64
    grid: I64
    units: I64
    """[2 * LEGS_MAX, line] units of the legs of a cover, then of the best cover."""
    alone: I64
    taken: I64
    """[row, units] open-addressed, row -1 = empty; a power of two, at least four times the lines of the batch."""
    result: I64
    """A part's row that nobody reads."""
    rows: I32
    """Rows of a stretch of an item's positions."""
    free: I32
    """Units free at those rows."""
    chord: F64
    """By place among the seen: for `solvers.places.put_km`."""


# ways[n, ...]: complete ways to serve a part
(J_PART, J_SCORE, J_LEG, J_LEG_COUNT, J_TAKE, J_TAKE_COUNT) = range(6)
WAY_COLUMNS = 6

# takes[n, ...]: position row, or -1 - (node * RING + day % RING) for a hard capacity; units; units there are; line (-1 =
# capacity)
(X_TAKE_ROW, X_TAKE_UNITS, X_TAKE_FREE, X_TAKE_LINE) = range(4)
TAKE_COLUMNS = 4


class Ways(NamedTuple):
    """Ways of several parts, by part, cheapest first. `legs` as in an outcome, with the leg's groups (bits) in G_LINE."""

    ways: I64
    legs: I64
    takes: I64
    used: I64
    """Ways, legs, takes in use."""


class Outcome(NamedTuple):
    parts: I64
    legs: I64
    leg_lines: I64
    unfilled: I64
    candidates: I64
    record: U8
    """Bodies of decision records, one after another."""
    used: I64
    """Legs, leg lines, unfilled, candidates, record bytes in use."""


def make_scratch(*, nodes: int, lines: int, batch_lines: int) -> Scratch:
    """Scratch for a network of so many nodes, parts of at most `lines` lines, batches of at most `batch_lines`."""
    size = 64
    while size < batch_lines * 8:
        size *= 2
    seen = np.zeros((SEEN_COLUMNS, max(1, nodes)), np.int64)
    seen[E_STAMP] = seen[E_EXCLUDED] = -1
    return Scratch(
        np.zeros(W_SIZE, np.int64),
        seen,
        np.zeros((lines, TABLE_COLUMNS), np.int64),
        np.zeros((3, CANDIDATES_MAX, lines), np.int64),
        np.zeros((2 * LEGS_MAX, lines), np.int64),
        np.zeros((lines, ALONE_COLUMNS), np.int64),
        np.full((size, 2), -1, np.int64),
        np.zeros(PART_COLUMNS, np.int64),
        np.zeros(STRETCH, np.int32),
        np.zeros(STRETCH, np.int32),
        np.zeros(max(1, nodes)),
    )


def make_ways(*, parts: int, takes: int) -> Ways:
    """Room for the ways of so many parts, and for so many takes in all."""
    return Ways(
        np.zeros((parts * WAYS_MAX, WAY_COLUMNS), np.int64),
        np.zeros((parts * WAYS_MAX * LEGS_EXACT, LEG_COLUMNS), np.int64),
        np.zeros((takes, TAKE_COLUMNS), np.int64),
        np.zeros(3, np.int64),
    )


def make_outcome(*, parts: int, lines: int, leg_lines: int = 0, record_bytes: int = 0) -> Outcome:
    """Room for the outcome of so many parts and lines; `leg_lines` = rows for lines that several nodes share."""
    return Outcome(
        np.zeros((parts, PART_COLUMNS), np.int64),
        np.zeros((parts * LEGS_MAX, LEG_COLUMNS), np.int64),
        np.zeros((max(leg_lines, 2 * lines), 3), np.int64),
        np.zeros((lines, 3), np.int64),
        np.zeros((parts * RECORD_CANDIDATES, CANDIDATE_COLUMNS), np.int64),
        np.zeros(max(record_bytes, 1_024 * parts), np.uint8),
        np.zeros(5, np.int64),
    )
