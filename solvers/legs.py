"""What a leg costs: goods that one node hands over together. The ship day, the carrier service and the money of it.

Cash       parcels by the full tariff, handling by line and by unit, node surcharge
Service    days late against the promise x money a day x the leg's share of the order's value;
           days from the order to the door x the channel's rate on the leg's value
Policy     money of the node, and what weights other than 10,000 add to the parts
Opportunity  price of the units' positions, price of units over a soft capacity
"""

from __future__ import annotations

from solvers.calendar import MIDNIGHTS, OPTIONS
from solvers.jit import jit
from solvers.layout import (
    C_FLOORS,
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
    I32,
    I64,
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
    P_DAY,
    P_ORDER_BY,
    P_SHIP_BY,
    S_BAND_COUNT,
    S_BANDS,
    S_CARD_COUNT,
    S_CARDS,
    S_CODE,
    S_DAYS,
    S_DIVISOR,
    S_MAX_G,
    S_MAX_MM3,
    S_OVERSIZE_G,
    S_TAGS,
    S_TRANSIT,
    Y_NEUTRAL,
    Y_W_LATE,
    Y_W_LINES,
    Y_W_OPPORTUNITY,
    Y_W_PARCELS,
    Y_W_SURCHARGE,
    Y_W_TRANSIT,
    Y_W_UNITS,
    Calendar,
    Load,
    Network,
)
from solvers.tariff import card_at, tariff, times

# load of a leg: what its goods amount to
Q_WEIGHT, Q_VOLUME, Q_VALUE, Q_LINES, Q_UNITS, Q_PACKED, Q_NEED, Q_OPPORTUNITY = range(8)
Q_COLUMNS = 8
"""Weight and volume of the units that are packed together (Q_PACKED of them); the others ship alone."""

# alone[n, ...]: lines whose units ship alone
A_LINE, A_WEIGHT, A_VOLUME, A_UNITS, A_GROUP = range(5)
A_COLUMNS = 5

# notes of a part while it is planned
NOTE_COLLIDED, NOTE_CAPACITY = range(2)

RING_DAYS = 60
"""How far ahead a node with a capacity may plan: its ring of days (engine.domain.positions.Capacity) holds 64."""
LATE_DAYS_MAX = 3_650


@jit
def local_today(calendar: Calendar, zone: int, at_ms: int) -> int:
    """The local day of an instant at or after now."""
    n = 0
    while n < MIDNIGHTS - 1 and calendar.midnight[zone, n] <= at_ms:
        n += 1
    return calendar.base_day + n


@jit
def delivery_day(ship_day: int, transit: int, days: int) -> int:
    """The delivery day after `transit` delivery days (bits of `days`, bit 0 = Monday); 0 = the same day if it is one."""
    day = ship_day
    while transit > 0:
        day += 1
        if (days >> ((day + 3) % 7)) & 1:
            transit -= 1
    while not (days >> ((day + 3) % 7)) & 1:
        day += 1
    return day


@jit
def end_of_day_ms(calendar: Calendar, zone: int, day: int) -> int:
    """The last second of a local day."""
    n = min(max(0, day - calendar.base_day), MIDNIGHTS - 1)
    return calendar.midnight[zone, n] - 1_000


@jit
def zone_of(pool: I64, bands: int, count: int, km: int) -> int:
    """The first distance band that reaches; -1 = none does."""
    for z in range(count):
        if km <= pool[bands + z]:
            return z
    return -1


@jit
def capacity_used(load: Load, node: int, day: int) -> int:
    """Units given away on a day, this batch's included."""
    slot = day % load.used.shape[1]
    used = load.taken[node, slot] if node < load.taken.shape[0] else 0
    if node < load.used.shape[0] and load.day[node, slot] == day:
        used += load.used[node, slot]
    return used


@jit
def capacity_units(kind: int, lines: int, units: int) -> int:
    """What a leg takes of a capacity of this kind."""
    if kind == CAP_NONE:
        return 0
    if kind == CAP_ORDERS:
        return 1
    return lines if kind == CAP_LINES else units


@jit
def ship_option(
    nodes: I64, calendar: Calendar, load: Load, node: int, row: int, ready_ms: int, units: int, notes: I64
) -> int:
    """Place in `options[row]` of the first ship day with room; -1 = none."""
    kind = nodes[node, N_CAP_KIND]
    hard = kind != CAP_NONE and nodes[node, N_CAP_HARD] != 0
    last = calendar.base_day + RING_DAYS
    for k in range(OPTIONS):
        day = calendar.options[row, k, P_DAY]
        if day == NO_DAY or (kind != CAP_NONE and day > last):
            break
        if calendar.options[row, k, P_ORDER_BY] <= ready_ms:
            continue
        if not hard:
            return k
        used = capacity_used(load, node, day)
        if used + units <= nodes[node, N_CAP_DAY]:
            return k
        notes[NOTE_CAPACITY] = 1
        if used - load.taken[node, day % load.used.shape[1]] + units <= nodes[node, N_CAP_DAY]:
            notes[NOTE_COLLIDED] |= 2
    return -1


@jit
def reach_candidate(
    network: Network, calendar: Calendar, order: I64, node: int, km: int, zones: I32
) -> tuple[int, int]:
    """Fill the tariff zone of every service of the order's level (-1 = it does not reach); (least parcel price, least days).

    Least parcel price NEVER = no service reaches.
    """
    least = NEVER
    least_days = NEVER
    ready_ms = order[O_READY_MS]
    today = local_today(calendar, network.nodes[node, N_ZONE], ready_ms)
    pool = network.pool
    for p in range(order[O_LEVEL_COUNT]):
        s = network.level_services[order[O_LEVEL] + p]
        zones[p] = -1
        if network.serves[order[O_COUNTRY], s] == 0:
            continue
        z = zone_of(pool, network.services[s, S_BANDS], network.services[s, S_BAND_COUNT], km)
        zones[p] = z
        if z < 0:
            continue
        for n in range(network.services[s, S_CARD_COUNT]):
            card = pool[network.services[s, S_CARDS] + n]
            least = min(least, pool[pool[card + C_FLOORS] + z])
        row = network.calendar_of[node, s]
        for k in range(OPTIONS):
            day = calendar.options[row, k, P_DAY]
            if day == NO_DAY:
                break
            if calendar.options[row, k, P_ORDER_BY] > ready_ms:
                transit = pool[network.services[s, S_TRANSIT] + z]
                least_days = min(least_days, delivery_day(day, transit, network.services[s, S_DAYS]) - today)
                break
    if node == order[O_HOME]:
        return 0, 0
    return least, least_days


@jit
def price_leg(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    node: int,
    zones: I32,
    goods: I64,
    total_value: int,
    alone: I64,
    alone_units: I64,
    alone_count: int,
    leg: I64,
    notes: I64,
) -> int:
    """Price the goods at their best service and first ship day with room; fill `leg` up to G_DAYS; the score, or NEVER.

    goods: Q_ columns. `alone_units[n]` of `alone[n]` are in the leg. A leg at the order's home node needs no carrier.
    Ties: earlier delivery, then the order of services.
    """
    nodes = network.nodes
    lines_minor = times(nodes[node, N_LINE], goods[Q_LINES])
    units_minor = times(nodes[node, N_UNIT], goods[Q_UNITS])
    surcharge = nodes[node, N_SURCHARGE]
    taken = capacity_units(nodes[node, N_CAP_KIND], goods[Q_LINES], goods[Q_UNITS])
    today = local_today(calendar, nodes[node, N_ZONE], order[O_READY_MS])
    policy_row = order[O_POLICY]
    node_minor = network.policy_node[policy_row, node]
    best = NEVER
    best_day = NEVER
    at_home = node == order[O_HOME]
    count = 1 if at_home else order[O_LEVEL_COUNT]
    for p in range(count):
        parcels = 0
        parcels_minor = 0
        if at_home:
            row = network.calendar_of[node, network.services.shape[0]]
            k = ship_option(nodes, calendar, load, node, row, order[O_READY_MS], taken, notes)
            if k < 0:
                continue
            code = -1
            ship_day = calendar.options[row, k, P_DAY]
            day = ship_day
        else:
            s = network.level_services[order[O_LEVEL] + p]
            z = zones[p]
            if z < 0 or (goods[Q_NEED] & ~network.services[s, S_TAGS]) != 0:
                continue
            row = network.calendar_of[node, s]
            k = ship_option(nodes, calendar, load, node, row, order[O_READY_MS], taken, notes)
            if k < 0:
                continue
            code = network.services[s, S_CODE]
            ship_day = calendar.options[row, k, P_DAY]
            pool = network.pool
            day = delivery_day(ship_day, pool[network.services[s, S_TRANSIT] + z], network.services[s, S_DAYS])
            card = card_at(pool, network.services[s, S_CARDS], network.services[s, S_CARD_COUNT], ship_day)
            divisor = network.services[s, S_DIVISOR]
            max_g = network.services[s, S_MAX_G]
            max_mm3 = network.services[s, S_MAX_MM3]
            oversize_g = network.services[s, S_OVERSIZE_G]
            residential = order[O_RESIDENTIAL]
            if goods[Q_PACKED] > 0:
                parcels_minor, parcels = tariff(
                    pool,
                    card,
                    z,
                    divisor,
                    max_g,
                    max_mm3,
                    oversize_g,
                    residential,
                    goods[Q_WEIGHT],
                    goods[Q_VOLUME],
                )
            for n in range(alone_count):
                if alone_units[n] > 0:
                    one, each = tariff(
                        pool,
                        card,
                        z,
                        divisor,
                        max_g,
                        max_mm3,
                        oversize_g,
                        residential,
                        alone[n, A_WEIGHT],
                        alone[n, A_VOLUME],
                    )
                    parcels_minor += times(one, alone_units[n])
                    parcels += each * alone_units[n]
        late = 0
        if order[O_PROMISE_DAY] < NO_PROMISE and day > order[O_PROMISE_DAY]:
            late_days = min(LATE_DAYS_MAX, day - order[O_PROMISE_DAY])
            share_bp = goods[Q_VALUE] * 10_000 // total_value if total_value > 0 else 10_000
            late = late_days * order[O_LATE_MINOR] * share_bp // 10_000
        transit = (day - today) * (goods[Q_VALUE] * order[O_TRANSIT_BP] // 10_000)
        opportunity = goods[Q_OPPORTUNITY]
        if taken > 0 and nodes[node, N_CAP_HARD] == 0:
            used = capacity_used(load, node, ship_day)
            over = max(0, used + taken - nodes[node, N_CAP_DAY]) - max(0, used - nodes[node, N_CAP_DAY])
            opportunity += times(over, nodes[node, N_CAP_OVER])
        policy = node_minor
        if network.policy[policy_row, Y_NEUTRAL] == 0:
            weights = network.policy[policy_row]
            policy += parcels_minor * (weights[Y_W_PARCELS] - 10_000) // 10_000
            policy += lines_minor * (weights[Y_W_LINES] - 10_000) // 10_000
            policy += units_minor * (weights[Y_W_UNITS] - 10_000) // 10_000
            policy += surcharge * (weights[Y_W_SURCHARGE] - 10_000) // 10_000
            policy += late * (weights[Y_W_LATE] - 10_000) // 10_000
            policy += transit * (weights[Y_W_TRANSIT] - 10_000) // 10_000
            policy += opportunity * (weights[Y_W_OPPORTUNITY] - 10_000) // 10_000
        score = parcels_minor + lines_minor + units_minor + surcharge + late + transit + policy + opportunity
        if score < best or (score == best and day < best_day):
            best = score
            best_day = day
            leg[G_SCORE] = score
            leg[G_SERVICE] = code
            leg[G_PARCELS] = parcels
            leg[G_SHIP_DAY] = ship_day
            leg[G_SHIP_BY] = calendar.options[row, k, P_SHIP_BY]
            leg[G_DELIVER_DAY] = day
            leg[G_CASH] = parcels_minor
            leg[G_CASH_LINES] = lines_minor
            leg[G_CASH_UNITS] = units_minor
            leg[G_CASH_SURCHARGE] = surcharge
            leg[G_LATE] = late
            leg[G_TRANSIT] = transit
            leg[G_POLICY] = policy
            leg[G_OPPORTUNITY] = opportunity
            leg[G_CAP_UNITS] = taken
            leg[G_DELIVER_BY] = 0
            leg[G_DAYS] = day - today
    return best


@jit
def deliver_by(network: Network, calendar: Calendar, node: int, leg: I64) -> int:
    """When the goods are there at the latest: the end of the delivery day at the node; without a carrier, the hand-over."""
    if leg[G_SERVICE] < 0:
        return leg[G_SHIP_BY]
    return end_of_day_ms(calendar, network.nodes[node, N_ZONE], leg[G_DELIVER_DAY])
