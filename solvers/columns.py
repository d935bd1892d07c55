"""The exact search: all ways to give the groups of an order to at most three of its candidates, priced in full.

A leg's tariff is not additive in its goods (breaks, dimensional weight, several parcels), but a plan's cost is additive in its
legs. So: for every subset of groups the three cheapest candidates that hold it whole, then the best partition into at most
three subsets with different nodes. Three entries a subset are enough, because two others can block at most two. An additive
under-estimate (least fixed cost of a leg + least cost of each group) keeps subsets that cannot matter from being priced.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    A_GROUP,
    A_TRIAL,
    A_UNITS,
    D_CANDIDATE,
    D_DAY,
    D_LEGS,
    D_MASK,
    D_NODE,
    D_SCORE,
    ENTRIES,
    G_DELIVER_DAY,
    GOODS_COLUMNS,
    GROUPS_EXACT,
    H_ZONE,
    I64,
    LEGS_EXACT,
    M_LEVELS,
    M_NODE_COUNT,
    M_NODES,
    M_POLICY,
    M_POLICY_NODE,
    M_SERVICES,
    MEMO_COLUMNS,
    N_LINE,
    N_SURCHARGE,
    N_UNIT,
    NEVER,
    NODE_COLUMNS,
    O_LEVEL,
    O_LEVEL_COUNT,
    O_POLICY,
    O_RESIDENTIAL,
    O_TRANSIT_BP,
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
    S_CARDS,
    S_DIVISOR,
    S_MAX_G,
    S_MAX_MM3,
    S_OVERSIZE_G,
    S_RISES,
    SERVICE_COLUMNS,
    SERVICES_MAX,
    TRIAL_COLUMNS,
    W_ALONE,
    W_BEST,
    W_COLLECT,
    W_DAY,
    W_DAYS,
    W_DONE,
    W_ENTRIES,
    W_ENTRY,
    W_FLOOR,
    W_FULL,
    W_GOODS,
    W_KEPT,
    W_LEAST,
    W_LEG,
    W_MEMO,
    W_MEMOS,
    W_NEAREST,
    W_NODE,
    W_OPPORTUNITY,
    W_ORDER,
    W_REACH,
    W_RUNNER,
    W_SCORE,
    W_STAMP,
    W_TRIAL,
    W_WAYS,
    W_WAYS_USED,
    WAYS_MAX,
    Y_LEG_VALUE,
    Y_NEUTRAL,
)
from solvers.legs import price_leg
from solvers.tariff import tariff

ENTRIES_TO_PLAN = 3
"""Candidates kept a subset of groups: with three, two legs elsewhere can never leave a third without a node."""


@inner
def fill_subsets(w: I64, groups: int) -> None:
    """Goods of all subsets from those of the single groups (already in the places of 1 << g)."""
    for m in range(1, 1 << groups):
        w[W_DONE + m] = 0
        low = m & -m
        rest = m ^ low
        if rest:
            at = W_GOODS + m * GOODS_COLUMNS
            one = W_GOODS + low * GOODS_COLUMNS
            others = W_GOODS + rest * GOODS_COLUMNS
            for q in range(GOODS_COLUMNS):
                w[at + q] = w[one + q] + w[others + q]
            w[at + Q_NEED] = w[one + Q_NEED] | w[others + Q_NEED]


@inner
def price_subset(m: I64, w: I64, alone: I64, c: int, subset: int, leg: int) -> int:
    """Score of a subset of groups at a candidate; its details in `w[leg..]`."""
    opportunity = 0
    rest = subset
    at = W_OPPORTUNITY + c * GROUPS_EXACT
    while rest:
        if rest & 1:
            opportunity += w[at]
        rest >>= 1
        at += 1
    goods = W_GOODS + subset * GOODS_COLUMNS
    w[goods + Q_OPPORTUNITY] = opportunity
    for n in range(w[W_ALONE]):
        inside = (subset >> alone[n, A_GROUP]) & 1
        alone[n, A_TRIAL] = alone[n, A_UNITS] if inside else 0
    w[W_MEMO] = (w[W_STAMP] << GROUPS_EXACT) | subset
    score = price_leg(m, w, alone, c, goods, A_TRIAL, leg)
    w[W_MEMO] = 0
    return score


@inner
def _parcels_from_here(m: I64, w: I64, memo_key: int, c: int) -> int:
    """Never above what a candidate pays for parcels: what the goods of a memo key cost in the zones priced last, which are as near
    or nearer; 0 where that proves nothing. Candidates come by distance, so most lie in a zone like the last one's."""
    if w[W_FLOOR + c] == 0:  # it may need no carrier
        return 0
    least = NEVER
    levels = m[M_LEVELS] + w[W_ORDER + O_LEVEL]
    for p in range(w[W_ORDER + O_LEVEL_COUNT]):
        zone = w[W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS + H_ZONE]
        if zone < 0:
            continue
        memo = W_MEMOS + p * MEMO_COLUMNS
        if w[memo] != memo_key or w[memo + 1] > zone:
            return 0
        if m[m[M_SERVICES] + m[levels + p] * SERVICE_COLUMNS + S_RISES] == 0:
            return 0
        least = min(least, w[memo + 3])
    return int(least)


@inner
def fill_entries(m: I64, w: I64, alone: I64, subset: int) -> None:
    """The cheapest candidates for a subset (as many as W_ENTRIES says), by (score, delivery day, node)."""
    if w[W_DONE + subset]:
        return
    w[W_DONE + subset] = 1
    score = W_SCORE + subset * ENTRIES
    entry = W_ENTRY + subset * ENTRIES
    day = W_DAY + subset * ENTRIES
    for e in range(w[W_ENTRIES]):
        w[score + e] = NEVER
        w[entry + e] = -1
        w[day + e] = NEVER
    goods = W_GOODS + subset * GOODS_COLUMNS
    policy = w[W_ORDER + O_POLICY]
    neutral = m[m[M_POLICY] + policy * POLICY_COLUMNS + Y_NEUTRAL] != 0
    node_minor = m[M_POLICY_NODE] + policy * m[M_NODE_COUNT]
    day_minor = w[goods + Q_VALUE] * w[W_ORDER + O_TRANSIT_BP] // 10_000
    last = w[W_ENTRIES] - 1
    memo_key = (w[W_STAMP] << GROUPS_EXACT) | subset
    for c in range(w[W_KEPT]):
        if w[W_FULL + c] & subset != subset or w[W_FLOOR + c] == NEVER:
            continue
        number = w[W_NODE + c]
        if neutral:
            node = m[M_NODES] + number * NODE_COLUMNS
            least = m[node + N_SURCHARGE] + m[node_minor + number] + w[W_DAYS + c] * day_minor
            least += m[node + N_LINE] * w[goods + Q_LINES] + m[node + N_UNIT] * w[goods + Q_UNITS]
            bar = w[score + last]
            if bar != NEVER and (least + w[W_FLOOR + c] > bar or least + _parcels_from_here(m, w, memo_key, c) > bar):
                continue
        s = price_subset(m, w, alone, c, subset, W_LEG)
        if s == NEVER:
            continue
        d = w[W_LEG + G_DELIVER_DAY]
        e = last
        while e >= 0 and (
            s < w[score + e]
            or (s == w[score + e] and (d < w[day + e] or (d == w[day + e] and number < w[W_NODE + w[entry + e]])))
        ):
            if e < last:
                w[score + e + 1] = w[score + e]
                w[entry + e + 1] = w[entry + e]
                w[day + e + 1] = w[day + e]
            w[score + e] = s
            w[entry + e] = c
            w[day + e] = d
            e -= 1


@inner
def _nearest_zones(m: I64, w: I64) -> None:
    """The nearest zone of every service that occurs among the candidates; NEVER = it reaches none of them.

    -1 where its tariff there proves nothing: prices that fall with the zone, several cards, a leg without a carrier.
    """
    levels = m[M_LEVELS] + w[W_ORDER + O_LEVEL]
    for p in range(w[W_ORDER + O_LEVEL_COUNT]):
        zone = NEVER
        for c in range(w[W_KEPT]):
            if w[W_FLOOR + c] == 0:
                zone = -1
                break
            z = w[W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS + H_ZONE]
            if 0 <= z < zone:
                zone = z
        if zone != NEVER and m[m[M_SERVICES] + m[levels + p] * SERVICE_COLUMNS + S_RISES] == 0:
            zone = -1
        w[W_NEAREST + p] = zone


@inner
def _parcels_least(m: I64, w: I64, subset: int) -> int:
    """Never above what any candidate pays for the parcels of a subset: its tariff in the nearest zones; 0 = nothing is proven."""
    goods = W_GOODS + subset * GOODS_COLUMNS
    if w[W_ALONE] > 0 or w[goods + Q_PACKED] == 0:
        return 0
    least = NEVER
    levels = m[M_LEVELS] + w[W_ORDER + O_LEVEL]
    for p in range(w[W_ORDER + O_LEVEL_COUNT]):
        zone = w[W_NEAREST + p]
        if zone < 0:
            return 0
        if zone == NEVER:
            continue
        service = m[M_SERVICES] + m[levels + p] * SERVICE_COLUMNS
        price, _ = tariff(
            m,
            m[m[service + S_CARDS]],
            zone,
            m[service + S_DIVISOR],
            m[service + S_MAX_G],
            m[service + S_MAX_MM3],
            m[service + S_OVERSIZE_G],
            w[W_ORDER + O_RESIDENTIAL],
            w[goods + Q_WEIGHT],
            w[goods + Q_VOLUME],
        )
        least = min(least, price)
    return least


@inner
def set_least(m: I64, w: I64, groups: int) -> None:
    """Under-estimates of all subsets: least fixed cost of any leg, or its parcels in the nearest zone, + least cost of each group."""
    policy = w[W_ORDER + O_POLICY]
    if m[m[M_POLICY] + policy * POLICY_COLUMNS + Y_NEUTRAL] == 0:
        for subset in range(1 << groups):
            w[W_LEAST + subset] = -NEVER // 8
        return
    node_minor = m[M_POLICY_NODE] + policy * m[M_NODE_COUNT]
    fixed = NEVER
    surcharge = NEVER
    for c in range(w[W_KEPT]):
        if w[W_FLOOR + c] != NEVER:
            number = w[W_NODE + c]
            more = m[m[M_NODES] + number * NODE_COLUMNS + N_SURCHARGE] + m[node_minor + number]
            surcharge = min(surcharge, more)
            fixed = min(fixed, w[W_FLOOR + c] + more)
    for g in range(groups):
        goods = W_GOODS + (1 << g) * GOODS_COLUMNS
        day_minor = w[goods + Q_VALUE] * w[W_ORDER + O_TRANSIT_BP] // 10_000
        least = NEVER
        for c in range(w[W_KEPT]):
            if (w[W_FULL + c] >> g) & 1 and w[W_FLOOR + c] != NEVER:
                node = m[M_NODES] + w[W_NODE + c] * NODE_COLUMNS
                cost = m[node + N_LINE] * w[goods + Q_LINES] + m[node + N_UNIT] * w[goods + Q_UNITS]
                cost += w[W_DAYS + c] * day_minor + w[W_OPPORTUNITY + c * GROUPS_EXACT + g]
                least = min(least, cost)
        w[W_LEAST + (1 << g)] = least
    for subset in range(1, 1 << groups):
        low = subset & -subset
        if subset != low:
            w[W_LEAST + subset] = min(w[W_LEAST + low] + w[W_LEAST + (subset ^ low)], NEVER)
    _nearest_zones(m, w)
    for subset in range(1, 1 << groups):
        leg = max(fixed, min(NEVER, _parcels_least(m, w, subset) + surcharge))
        w[W_LEAST + subset] = min(w[W_LEAST + subset] + leg, NEVER)


@inner
def _less(w: I64, a: int, b: int) -> bool:
    """Whether a trial comes before another: score, last delivery day, node numbers."""
    if w[a + D_SCORE] != w[b + D_SCORE]:
        return bool(w[a + D_SCORE] < w[b + D_SCORE])
    if w[a + D_DAY] != w[b + D_DAY]:
        return bool(w[a + D_DAY] < w[b + D_DAY])
    for n in range(LEGS_EXACT):
        if w[a + D_NODE + n] != w[b + D_NODE + n]:
            return bool(w[a + D_NODE + n] < w[b + D_NODE + n])
    return bool(w[a + D_MASK] < w[b + D_MASK])


@inner
def _collect(w: I64) -> None:
    """Put the trial among the cheapest ways; when they are full, the runner-up's score is the last one's: the bar to pass."""
    used = w[W_WAYS_USED]
    at = W_WAYS + used * TRIAL_COLUMNS
    if used == WAYS_MAX:
        at -= TRIAL_COLUMNS
        if not _less(w, W_TRIAL, at):
            return
    else:
        w[W_WAYS_USED] = used + 1
    while at > W_WAYS and _less(w, W_TRIAL, at - TRIAL_COLUMNS):
        for n in range(TRIAL_COLUMNS):
            w[at + n] = w[at - TRIAL_COLUMNS + n]
        at -= TRIAL_COLUMNS
    for n in range(TRIAL_COLUMNS):
        w[at + n] = w[W_TRIAL + n]
    if w[W_WAYS_USED] == WAYS_MAX:
        w[W_RUNNER + D_SCORE] = w[W_WAYS + (WAYS_MAX - 1) * TRIAL_COLUMNS + D_SCORE]


@inner
def _consider(w: I64, legs: int) -> None:
    """Compare the trial (score, day, masks, candidates filled in) with the best and the runner-up."""
    if w[W_TRIAL + D_SCORE] > w[W_RUNNER + D_SCORE]:
        return
    w[W_TRIAL + D_LEGS] = legs
    for n in range(LEGS_EXACT):
        if n < legs:
            w[W_TRIAL + D_NODE + n] = w[W_NODE + w[W_TRIAL + D_CANDIDATE + n]]
        else:
            w[W_TRIAL + D_NODE + n] = NEVER
            w[W_TRIAL + D_MASK + n] = 0
            w[W_TRIAL + D_CANDIDATE + n] = 0
    nodes = W_TRIAL + D_NODE
    for a in range(1, legs):
        for b in range(a, 0, -1):
            if w[nodes + b] < w[nodes + b - 1]:
                swap = w[nodes + b]
                w[nodes + b] = w[nodes + b - 1]
                w[nodes + b - 1] = swap
    if w[W_COLLECT]:
        _collect(w)
        return
    same = w[W_BEST + D_LEGS] == legs
    for n in range(LEGS_EXACT):
        same = same and w[W_BEST + D_NODE + n] == w[nodes + n]
    if _less(w, W_TRIAL, W_BEST):
        for n in range(TRIAL_COLUMNS):
            if not same and w[W_BEST + D_LEGS] > 0:
                w[W_RUNNER + n] = w[W_BEST + n]
        for n in range(TRIAL_COLUMNS):
            w[W_BEST + n] = w[W_TRIAL + n]
    elif not same and _less(w, W_TRIAL, W_RUNNER):
        for n in range(TRIAL_COLUMNS):
            w[W_RUNNER + n] = w[W_TRIAL + n]


@inner
def _put(w: I64, n: int, subset: int, e: int) -> None:
    w[W_TRIAL + D_MASK + n] = subset
    w[W_TRIAL + D_CANDIDATE + n] = w[W_ENTRY + subset * ENTRIES + e]


@inner
def _try_two(m: I64, w: I64, alone: I64, a: int, b: int) -> None:
    fill_entries(m, w, alone, a)
    if w[W_SCORE + a * ENTRIES] + w[W_LEAST + b] > w[W_RUNNER + D_SCORE]:
        return
    fill_entries(m, w, alone, b)
    for x in range(w[W_ENTRIES]):
        p = a * ENTRIES + x
        if w[W_ENTRY + p] < 0:
            break
        for y in range(w[W_ENTRIES]):
            q = b * ENTRIES + y
            if w[W_ENTRY + q] < 0:
                break
            if w[W_ENTRY + p] == w[W_ENTRY + q]:
                continue
            if w[W_SCORE + p] + w[W_SCORE + q] > w[W_RUNNER + D_SCORE]:
                break  # dearer candidates of b follow
            w[W_TRIAL + D_SCORE] = w[W_SCORE + p] + w[W_SCORE + q]
            w[W_TRIAL + D_DAY] = max(w[W_DAY + p], w[W_DAY + q])
            _put(w, 0, a, x)
            _put(w, 1, b, y)
            _consider(w, 2)


@inner
def _try_three(m: I64, w: I64, alone: I64, a: int, b: int, c: int) -> None:
    fill_entries(m, w, alone, a)
    if w[W_SCORE + a * ENTRIES] + w[W_LEAST + b] + w[W_LEAST + c] > w[W_RUNNER + D_SCORE]:
        return
    fill_entries(m, w, alone, b)
    if w[W_SCORE + a * ENTRIES] + w[W_SCORE + b * ENTRIES] + w[W_LEAST + c] > w[W_RUNNER + D_SCORE]:
        return
    fill_entries(m, w, alone, c)
    for x in range(w[W_ENTRIES]):
        p = a * ENTRIES + x
        if w[W_ENTRY + p] < 0:
            break
        for y in range(w[W_ENTRIES]):
            q = b * ENTRIES + y
            if w[W_ENTRY + q] < 0:
                break
            if w[W_ENTRY + p] == w[W_ENTRY + q]:
                continue
            for z in range(w[W_ENTRIES]):
                r = c * ENTRIES + z
                if w[W_ENTRY + r] < 0:
                    break
                if w[W_ENTRY + r] == w[W_ENTRY + p] or w[W_ENTRY + r] == w[W_ENTRY + q]:
                    continue
                if w[W_SCORE + p] + w[W_SCORE + q] + w[W_SCORE + r] > w[W_RUNNER + D_SCORE]:
                    break  # dearer candidates of c follow
                w[W_TRIAL + D_SCORE] = w[W_SCORE + p] + w[W_SCORE + q] + w[W_SCORE + r]
                w[W_TRIAL + D_DAY] = max(w[W_DAY + p], w[W_DAY + q], w[W_DAY + r])
                _put(w, 0, a, x)
                _put(w, 1, b, y)
                _put(w, 2, c, z)
                _consider(w, 3)


@inner
def search_plan(m: I64, w: I64, alone: I64, groups: int, wanted: int, max_legs: int) -> bool:
    """Best plan and runner-up for the groups in `wanted`; False = at most three (or `max_legs`) nodes cannot serve them.

    With W_COLLECT the cheapest ways are gathered instead, of more candidates a subset (W_ENTRIES).
    """
    w[W_WAYS_USED] = 0
    for n in range(TRIAL_COLUMNS):
        w[W_BEST + n] = 0
        w[W_RUNNER + n] = 0
    w[W_BEST + D_SCORE] = NEVER
    w[W_RUNNER + D_SCORE] = NEVER
    fill_entries(m, w, alone, wanted)
    for e in range(w[W_ENTRIES]):
        p = wanted * ENTRIES + e
        if w[W_ENTRY + p] < 0:
            break
        w[W_TRIAL + D_SCORE] = w[W_SCORE + p]
        w[W_TRIAL + D_DAY] = w[W_DAY + p]
        _put(w, 0, wanted, e)
        _consider(w, 1)
    if max_legs < 2 or wanted & (wanted - 1) == 0:
        return bool(w[W_BEST + D_LEGS] > 0 or w[W_WAYS_USED] > 0)
    set_least(m, w, groups)
    least_value = m[m[M_POLICY] + w[W_ORDER + O_POLICY] * POLICY_COLUMNS + Y_LEG_VALUE]
    rest = wanted ^ (wanted & -wanted)
    sub = rest
    while sub:  # what the leg of the lowest group leaves to the others
        a = wanted ^ sub
        if _worth(w, a, least_value):
            left = w[W_RUNNER + D_SCORE] - w[W_LEAST + a]
            if w[W_LEAST + sub] <= left and _worth(w, sub, least_value):
                _try_two(m, w, alone, a, sub)
            if max_legs >= 3:
                rest_2 = sub ^ (sub & -sub)
                c = rest_2
                while c:
                    b = sub ^ c
                    left = w[W_RUNNER + D_SCORE] - w[W_LEAST + a]
                    if (
                        w[W_LEAST + b] + w[W_LEAST + c] <= left
                        and _worth(w, b, least_value)
                        and _worth(w, c, least_value)
                    ):
                        _try_three(m, w, alone, a, b, c)
                    c = (c - 1) & rest_2
        sub = (sub - 1) & rest
    return bool(w[W_BEST + D_LEGS] > 0 or w[W_WAYS_USED] > 0)


@inner
def _worth(w: I64, subset: int, least_value: int) -> bool:
    return bool(w[W_GOODS + subset * GOODS_COLUMNS + Q_VALUE] >= least_value)
