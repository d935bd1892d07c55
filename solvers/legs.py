"""What a leg costs: goods that one node hands over together. The ship day, the carrier service and the money of it.

Cash       parcels by the full tariff, handling by line and by unit, node surcharge
Service    days late against the promise x money a day x the leg's share of the order's value;
           days from the order to the door x the channel's rate on the leg's value
Policy     money of the node, and what weights other than 10,000 add to the parts
Opportunity  price of the units' positions, price of units over a soft capacity

Functions take the atlas `m` and the scratch `w` (see layout); `c` is a candidate, `goods` and `leg` are places in `w`.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    A_VOLUME,
    A_WEIGHT,
    CAP_LINES,
    CAP_NONE,
    CAP_ORDERS,
    G_CAP_UNITS,
    G_CASH,
    G_CASH_LINES,
    G_CASH_SURCHARGE,
    G_CASH_UNITS,
    G_DAYS,
    G_DELIVER_BY,
    G_DELIVER_DAY,
    G_LATE,
    G_OPPORTUNITY,
    G_PARCELS,
    G_POLICY,
    G_SCORE,
    G_SERVICE,
    G_SHIP_BY,
    G_SHIP_DAY,
    G_TRANSIT,
    H_CARD,
    H_DAY,
    H_OPTION,
    H_ZONE,
    I64,
    M_BASE_DAY,
    M_CALENDAR_OF,
    M_LEVELS,
    M_MIDNIGHT,
    M_NODE_COUNT,
    M_NODES,
    M_NOW,
    M_OPTIONS,
    M_POLICY,
    M_POLICY_NODE,
    M_SERVES,
    M_SERVICE_COUNT,
    M_SERVICES,
    M_TODAY,
    MEMO_COLUMNS,
    MIDNIGHTS,
    N_CAP_DAY,
    N_CAP_HARD,
    N_CAP_KIND,
    N_CAP_OVER,
    N_LINE,
    N_SURCHARGE,
    N_UNIT,
    N_ZONE,
    NEVER,
    NO_DAY,
    NO_PROMISE,
    NODE_COLUMNS,
    O_COUNTRY,
    O_HOME,
    O_LATE_MINOR,
    O_LEVEL,
    O_LEVEL_COUNT,
    O_POLICY,
    O_PROMISE_DAY,
    O_READY_MS,
    O_RESIDENTIAL,
    O_TRANSIT_BP,
    OPTION_COLUMNS,
    OPTIONS,
    P_DAY,
    P_ORDER_BY,
    P_SHIP_BY,
    POLICY_COLUMNS,
    Q_LINES,
    Q_NEED,
    Q_OPPORTUNITY,
    Q_PACKED,
    Q_UNITS,
    Q_VALUE,
    Q_VOLUME,
    Q_WEIGHT,
    REACH_COLUMNS,
    RING,
    S_ARRIVAL,
    S_BAND_COUNT,
    S_BANDS,
    S_CARD_COUNT,
    S_CARDS,
    S_CODE,
    S_DIVISOR,
    S_FLOORS,
    S_MAX_G,
    S_MAX_MM3,
    S_OVERSIZE_G,
    S_TAGS,
    SERVICE_COLUMNS,
    SERVICES_MAX,
    W_ALONE,
    W_CAPACITY,
    W_COLLIDED,
    W_DAYS,
    W_FLOOR,
    W_KM,
    W_MEMO,
    W_MEMOS,
    W_NODE,
    W_ORDER,
    W_REACH,
    W_TAKEN,
    W_TODAY,
    W_USED,
    W_VALUE,
    Y_NEUTRAL,
    Y_W_LATE,
    Y_W_LINES,
    Y_W_OPPORTUNITY,
    Y_W_PARCELS,
    Y_W_SURCHARGE,
    Y_W_TRANSIT,
    Y_W_UNITS,
    Load,
)
from solvers.tariff import card_at, tariff, times

RING_DAYS = 60
"""How far ahead a node with a capacity may plan: its ring of days holds 64."""
LATE_DAYS_MAX = 3_650


@inner
def door_day(m: I64, service: int, zone: int, ship_day: int) -> int:
    """Local day on which goods shipped on a day are at the door."""
    return int(ship_day + m[m[service + S_ARRIVAL] + (ship_day + 3) % 7 * m[service + S_BAND_COUNT] + zone])


@inner
def zone_of(m: I64, bands: int, count: int, km: int) -> int:
    """The first distance band that reaches; -1 = none does."""
    for z in range(count):
        if km <= m[bands + z]:
            return z
    return -1


@inner
def _ship_option(m: I64, w: I64, c: int, node: int, calendar: int, units: int) -> int:
    """Place of the first ship day with room for `units` of capacity; -1 = none. For nodes without a hard one `units` is 0."""
    ready_ms = w[W_ORDER + O_READY_MS]
    row = m[M_OPTIONS] + calendar * OPTIONS * OPTION_COLUMNS
    if units == 0 and m[row + P_ORDER_BY] > ready_ms and m[row + P_DAY] != NO_DAY:
        return 0
    last = m[M_BASE_DAY] + RING_DAYS
    per_day = m[node + N_CAP_DAY]
    for k in range(OPTIONS):
        at = row + k * OPTION_COLUMNS
        day = m[at + P_DAY]
        if day == NO_DAY or (units > 0 and day > last):
            break
        if m[at + P_ORDER_BY] <= ready_ms:
            continue
        if units == 0:
            return k
        used = w[W_USED + c * RING + day % RING]
        taken = w[W_TAKEN + c * RING + day % RING]
        if used + taken + units <= per_day:
            return k
        w[W_CAPACITY] = 1
        if used + units <= per_day:
            w[W_COLLIDED] |= 2
    return -1


@inner
def room_at(m: I64, w: I64, c: int) -> int:
    """Capacity (lines or units) that the emptiest ship day of a candidate still has; NEVER = neither is limited there."""
    number = w[W_NODE + c]
    node = m[M_NODES] + number * NODE_COLUMNS
    kind = m[node + N_CAP_KIND]
    if m[node + N_CAP_HARD] == 0 or kind in (CAP_NONE, CAP_ORDERS):
        return NEVER
    per_day = m[node + N_CAP_DAY]
    services = m[M_SERVICE_COUNT]
    calendars = m[M_CALENDAR_OF] + number * (services + 1)
    levels = m[M_LEVELS] + w[W_ORDER + O_LEVEL]
    at_home = number == w[W_ORDER + O_HOME]
    room = 0
    for p in range(1 if at_home else w[W_ORDER + O_LEVEL_COUNT]):
        calendar = m[calendars + services]
        if not at_home:
            if w[W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS + H_ZONE] < 0:
                continue
            calendar = m[calendars + m[levels + p]]
        for k in range(OPTIONS):
            at = m[M_OPTIONS] + (calendar * OPTIONS + k) * OPTION_COLUMNS
            day = m[at + P_DAY]
            if day == NO_DAY or day > m[M_BASE_DAY] + RING_DAYS or room == per_day:
                break
            if m[at + P_ORDER_BY] > w[W_ORDER + O_READY_MS]:
                given = w[W_USED + c * RING + day % RING] + w[W_TAKEN + c * RING + day % RING]
                room = max(room, per_day - given)
    return int(room)


@inner
def _read_capacity(m: I64, w: I64, load: Load, c: int, number: int) -> None:
    """Capacity given away at a candidate by day of the ring: journaled, and taken by this batch."""
    first = m[M_BASE_DAY]
    for day in range(first, first + RING):
        slot = day % RING
        known = number < load.used.shape[0] and load.day[number, slot] == day
        w[W_USED + c * RING + slot] = load.used[number, slot] if known else 0
        w[W_TAKEN + c * RING + slot] = load.taken[number, slot]


@inner
def reach_candidate(m: I64, w: I64, load: Load, c: int) -> None:
    """Fill what a candidate's services can do (zone, ship day, delivery day, card), its least parcel price and least days.

    A ship day is that of a node without capacity limits; for others pricing looks for one with room.
    """
    number = w[W_NODE + c]
    node = m[M_NODES] + number * NODE_COLUMNS
    order = W_ORDER
    ready_ms = w[order + O_READY_MS]
    today = m[m[M_TODAY] + m[node + N_ZONE]]
    if ready_ms > m[M_NOW]:
        midnight = m[M_MIDNIGHT] + m[node + N_ZONE] * MIDNIGHTS - m[M_BASE_DAY]
        while today - m[M_BASE_DAY] < MIDNIGHTS - 1 and m[midnight + today] <= ready_ms:
            today += 1
    w[W_TODAY + c] = today
    if m[node + N_CAP_KIND] != CAP_NONE:
        _read_capacity(m, w, load, c, number)
    services = m[M_SERVICE_COUNT]
    calendars = m[M_CALENDAR_OF] + number * (services + 1)
    serves = m[M_SERVES] + w[order + O_COUNTRY] * services
    levels = m[M_LEVELS] + w[order + O_LEVEL]
    km = w[W_KM + c]
    least = NEVER
    least_days = NEVER
    for p in range(w[order + O_LEVEL_COUNT]):
        number = m[levels + p]
        reach = W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS
        w[reach + H_ZONE] = -1
        if m[serves + number] == 0:
            continue
        service = m[M_SERVICES] + number * SERVICE_COLUMNS
        z = zone_of(m, m[service + S_BANDS], m[service + S_BAND_COUNT], km)
        if z < 0:
            continue
        k = _ship_option(m, w, c, node, m[calendars + number], 0)
        if k < 0:
            continue
        ship_day = m[m[M_OPTIONS] + (m[calendars + number] * OPTIONS + k) * OPTION_COLUMNS + P_DAY]
        if m[node + N_CAP_KIND] != CAP_NONE and ship_day > m[M_BASE_DAY] + RING_DAYS:
            continue
        day = door_day(m, service, z, ship_day)
        w[reach + H_ZONE] = z
        w[reach + H_OPTION] = k
        w[reach + H_DAY] = day
        w[reach + H_CARD] = card_at(m, m[service + S_CARDS], m[service + S_CARD_COUNT], ship_day)
        least_days = min(least_days, day - today)
        least = min(least, m[m[service + S_FLOORS] + z])
    if w[W_NODE + c] == w[order + O_HOME]:
        least = 0
        least_days = 0
    w[W_FLOOR + c] = least
    w[W_DAYS + c] = least_days


@inner
def _alone_parcels(
    m: I64, w: I64, alone: I64, column: int, service: int, card: int, zone: int, residential: int
) -> tuple[int, int]:
    """(price, parcels) of the units that ship alone, each by itself."""
    price = 0
    parcels = 0
    for n in range(w[W_ALONE]):
        if alone[n, column] > 0:
            one, each = tariff(
                m,
                card,
                zone,
                m[service + S_DIVISOR],
                m[service + S_MAX_G],
                m[service + S_MAX_MM3],
                m[service + S_OVERSIZE_G],
                residential,
                alone[n, A_WEIGHT],
                alone[n, A_VOLUME],
            )
            price += times(one, alone[n, column])
            parcels += each * alone[n, column]
    return price, parcels


@inner
def _weighted(
    m: I64,
    row: int,
    parcels_minor: int,
    lines_minor: int,
    units_minor: int,
    surcharge: int,
    late: int,
    transit: int,
    opportunity: int,
) -> int:
    """What the policy's weights other than 10,000 add to the parts of a leg."""
    more = parcels_minor * (m[row + Y_W_PARCELS] - 10_000) // 10_000
    more += lines_minor * (m[row + Y_W_LINES] - 10_000) // 10_000
    more += units_minor * (m[row + Y_W_UNITS] - 10_000) // 10_000
    more += surcharge * (m[row + Y_W_SURCHARGE] - 10_000) // 10_000
    more += late * (m[row + Y_W_LATE] - 10_000) // 10_000
    more += transit * (m[row + Y_W_TRANSIT] - 10_000) // 10_000
    more += opportunity * (m[row + Y_W_OPPORTUNITY] - 10_000) // 10_000
    return int(more)


@inner
def price_leg(m: I64, w: I64, alone: I64, c: int, goods: int, column: int, leg: int) -> int:
    """Price the goods at their best service and first ship day with room; fill `w[leg..]` up to G_DAYS; the score, or NEVER.

    `alone[n, column]` units of each ship-alone line are in the leg. At the order's home node no carrier is needed.
    Ties: earlier delivery, then the order of services.
    """
    number = w[W_NODE + c]
    node = m[M_NODES] + number * NODE_COLUMNS
    lines_minor = times(m[node + N_LINE], w[goods + Q_LINES])
    units_minor = times(m[node + N_UNIT], w[goods + Q_UNITS])
    surcharge = m[node + N_SURCHARGE]
    kind = m[node + N_CAP_KIND]
    capacity = 0
    if kind != CAP_NONE:
        capacity = 1 if kind == CAP_ORDERS else (w[goods + Q_LINES] if kind == CAP_LINES else w[goods + Q_UNITS])
    hard = m[node + N_CAP_HARD] != 0
    today = w[W_TODAY + c]
    policy_number = w[W_ORDER + O_POLICY]
    policy_row = m[M_POLICY] + policy_number * POLICY_COLUMNS
    node_minor = m[m[M_POLICY_NODE] + policy_number * m[M_NODE_COUNT] + number]
    neutral = m[policy_row + Y_NEUTRAL] != 0
    services = m[M_SERVICE_COUNT]
    calendars = m[M_CALENDAR_OF] + number * (services + 1)
    day_minor = w[goods + Q_VALUE] * w[W_ORDER + O_TRANSIT_BP] // 10_000
    promise = w[W_ORDER + O_PROMISE_DAY]
    levels = m[M_LEVELS] + w[W_ORDER + O_LEVEL]
    at_home = number == w[W_ORDER + O_HOME]
    best = NEVER
    best_day = NEVER
    for p in range(1 if at_home else w[W_ORDER + O_LEVEL_COUNT]):
        parcels = 0
        parcels_minor = 0
        if at_home:
            calendar = m[calendars + services]
            k = _ship_option(m, w, c, node, calendar, capacity if hard else 0)
            if k < 0:
                continue
            code = -1
            option = m[M_OPTIONS] + (calendar * OPTIONS + k) * OPTION_COLUMNS
            day = m[option + P_DAY]
        else:
            reach = W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS
            z = w[reach + H_ZONE]
            if z < 0:
                continue
            service = m[M_SERVICES] + m[levels + p] * SERVICE_COLUMNS
            if (w[goods + Q_NEED] & ~m[service + S_TAGS]) != 0:
                continue
            calendar = m[calendars + m[levels + p]]
            k = w[reach + H_OPTION]
            day = w[reach + H_DAY]
            card = w[reach + H_CARD]
            if hard and capacity > 0:
                first = k
                k = _ship_option(m, w, c, node, calendar, capacity)
                if k < 0:
                    continue
                if k != first:
                    ship_day = m[m[M_OPTIONS] + (calendar * OPTIONS + k) * OPTION_COLUMNS + P_DAY]
                    day = door_day(m, service, z, ship_day)
                    card = card_at(m, m[service + S_CARDS], m[service + S_CARD_COUNT], ship_day)
            code = m[service + S_CODE]
            option = m[M_OPTIONS] + (calendar * OPTIONS + k) * OPTION_COLUMNS
            residential = w[W_ORDER + O_RESIDENTIAL]
            if w[goods + Q_PACKED] > 0:
                memo = W_MEMOS + p * MEMO_COLUMNS
                known = w[W_MEMO] != 0 and w[memo] == w[W_MEMO] and w[memo + 1] == z and w[memo + 2] == card
                if not known:  # the next candidate is often in the same zone
                    w[memo + 3], w[memo + 4] = tariff(
                        m,
                        card,
                        z,
                        m[service + S_DIVISOR],
                        m[service + S_MAX_G],
                        m[service + S_MAX_MM3],
                        m[service + S_OVERSIZE_G],
                        residential,
                        w[goods + Q_WEIGHT],
                        w[goods + Q_VOLUME],
                    )
                    w[memo] = w[W_MEMO]
                    w[memo + 1] = z
                    w[memo + 2] = card
                parcels_minor = w[memo + 3]
                parcels = w[memo + 4]
            if w[W_ALONE] > 0:
                price, count = _alone_parcels(m, w, alone, column, service, card, z, residential)
                parcels_minor += price
                parcels += count
        late = 0
        if promise < NO_PROMISE and day > promise:
            total = w[W_VALUE]
            share_bp = w[goods + Q_VALUE] * 10_000 // total if total > 0 else 10_000
            late = min(LATE_DAYS_MAX, day - promise) * w[W_ORDER + O_LATE_MINOR] * share_bp // 10_000
        transit = (day - today) * day_minor
        opportunity = w[goods + Q_OPPORTUNITY]
        if capacity > 0 and not hard:
            slot = c * RING + m[option + P_DAY] % RING
            over = w[W_USED + slot] + w[W_TAKEN + slot] - m[node + N_CAP_DAY]
            opportunity += times(max(0, over + capacity) - max(0, over), m[node + N_CAP_OVER])
        score = parcels_minor + lines_minor + units_minor + surcharge + late + transit + node_minor + opportunity
        if neutral and (score > best or (score == best and day >= best_day)):
            continue
        if not neutral:
            more = _weighted(
                m, policy_row, parcels_minor, lines_minor, units_minor, surcharge, late, transit, opportunity
            )
            score += more
            if score > best or (score == best and day >= best_day):
                continue
            w[leg + G_POLICY] = node_minor + more
        else:
            w[leg + G_POLICY] = node_minor
        w[leg + G_SERVICE] = code
        w[leg + G_PARCELS] = parcels
        w[leg + G_SHIP_DAY] = m[option + P_DAY]
        w[leg + G_SHIP_BY] = m[option + P_SHIP_BY]
        w[leg + G_DELIVER_DAY] = day
        w[leg + G_CASH] = parcels_minor
        w[leg + G_CASH_LINES] = lines_minor
        w[leg + G_CASH_UNITS] = units_minor
        w[leg + G_CASH_SURCHARGE] = surcharge
        w[leg + G_LATE] = late
        w[leg + G_TRANSIT] = transit
        w[leg + G_OPPORTUNITY] = opportunity
        w[leg + G_CAP_UNITS] = capacity
        w[leg + G_DELIVER_BY] = 0
        w[leg + G_DAYS] = day - today
        w[leg + G_SCORE] = score
        best = score
        best_day = day
    return best


@inner
def deliver_by(m: I64, number: int, service: int, day: int, ship_by: int) -> int:
    """When the goods are there at the latest: the last second of the local day; without a carrier, the hand-over."""
    if service < 0:
        return ship_by
    n = min(max(0, day - m[M_BASE_DAY]), MIDNIGHTS - 1)
    zone = m[m[M_NODES] + number * NODE_COLUMNS + N_ZONE]
    return int(m[m[M_MIDNIGHT] + zone * MIDNIGHTS + n] - 1_000)
