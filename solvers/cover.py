"""Large orders, and orders that three nodes do not cover: greedy cover, then moves, all legs priced in full.

A line's quantity is divided among nodes only where it may be and no single candidate has all of it. Two greedy orders are
tried (most goods a leg, least money for the goods), for short orders also every near candidate as the first leg; the plan that
leaves least unfilled wins, then the cheapest. Where that leaves something open and a day was too full for all that a candidate has,
they are tried again with legs that keep to the room of their days. Where all of them have a leg of less value than the policy lets
split off, they are tried again with fewer legs.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    A_LEG,
    A_TRIAL,
    CAP_LINES,
    COVER_COLUMNS,
    G_CASH,
    G_CASH_LINES,
    G_CASH_SURCHARGE,
    G_CASH_UNITS,
    G_LATE,
    G_OPPORTUNITY,
    G_POLICY,
    G_TRANSIT,
    GOODS_COLUMNS,
    I32,
    I64,
    LEGS_MAX,
    M_NODES,
    M_POLICY,
    N_CAP_KIND,
    NEVER,
    NODE_COLUMNS,
    O_LINE_COUNT,
    O_POLICY,
    POLICY_COLUMNS,
    Q_LINES,
    Q_NEED,
    Q_OPPORTUNITY,
    Q_PACKED,
    Q_UNITS,
    Q_VALUE,
    Q_VOLUME,
    Q_WEIGHT,
    T_ALONE,
    T_CANON,
    T_DIVIDE,
    T_FIRST,
    T_GROUP,
    T_LEFT,
    T_NEED,
    T_NEXT,
    T_SIZE,
    T_SPLIT,
    T_UNITS,
    T_VALUE,
    T_VOLUME,
    T_WEIGHT,
    T_WHOLE,
    W_ALONE,
    W_CAPACITY,
    W_COVER,
    W_COVER_BEST,
    W_COVER_CANDIDATE,
    W_COVER_RUNNER,
    W_COVER_TRIAL,
    W_FITTING,
    W_FLOOR,
    W_GROUPS,
    W_KEPT,
    W_LEG,
    W_LEG_CANDIDATE,
    W_LEG_GOODS,
    W_LEG_SCORE,
    W_NODE,
    W_OPENED,
    W_ORDER,
    W_ROOM,
    W_TRIAL_GOODS,
    X_FREE,
    X_LEFT,
    X_ROW,
    Y_LEG_VALUE,
)
from solvers.legs import price_leg, room_at
from solvers.tariff import times

ROUNDS = 3
SHORT_LINES = 12
STARTS = 8
MOST_GOODS, LEAST_MONEY = 0, 1


@inner
def add_goods(w: I64, table: I64, alone: I64, goods: int, column: int, i: int, units: int, price: int) -> None:
    """Add units of a line to goods (negative = take them away; its handling needs then stay)."""
    many = abs(units)
    sign = 1 if units > 0 else -1
    w[goods + Q_LINES] += sign
    w[goods + Q_UNITS] += units
    w[goods + Q_NEED] |= table[i, T_NEED]
    w[goods + Q_VALUE] += sign * times(many, table[i, T_VALUE])
    if price:
        w[goods + Q_OPPORTUNITY] += sign * times(many, price)
    if table[i, T_ALONE] >= 0:
        alone[table[i, T_ALONE], column] += units
    else:
        w[goods + Q_PACKED] += units
        w[goods + Q_WEIGHT] += sign * times(many, table[i, T_WEIGHT])
        w[goods + Q_VOLUME] += sign * times(many, table[i, T_VOLUME])


@inner
def clear_goods(w: I64, alone: I64, goods: int, column: int) -> None:
    """No goods yet."""
    for q in range(GOODS_COLUMNS):
        w[goods + q] = 0
    for n in range(w[W_ALONE]):
        alone[n, column] = 0


@inner
def price_of(prices: I32, grid: I64, c: int, i: int) -> int:
    """Opportunity price of a unit of a line at a candidate."""
    row = grid[X_ROW, c, i]
    return int(prices[row]) if 0 <= row < prices.shape[0] else 0


@inner
def _prepare(w: I64, table: I64, grid: I64) -> None:
    """Chain the lines of each group, and find the lines that no single candidate can fill."""
    for g in range(w[W_GROUPS]):
        table[g, T_FIRST] = -1
    for i in range(w[W_ORDER + O_LINE_COUNT] - 1, -1, -1):
        g = table[i, T_GROUP]
        table[i, T_NEXT] = table[g, T_FIRST]
        table[g, T_FIRST] = i
        table[i, T_DIVIDE] = 0
        if table[i, T_SPLIT] and table[g, T_SIZE] == 1:
            most = 0
            for c in range(w[W_KEPT]):
                if w[W_FLOOR + c] != NEVER:
                    most = max(most, grid[X_FREE, c, i])
            if most < table[i, T_UNITS]:
                table[i, T_DIVIDE] = 1


@inner
def _fits(table: I64, grid: I64, c: int, g: int) -> bool:
    """Whether a candidate still has what a group lacks (lines of one item within it are looked at apart)."""
    i = table[g, T_FIRST]
    while i >= 0:
        if table[i, T_LEFT] <= 0 or grid[X_LEFT, c, table[i, T_CANON]] < table[i, T_LEFT]:
            return False
        i = table[i, T_NEXT]
    return True


@inner
def _room(m: I64, w: I64, c: int) -> tuple[int, bool]:
    """Capacity that a leg may take at a candidate, and whether it counts lines (else units); NEVER = as much as it has."""
    if not w[W_FITTING]:
        return NEVER, False
    kind = m[m[M_NODES] + w[W_NODE + c] * NODE_COLUMNS + N_CAP_KIND]
    return int(w[W_ROOM + c]), bool(kind == CAP_LINES)


@inner
def _load(table: I64, g: int, by_lines: bool) -> int:
    """Capacity that all a group lacks takes."""
    load = 0
    i = table[g, T_FIRST]
    while i >= 0:
        load += 1 if by_lines else table[i, T_LEFT]
        i = table[i, T_NEXT]
    return int(load)


@inner
def _units_at(table: I64, grid: I64, c: int, i: int, room: int, by_lines: bool) -> int:
    """Units of a divided line that a candidate can take."""
    units = min(table[i, T_LEFT], grid[X_LEFT, c, table[i, T_CANON]])
    if by_lines:
        return int(units) if room > 0 else 0
    return int(min(units, room))


@inner
def _gain(m: I64, w: I64, table: I64, grid: I64, alone: I64, prices: I32, c: int, mode: int) -> tuple[int, int]:
    """(rank, units) of what opening a candidate would bring; the lowest rank is best; units 0 = nothing."""
    goods = W_TRIAL_GOODS
    clear_goods(w, alone, goods, A_TRIAL)
    share = 0
    room, by_lines = _room(m, w, c)
    for g in range(w[W_GROUPS]):
        i = table[g, T_FIRST]
        if table[i, T_LEFT] <= 0:
            continue
        if table[i, T_DIVIDE]:
            units = _units_at(table, grid, c, i, room, by_lines)
            if units > 0:
                share += units * 1_000 // table[i, T_UNITS] + 1
                add_goods(w, table, alone, goods, A_TRIAL, i, units, price_of(prices, grid, c, i))
                room -= 1 if by_lines else units
        elif _fits(table, grid, c, g) and (room == NEVER or _load(table, g, by_lines) <= room):
            if room != NEVER:
                room -= _load(table, g, by_lines)
            while i >= 0:
                share += 1_000
                add_goods(w, table, alone, goods, A_TRIAL, i, table[i, T_LEFT], price_of(prices, grid, c, i))
                i = table[i, T_NEXT]
    if share == 0:
        return NEVER, 0
    if mode == MOST_GOODS:
        return c - share * 64, int(w[goods + Q_UNITS])
    score = price_leg(m, w, alone, c, goods, A_TRIAL, W_LEG)
    if score == NEVER:
        return NEVER, 0
    return min(score, NEVER // 4_096) * 1_000 // share, int(w[goods + Q_UNITS])


@inner
def _move_in(
    w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, c: int, leg: int, i: int, many: int
) -> None:
    units[leg, i] += many
    grid[X_LEFT, c, table[i, T_CANON]] -= many
    goods = W_LEG_GOODS + leg * GOODS_COLUMNS
    add_goods(w, table, alone, goods, A_LEG + leg, i, many, price_of(prices, grid, c, i))


@inner
def _move_out(w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, c: int, leg: int, i: int) -> None:
    many = units[leg, i]
    units[leg, i] = 0
    grid[X_LEFT, c, table[i, T_CANON]] += many
    goods = W_LEG_GOODS + leg * GOODS_COLUMNS
    add_goods(w, table, alone, goods, A_LEG + leg, i, -many, price_of(prices, grid, c, i))
    if table[i, T_NEED]:
        w[goods + Q_NEED] = 0
        for j in range(w[W_ORDER + O_LINE_COUNT]):
            if units[leg, j] > 0:
                w[goods + Q_NEED] |= table[j, T_NEED]


@inner
def _open(m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, c: int, leg: int) -> int:
    """Give a new leg all that its candidate can take; units given."""
    w[W_OPENED + c] = 1
    w[W_LEG_CANDIDATE + leg] = c
    clear_goods(w, alone, W_LEG_GOODS + leg * GOODS_COLUMNS, A_LEG + leg)
    for i in range(w[W_ORDER + O_LINE_COUNT]):
        units[leg, i] = 0
    given = 0
    room, by_lines = _room(m, w, c)
    for g in range(w[W_GROUPS]):
        i = table[g, T_FIRST]
        if table[i, T_LEFT] <= 0:
            continue
        if table[i, T_DIVIDE]:
            many = _units_at(table, grid, c, i, room, by_lines)
            if many > 0:
                _move_in(w, table, grid, units, alone, prices, c, leg, i, many)
                table[i, T_LEFT] -= many
                given += many
                room -= 1 if by_lines else many
        elif _fits(table, grid, c, g) and (room == NEVER or _load(table, g, by_lines) <= room):
            load = 0 if room == NEVER else _load(table, g, by_lines)
            room -= load
            while i >= 0:
                many = table[i, T_LEFT]
                if grid[X_LEFT, c, table[i, T_CANON]] < many:
                    break
                _move_in(w, table, grid, units, alone, prices, c, leg, i, many)
                table[i, T_LEFT] = 0
                given += many
                i = table[i, T_NEXT]
            if i >= 0:  # two lines of one item in a group: together they do not fit
                room += load
                j = table[g, T_FIRST]
                while j != i:
                    given -= units[leg, j]
                    table[j, T_LEFT] = units[leg, j]
                    _move_out(w, table, grid, units, alone, prices, c, leg, j)
                    j = table[j, T_NEXT]
    return given


@inner
def _take(table: I64, grid: I64, units: I64, a: int, c: int, count: int) -> bool:
    """Take all of leg a from a candidate's stock, or nothing where it lacks some: lines of one item draw on the same units."""
    for i in range(count):
        if grid[X_LEFT, c, table[i, T_CANON]] < units[a, i]:
            _give(table, grid, units, a, c, i)
            return False
        grid[X_LEFT, c, table[i, T_CANON]] -= units[a, i]
    return True


@inner
def _give(table: I64, grid: I64, units: I64, a: int, c: int, count: int) -> None:
    """Give the first lines of leg a back to a candidate's stock."""
    for i in range(count):
        grid[X_LEFT, c, table[i, T_CANON]] += units[a, i]


@inner
def _close(w: I64, table: I64, grid: I64, units: I64, c: int, leg: int) -> None:
    """Give back all that an opened leg took; its candidate stays opened, so that it is not tried again."""
    count = w[W_ORDER + O_LINE_COUNT]
    _give(table, grid, units, leg, c, count)
    for i in range(count):
        table[i, T_LEFT] += units[leg, i]
        units[leg, i] = 0


@inner
def _price(m: I64, w: I64, alone: I64, leg: int) -> int:
    """Score of a leg as it is; 0 when it is empty."""
    goods = W_LEG_GOODS + leg * GOODS_COLUMNS
    if w[goods + Q_LINES] == 0:
        return 0
    return price_leg(m, w, alone, w[W_LEG_CANDIDATE + leg], goods, A_LEG + leg, W_LEG)


@inner
def _try_move(
    m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, g: int, a: int, b: int
) -> bool:
    """Move a group from leg a to leg b where both together become cheaper."""
    ca = w[W_LEG_CANDIDATE + a]
    cb = w[W_LEG_CANDIDATE + b]
    if w[W_LEG_GOODS + b * GOODS_COLUMNS + Q_LINES] == 0:
        return False
    i = table[g, T_FIRST]
    while i >= 0:
        if grid[X_LEFT, cb, table[i, T_CANON]] < table[i, T_WHOLE]:
            return False
        i = table[i, T_NEXT]
    before = w[W_LEG_SCORE + a] + w[W_LEG_SCORE + b]
    i = table[g, T_FIRST]
    while i >= 0:
        many = units[a, i]
        _move_out(w, table, grid, units, alone, prices, ca, a, i)
        _move_in(w, table, grid, units, alone, prices, cb, b, i, many)
        i = table[i, T_NEXT]
    score_a = _price(m, w, alone, a)
    score_b = _price(m, w, alone, b)
    if score_a != NEVER and score_b != NEVER and score_a + score_b < before:
        w[W_LEG_SCORE + a] = score_a
        w[W_LEG_SCORE + b] = score_b
        return True
    i = table[g, T_FIRST]
    while i >= 0:
        many = units[b, i]
        _move_out(w, table, grid, units, alone, prices, cb, b, i)
        _move_in(w, table, grid, units, alone, prices, ca, a, i, many)
        i = table[i, T_NEXT]
    return False


@inner
def _try_swap(m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, a: int, c: int) -> bool:
    """Give all of leg a to an unused candidate where that is cheaper."""
    count = w[W_ORDER + O_LINE_COUNT]
    if not _take(table, grid, units, a, c, count):
        return False
    old_goods = W_LEG_GOODS + a * GOODS_COLUMNS
    for q in range(GOODS_COLUMNS):
        w[W_TRIAL_GOODS + q] = w[old_goods + q]
    w[W_TRIAL_GOODS + Q_OPPORTUNITY] = 0
    if prices.shape[0] > 0:
        for i in range(count):
            w[W_TRIAL_GOODS + Q_OPPORTUNITY] += times(units[a, i], price_of(prices, grid, c, i))
    score = price_leg(m, w, alone, c, W_TRIAL_GOODS, A_LEG + a, W_LEG)
    if score >= w[W_LEG_SCORE + a]:
        _give(table, grid, units, a, c, count)
        return False
    old = w[W_LEG_CANDIDATE + a]
    _give(table, grid, units, a, old, count)
    w[W_OPENED + old] = 0
    w[W_OPENED + c] = 1
    w[W_LEG_CANDIDATE + a] = c
    for q in range(GOODS_COLUMNS):
        w[old_goods + q] = w[W_TRIAL_GOODS + q]
    w[W_LEG_SCORE + a] = score
    return True


@inner
def _improve(m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, legs: int) -> None:
    """Move single groups between legs, and legs to unused candidates, while that is cheaper."""
    for _ in range(ROUNDS):
        changed = False
        if legs > 1:
            for g in range(w[W_GROUPS]):
                i = table[g, T_FIRST]
                if table[i, T_DIVIDE] or table[i, T_LEFT] > 0:
                    continue
                a = 0
                while a < legs and units[a, i] == 0:
                    a += 1
                if a == legs:
                    continue
                for b in range(legs):
                    if b != a and _try_move(m, w, table, grid, units, alone, prices, g, a, b):
                        changed = True
                        break
        for a in range(legs):
            if w[W_LEG_GOODS + a * GOODS_COLUMNS + Q_LINES] == 0:
                continue
            for c in range(w[W_KEPT]):
                unused = w[W_OPENED + c] == 0 and w[W_FLOOR + c] != NEVER
                if unused and _try_swap(m, w, table, grid, units, alone, prices, a, c):
                    changed = True
        if not changed:
            return


@inner
def _attempt(
    m: I64,
    w: I64,
    table: I64,
    grid: I64,
    units: I64,
    alone: I64,
    prices: I32,
    max_legs: int,
    mode: int,
    start: int,
) -> None:
    """One greedy cover with moves; kept where it beats the best so far."""
    count = w[W_ORDER + O_LINE_COUNT]
    for i in range(count):
        table[i, T_LEFT] = table[i, T_UNITS]
    for c in range(w[W_KEPT]):
        w[W_OPENED + c] = 0
        for i in range(count):
            grid[X_LEFT, c, i] = grid[X_FREE, c, i]
    legs = 0
    forced = start
    while legs < max_legs:
        best_c = forced
        if forced < 0:
            best_rank = NEVER
            best_units = 0
            for c in range(w[W_KEPT]):
                if w[W_OPENED + c] or w[W_FLOOR + c] == NEVER:
                    continue
                rank, more = _gain(m, w, table, grid, alone, prices, c, mode)
                if more > 0 and (rank < best_rank or (rank == best_rank and more > best_units)):
                    best_c = c
                    best_rank = rank
                    best_units = more
        forced = -1
        if best_c < 0:
            break
        if _open(m, w, table, grid, units, alone, prices, best_c, legs) > 0:
            score = _price(m, w, alone, legs)
            if score == NEVER:  # no room or no service for so much
                _close(w, table, grid, units, best_c, legs)
            else:
                w[W_LEG_SCORE + legs] = score
                legs += 1
    if legs == 0:
        return
    _improve(m, w, table, grid, units, alone, prices, legs)
    if _keep(m, w, table, alone, legs):
        w[W_COVER] = legs
        for a in range(legs):
            empty = w[W_LEG_GOODS + a * GOODS_COLUMNS + Q_LINES] == 0
            w[W_COVER_CANDIDATE + a] = -1 if empty else w[W_LEG_CANDIDATE + a]
            for i in range(count):
                units[LEGS_MAX + a, i] = units[a, i]


@inner
def _leg_value(m: I64, w: I64) -> int:
    """Least value that the order's policy asks of each of several legs."""
    return int(m[m[M_POLICY] + w[W_ORDER + O_POLICY] * POLICY_COLUMNS + Y_LEG_VALUE])


@inner
def _keep(m: I64, w: I64, table: I64, alone: I64, legs: int) -> bool:
    """Compare the cover at hand with the best and its runner-up (the best one of other nodes); whether it is the best now.

    One of several legs, some of them worth less than the policy allows, is neither.
    """
    trial = W_COVER_TRIAL
    least_value = NEVER
    for n in range(COVER_COLUMNS):
        w[trial + n] = 0
    for i in range(w[W_ORDER + O_LINE_COUNT]):
        w[trial + 1] += table[i, T_LEFT]
    for a in range(legs):
        if w[W_LEG_GOODS + a * GOODS_COLUMNS + Q_LINES] == 0:
            continue
        w[trial + 2] += _price(m, w, alone, a)
        add_money(w, w, trial + 3)
        least_value = min(least_value, w[W_LEG_GOODS + a * GOODS_COLUMNS + Q_VALUE])
        node = w[W_NODE + w[W_LEG_CANDIDATE + a]]
        n = w[trial]
        while n > 0 and w[trial + 7 + n - 1] > node:
            w[trial + 7 + n] = w[trial + 7 + n - 1]
            n -= 1
        w[trial + 7 + n] = node
        w[trial] += 1
    if w[trial] > 1 and least_value < _leg_value(m, w):
        return False
    best = W_COVER_BEST
    same = w[best] == w[trial]
    for n in range(w[trial]):
        same = same and w[best + 7 + n] == w[trial + 7 + n]
    if _cheaper(w, trial, best):
        for n in range(COVER_COLUMNS):
            if not same:
                w[W_COVER_RUNNER + n] = w[best + n]
        for n in range(COVER_COLUMNS):
            w[best + n] = w[trial + n]
        return True
    if not same and _cheaper(w, trial, W_COVER_RUNNER):
        for n in range(COVER_COLUMNS):
            w[W_COVER_RUNNER + n] = w[trial + n]
    return False


@inner
def _cheaper(w: I64, a: int, b: int) -> bool:
    """Whether a cover leaves less open than another, or costs less; any is better than none."""
    if w[b] == 0 or w[a + 1] != w[b + 1]:
        return bool(w[b] == 0 or w[a + 1] < w[b + 1])
    return bool(w[a + 2] < w[b + 2])


@inner
def add_money(w: I64, sums: I64, at: int) -> None:
    """Add cash, service, policy and opportunity money of the leg on trial to `sums[at..]`."""
    sums[at] += w[W_LEG + G_CASH] + w[W_LEG + G_CASH_LINES] + w[W_LEG + G_CASH_UNITS] + w[W_LEG + G_CASH_SURCHARGE]
    sums[at + 1] += w[W_LEG + G_LATE] + w[W_LEG + G_TRANSIT]
    sums[at + 2] += w[W_LEG + G_POLICY]
    sums[at + 3] += w[W_LEG + G_OPPORTUNITY]


@inner
def _attempts(m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, legs: int) -> None:
    """Both greedy orders, and for short orders every near candidate as the first leg."""
    _attempt(m, w, table, grid, units, alone, prices, legs, MOST_GOODS, -1)
    _attempt(m, w, table, grid, units, alone, prices, legs, LEAST_MONEY, -1)
    one_leg = w[W_COVER_BEST] == 1 and w[W_COVER_BEST + 1] == 0  # then every candidate was tried in its place
    if w[W_ORDER + O_LINE_COUNT] <= SHORT_LINES and not one_leg:
        for c in range(min(w[W_KEPT], STARTS)):
            if w[W_FLOOR + c] != NEVER:
                _attempt(m, w, table, grid, units, alone, prices, legs, LEAST_MONEY, c)


@inner
def cover_order(m: I64, w: I64, table: I64, grid: I64, units: I64, alone: I64, prices: I32, max_legs: int) -> None:
    """Cover as much of a part as stock and legs allow.

    The legs are at W_COVER (how many, with gaps) and W_COVER_CANDIDATE (-1 = none), their units from `units[LEGS_MAX]` on;
    W_COVER_BEST and W_COVER_RUNNER sum up the best cover and the best one of other nodes.
    """
    _prepare(w, table, grid)
    w[W_COVER] = 0
    w[W_COVER_BEST] = 0
    w[W_COVER_RUNNER] = 0
    w[W_FITTING] = 0
    legs = min(max_legs, LEGS_MAX)
    _attempts(m, w, table, grid, units, alone, prices, legs)
    if w[W_CAPACITY] and (w[W_COVER_BEST] == 0 or w[W_COVER_BEST + 1] > 0):
        w[W_FITTING] = 1
        for c in range(w[W_KEPT]):
            w[W_ROOM + c] = room_at(m, w, c)
        _attempts(m, w, table, grid, units, alone, prices, legs)
        w[W_FITTING] = 0
    while legs > 1 and w[W_COVER_BEST] == 0 and _leg_value(m, w) > 0:
        legs -= 1
        _attempts(m, w, table, grid, units, alone, prices, legs)
