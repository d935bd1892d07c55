"""One call plans a batch: part after part, each on the stock that the parts before it left.

What a part takes is claimed in the position columns while the batch is planned and given back before the call returns, so that
the caller's state is unchanged. An order that may not be partly served and cannot be served whole takes nothing.
"""

from __future__ import annotations

from solvers.candidates import choose_candidates, read_candidates, see_holders, take
from solvers.columns import fill_subsets, price_subset, search_plan
from solvers.cover import add_goods, clear_goods, cover_order, price_of
from solvers.explain import explain_part
from solvers.jit import jit
from solvers.layout import (
    A_GROUP,
    A_TRIAL,
    A_UNITS,
    A_VOLUME,
    A_WEIGHT,
    CANDIDATES_MAX,
    D_CANDIDATE,
    D_LEGS,
    D_MASK,
    D_NODE,
    G_CAP_UNITS,
    G_DAYS,
    G_DELIVER_BY,
    G_DELIVER_DAY,
    G_KM,
    G_LINE,
    G_LINE_COUNT,
    G_NODE,
    G_SERVICE,
    G_SHIP_BY,
    G_SHIP_DAY,
    GOODS_COLUMNS,
    GROUPS_EXACT,
    H_ZONE,
    I64,
    I_FLAGS,
    I_NEED,
    I_VALUE,
    I_VOLUME,
    I_WEIGHT,
    ITEM_ALONE,
    ITEM_ASSUMED,
    K_LINE,
    K_ROW,
    K_UNITS,
    L_GROUP,
    L_ITEM,
    L_NEED,
    L_SPLIT,
    L_UNITS,
    L_VALUE,
    LEGS_EXACT,
    LEGS_MAX,
    M_LEVELS,
    M_POLICY,
    M_SERVICES,
    MAX_LEGS,
    NEVER,
    NO_CAPACITY,
    NO_NODE,
    O_ATOMIC,
    O_HOME,
    O_LAST,
    O_LEVEL,
    O_LEVEL_COUNT,
    O_LINE,
    O_LINE_COUNT,
    O_MAX_LEGS,
    O_POLICY,
    ORDER_COLUMNS,
    OUT_OF_STOCK,
    POLICY_COLUMNS,
    R_ASSUMED,
    R_CANDIDATE,
    R_COLLIDED,
    R_CONSIDERED,
    R_LEG,
    R_LEG_COUNT,
    R_REFUSED,
    R_SCOPE,
    R_SCORE,
    R_SEEN,
    R_UNFILLED,
    R_UNFILLED_COUNT,
    REACH_COLUMNS,
    RING,
    S_TAGS,
    SCOPE_COLUMNS,
    SCOPE_SPLITS,
    SERVICE_COLUMNS,
    SERVICES_MAX,
    T_ALONE,
    T_ANY,
    T_CANON,
    T_GROUP,
    T_ITEM,
    T_MAY,
    T_MOST,
    T_NEED,
    T_SIZE,
    T_SPLIT,
    T_UNITS,
    T_VALUE,
    T_VOLUME,
    T_WEIGHT,
    T_WHOLE,
    U_LINE,
    U_REASON,
    U_UNITS,
    W_ALONE,
    W_BEST,
    W_CAPACITY,
    W_COLLIDED,
    W_COVER,
    W_COVER_CANDIDATE,
    W_FLOOR,
    W_FULL,
    W_GOODS,
    W_GROUPS,
    W_KEPT,
    W_KM,
    W_LEG,
    W_NODE,
    W_OPPORTUNITY,
    W_ORDER,
    W_REACH,
    W_STAMP,
    W_TRIAL_GOODS,
    W_VALUE,
    X_FREE,
    X_ROW,
    Y_MAX_LEGS,
    Batch,
    Load,
    Outcome,
    Scratch,
    Stock,
)
from solvers.legs import deliver_by, price_leg, reach_candidate
from solvers.tariff import times

NO_ROOM = -1
"""The outcome's arrays are too small: call again with larger ones; nothing has changed."""
VALUE_MAX = 100_000_000_000
"""A line's worth counts up to this (minor units), so that days x rate x value stays in int64."""
_LEGS, _LEG_LINES, _UNFILLED, _CANDIDATES = range(4)


@jit
def _read_part(w: I64, table: I64, alone: I64, batch: Batch, part: int) -> int:
    """Copy a part's rows to the scratch, number its groups, measure its units; lines of assumed weight.

    Lines of the same item are tied together: a node holds one of them whole only if it has the units of all.
    """
    for n in range(ORDER_COLUMNS):
        w[W_ORDER + n] = batch.parts[part, n]
    first = w[W_ORDER + O_LINE]
    count = w[W_ORDER + O_LINE_COUNT]
    groups = 0
    alone_count = 0
    assumed = 0
    total = 0
    for i in range(count):
        line = first + i
        item = batch.lines[line, L_ITEM]
        units = batch.lines[line, L_UNITS]
        value = batch.lines[line, L_VALUE]
        group = batch.lines[line, L_GROUP]
        table[i, T_ITEM] = item
        table[i, T_UNITS] = units
        table[i, T_SPLIT] = batch.lines[line, L_SPLIT]
        table[i, T_NEED] = batch.lines[line, L_NEED]
        table[i, T_CANON] = i
        table[i, T_WHOLE] = units
        g = -1
        for j in range(i):
            if table[j, T_ITEM] == item and table[i, T_CANON] == i:
                table[i, T_CANON] = table[j, T_CANON]
                table[table[j, T_CANON], T_WHOLE] += units
            if group > 0 and batch.lines[first + j, L_GROUP] == group:
                g = table[j, T_GROUP]
        if g < 0:
            g = groups
            table[g, T_SIZE] = 0
            groups += 1
        table[i, T_GROUP] = g
        table[g, T_SIZE] += 1
        table[i, T_ALONE] = -1
        table[i, T_WEIGHT] = 0
        table[i, T_VOLUME] = 0
        if item < batch.items.shape[0]:
            flags = batch.items[item, I_FLAGS]
            table[i, T_WEIGHT] = batch.items[item, I_WEIGHT]
            table[i, T_VOLUME] = batch.items[item, I_VOLUME]
            table[i, T_NEED] |= batch.items[item, I_NEED]
            if value == 0:
                value = batch.items[item, I_VALUE]
            if flags & ITEM_ASSUMED:
                assumed += 1
            if flags & ITEM_ALONE:
                table[i, T_ALONE] = alone_count
                alone[alone_count, A_WEIGHT] = table[i, T_WEIGHT]
                alone[alone_count, A_VOLUME] = table[i, T_VOLUME]
                alone[alone_count, A_UNITS] = units
                alone[alone_count, A_GROUP] = g
                alone_count += 1
        table[i, T_VALUE] = min(value, VALUE_MAX // units)
        total += table[i, T_VALUE] * units
    for i in range(count):
        table[i, T_WHOLE] = table[table[i, T_CANON], T_WHOLE]
    w[W_GROUPS] = groups
    w[W_ALONE] = alone_count
    w[W_VALUE] = total
    w[W_COLLIDED] = 0
    w[W_CAPACITY] = 0
    return assumed


@jit
def _drop_unserved(m: I64, w: I64, table: I64, grid: I64) -> None:
    """Goods that no service may carry away from a candidate are as good as not there."""
    count = w[W_ORDER + O_LINE_COUNT]
    for i in range(count):
        need = table[i, T_NEED]
        if need == 0:
            continue
        anywhere = False
        for c in range(w[W_KEPT]):
            served = w[W_NODE + c] == w[W_ORDER + O_HOME]
            for p in range(w[W_ORDER + O_LEVEL_COUNT]):
                if w[W_REACH + (c * SERVICES_MAX + p) * REACH_COLUMNS + H_ZONE] >= 0:
                    service = m[M_SERVICES] + m[m[M_LEVELS] + w[W_ORDER + O_LEVEL] + p] * SERVICE_COLUMNS
                    served = served or need & ~m[service + S_TAGS] == 0
            if served:
                anywhere = True
            else:
                grid[X_FREE, c, i] = 0
                if w[W_GROUPS] <= GROUPS_EXACT:
                    w[W_FULL + c] &= ~(1 << table[i, T_GROUP])
        if not anywhere:
            table[i, T_MAY] = 0


@jit
def _group_goods(w: I64, table: I64, grid: I64, alone: I64, stock: Stock) -> None:
    """Goods of every single group, and the price of its units at every candidate."""
    groups = w[W_GROUPS]
    kept = w[W_KEPT]
    for g in range(groups):
        clear_goods(w, alone, W_GOODS + (1 << g) * GOODS_COLUMNS, A_TRIAL)
        for c in range(kept):
            w[W_OPPORTUNITY + c * GROUPS_EXACT + g] = 0
    priced = stock.prices.shape[0] > 0
    for i in range(w[W_ORDER + O_LINE_COUNT]):
        g = table[i, T_GROUP]
        units = table[i, T_UNITS]
        add_goods(w, table, alone, W_GOODS + (1 << g) * GOODS_COLUMNS, A_TRIAL, i, units, 0)
        if priced:
            for c in range(kept):
                w[W_OPPORTUNITY + c * GROUPS_EXACT + g] += times(units, price_of(stock.prices, grid, c, i))


@jit
def _write_leg(m: I64, w: I64, load: Load, outcome: Outcome, c: int) -> int:
    """Copy the leg at W_LEG to the outcome, with what does not depend on its goods; take its capacity; its number."""
    leg_no = outcome.used[_LEGS]
    outcome.used[_LEGS] = leg_no + 1
    leg = outcome.legs[leg_no]
    for n in range(G_DAYS + 1):
        leg[n] = w[W_LEG + n]
    node = w[W_NODE + c]
    leg[G_DELIVER_BY] = deliver_by(m, node, leg[G_SERVICE], leg[G_DELIVER_DAY], leg[G_SHIP_BY])
    leg[G_NODE] = node
    leg[G_KM] = w[W_KM + c]
    leg[G_LINE] = outcome.used[_LEG_LINES]
    leg[G_LINE_COUNT] = 0
    if leg[G_CAP_UNITS] > 0:
        load.taken[node, leg[G_SHIP_DAY] % RING] += leg[G_CAP_UNITS]
    return int(leg_no)


@jit
def _put_line(stock: Stock, taken: I64, outcome: Outcome, leg_no: int, i: int, units: int, row: int) -> None:
    """Add units of a line to a leg and claim them."""
    n = outcome.used[_LEG_LINES]
    outcome.leg_lines[n, K_LINE] = i
    outcome.leg_lines[n, K_UNITS] = units
    outcome.leg_lines[n, K_ROW] = row
    outcome.legs[leg_no, G_LINE_COUNT] += 1
    outcome.used[_LEG_LINES] = n + 1
    stock.claimed[row] += units
    take(taken, row, units)


@jit
def _give_back(stock: Stock, load: Load, taken: I64, outcome: Outcome, from_leg: int, from_line: int) -> None:
    """Undo the claims of the legs from a number on, and forget the legs."""
    for n in range(from_line, outcome.used[_LEG_LINES]):
        row = outcome.leg_lines[n, K_ROW]
        stock.claimed[row] -= outcome.leg_lines[n, K_UNITS]
        take(taken, row, -outcome.leg_lines[n, K_UNITS])
    for n in range(from_leg, outcome.used[_LEGS]):
        if outcome.legs[n, G_CAP_UNITS] > 0:
            slot = outcome.legs[n, G_SHIP_DAY] % RING
            load.taken[outcome.legs[n, G_NODE], slot] -= outcome.legs[n, G_CAP_UNITS]
    outcome.used[_LEG_LINES] = from_line
    outcome.used[_LEGS] = from_leg


@jit
def _write_exact(m: I64, scratch: Scratch, stock: Stock, load: Load, outcome: Outcome, result: I64) -> None:
    """Write the legs of the best plan of the exact search, in the order of their nodes."""
    w = scratch.w
    for n in range(w[W_BEST + D_LEGS]):
        t = 0
        while w[W_NODE + w[W_BEST + D_CANDIDATE + t]] != w[W_BEST + D_NODE + n]:
            t += 1
        c = w[W_BEST + D_CANDIDATE + t]
        subset = w[W_BEST + D_MASK + t]
        result[R_SCORE] += price_subset(m, w, scratch.alone, c, subset, W_LEG)
        leg_no = _write_leg(m, w, load, outcome, c)
        for i in range(w[W_ORDER + O_LINE_COUNT]):
            if (subset >> scratch.table[i, T_GROUP]) & 1:
                units = scratch.table[i, T_UNITS]
                _put_line(stock, scratch.taken, outcome, leg_no, i, units, scratch.grid[X_ROW, c, i])


@jit
def _write_cover(m: I64, scratch: Scratch, stock: Stock, load: Load, outcome: Outcome, result: I64) -> None:
    """Write the legs of the best cover, in the order of their nodes."""
    w = scratch.w
    units = scratch.units
    count = w[W_ORDER + O_LINE_COUNT]
    last = -1
    while True:
        a = -1
        for b in range(w[W_COVER]):
            if w[W_COVER_CANDIDATE + b] >= 0:
                node = w[W_NODE + w[W_COVER_CANDIDATE + b]]
                if node > last and (a < 0 or node < w[W_NODE + w[W_COVER_CANDIDATE + a]]):
                    a = b
        if a < 0:
            break
        c = w[W_COVER_CANDIDATE + a]
        last = w[W_NODE + c]
        clear_goods(w, scratch.alone, W_TRIAL_GOODS, A_TRIAL)
        for i in range(count):
            many = units[LEGS_MAX + a, i]
            if many > 0:
                price = price_of(stock.prices, scratch.grid, c, i)
                add_goods(w, scratch.table, scratch.alone, W_TRIAL_GOODS, A_TRIAL, i, many, price)
        score = price_leg(m, w, scratch.alone, c, W_TRIAL_GOODS, A_TRIAL, W_LEG)
        if score == NEVER:
            continue
        result[R_SCORE] += score
        leg_no = _write_leg(m, w, load, outcome, c)
        for i in range(count):
            many = units[LEGS_MAX + a, i]
            if many > 0:
                _put_line(stock, scratch.taken, outcome, leg_no, i, many, scratch.grid[X_ROW, c, i])


@jit
def _write_unfilled(w: I64, table: I64, outcome: Outcome, result: I64, reachable: bool) -> None:
    """What the legs of a part leave open, and why."""
    count = w[W_ORDER + O_LINE_COUNT]
    start = result[R_LEG]
    end = start + result[R_LEG_COUNT]
    served = 0
    asked = 0
    for i in range(count):
        asked += table[i, T_UNITS]
    for n in range(start, end):
        at = outcome.legs[n, G_LINE]
        for k in range(at, at + outcome.legs[n, G_LINE_COUNT]):
            served += outcome.leg_lines[k, K_UNITS]
    if served == asked:
        return
    for i in range(count):
        left = table[i, T_UNITS]
        for n in range(start, end):
            at = outcome.legs[n, G_LINE]
            for k in range(at, at + outcome.legs[n, G_LINE_COUNT]):
                if outcome.leg_lines[k, K_LINE] == i:
                    left -= outcome.leg_lines[k, K_UNITS]
        if left <= 0:
            continue
        whole = table[i, T_WHOLE]
        grouped = table[table[i, T_GROUP], T_SIZE] > 1
        may_split = table[i, T_SPLIT] != 0 and not grouped
        if table[i, T_ANY] < whole:
            reason = OUT_OF_STOCK
        elif table[i, T_MAY] < whole or not reachable or (not may_split and table[i, T_MOST] < table[i, T_UNITS]):
            reason = NO_NODE
        elif w[W_CAPACITY]:
            reason = NO_CAPACITY
        elif grouped:
            reason = NO_NODE
        else:
            reason = MAX_LEGS
        n = outcome.used[_UNFILLED]
        outcome.unfilled[n, U_LINE] = i
        outcome.unfilled[n, U_UNITS] = left
        outcome.unfilled[n, U_REASON] = reason
        outcome.used[_UNFILLED] = n + 1
        result[R_UNFILLED_COUNT] += 1


@jit
def _plan_part(
    m: I64,
    stock: Stock,
    load: Load,
    batch: Batch,
    scratch: Scratch,
    outcome: Outcome,
    part: int,
    limit: int,
    reach_km: int,
) -> bool:
    """Plan one part and claim its units; False = the outcome's arrays are too small."""
    w = scratch.w
    table = scratch.table
    result = outcome.parts[part]
    result[:] = 0
    result[R_LEG] = outcome.used[_LEGS]
    result[R_UNFILLED] = outcome.used[_UNFILLED]
    result[R_CANDIDATE] = outcome.used[_CANDIDATES]
    w[W_STAMP] += 1
    result[R_ASSUMED] = _read_part(w, table, scratch.alone, batch, part)
    groups = w[W_GROUPS]
    count = w[W_ORDER + O_LINE_COUNT]
    small = groups <= GROUPS_EXACT
    seen = see_holders(m, w, scratch.seen, table, scratch.taken, stock, load, batch, reach_km, groups, result)
    result[R_SEEN] = seen
    hopeless = False
    for i in range(count):
        may_split = table[i, T_SPLIT] != 0 and table[table[i, T_GROUP], T_SIZE] == 1
        short = table[i, T_MAY] < table[i, T_WHOLE] or (not may_split and table[i, T_MOST] < table[i, T_UNITS])
        hopeless = hopeless or short
    reachable = False
    exact = False
    w[W_KEPT] = 0
    if seen > 0 and not (hopeless and w[W_ORDER + O_ATOMIC]):
        kept = choose_candidates(w, scratch.seen, seen, groups, limit if small else CANDIDATES_MAX)
        w[W_KEPT] = kept
        result[R_CONSIDERED] = kept
        read_candidates(m, w, scratch.seen, table, scratch.grid, stock, load, kept)
        held = 0
        for c in range(kept):
            reach_candidate(m, w, load, c)
        _drop_unserved(m, w, table, scratch.grid)
        for c in range(kept):
            if w[W_FLOOR + c] != NEVER:
                reachable = True
                held |= w[W_FULL + c]
        max_legs = min(w[W_ORDER + O_MAX_LEGS], m[m[M_POLICY] + w[W_ORDER + O_POLICY] * POLICY_COLUMNS + Y_MAX_LEGS])
        divide = not small
        if small:
            for i in range(count):
                if (held >> table[i, T_GROUP]) & 1 or table[i, T_MAY] == 0:
                    continue
                may_split = table[i, T_SPLIT] != 0 and table[table[i, T_GROUP], T_SIZE] == 1
                # Lines of one item count as held only where a node has the units of all: apart they may fit.
                divide = divide or may_split or table[i, T_WHOLE] > table[i, T_UNITS]
        if not divide and held:
            _group_goods(w, table, scratch.grid, scratch.alone, stock)
            fill_subsets(w, groups)
            exact = search_plan(m, w, scratch.alone, groups, held, min(max_legs, LEGS_EXACT))
        if exact:
            if outcome.used[_LEG_LINES] + count > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_SPLITS
            _write_exact(m, scratch, stock, load, outcome, result)
        elif reachable:
            if outcome.used[_LEG_LINES] + count * min(max_legs, LEGS_MAX) > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_COLUMNS
            cover_order(m, w, table, scratch.grid, scratch.units, scratch.alone, stock.prices, max_legs)
            _write_cover(m, scratch, stock, load, outcome, result)
    result[R_LEG_COUNT] = outcome.used[_LEGS] - result[R_LEG]
    result[R_COLLIDED] = w[W_COLLIDED]
    _write_unfilled(w, table, outcome, result, reachable or seen == 0)
    if result[R_LEG_COUNT] > 0:
        outcome.used[_CANDIDATES] = explain_part(m, scratch, outcome, result, exact, outcome.used[_CANDIDATES])
    return True


@jit
def plan_batch(
    m: I64,
    stock: Stock,
    load: Load,
    batch: Batch,
    scratch: Scratch,
    outcome: Outcome,
    limit: int,
    reach_km: int,
) -> int:
    """Plan all parts on the atlas `m`; 0, or NO_ROOM where the outcome's arrays are too small (then nothing is in them).

    limit: candidates looked at for an order of few groups. reach_km: how far nodes are considered, 0 = all.
    Parts of one order follow each other; the last one has O_LAST. Where O_ATOMIC and something stays unfilled, the order is
    refused: it has no legs and takes nothing (R_REFUSED on all its parts).
    """
    outcome.used[:] = 0
    status = 0
    first_part = 0
    first_leg = 0
    first_line = 0
    scratch.taken[:, 0] = -1
    for part in range(batch.parts.shape[0]):
        if not _plan_part(m, stock, load, batch, scratch, outcome, part, limit, reach_km):
            status = NO_ROOM
            break
        if batch.parts[part, O_LAST]:
            unfilled = 0
            for n in range(first_part, part + 1):
                unfilled += outcome.parts[n, R_UNFILLED_COUNT]
            if batch.parts[part, O_ATOMIC] and unfilled > 0:
                _give_back(stock, load, scratch.taken, outcome, first_leg, first_line)
                for n in range(first_part, part + 1):
                    outcome.parts[n, R_LEG_COUNT] = 0
                    outcome.parts[n, R_REFUSED] = 1
            first_part = part + 1
            first_leg = outcome.used[_LEGS]
            first_line = outcome.used[_LEG_LINES]
    legs = outcome.used[_LEGS]
    lines = outcome.used[_LEG_LINES]
    _give_back(stock, load, scratch.taken, outcome, 0, 0)
    if status == 0:
        outcome.used[_LEGS] = legs
        outcome.used[_LEG_LINES] = lines
    return status
