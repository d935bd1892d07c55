"""Looking at a part: its lines and groups, the nodes that hold them, what those can do. What planning and enumerating share."""

from __future__ import annotations

from solvers.candidates import choose_candidates, read_candidates, see_holders
from solvers.columns import fill_subsets
from solvers.cover import add_goods, clear_goods, price_of
from solvers.jit import inner
from solvers.layout import (
    A_GROUP,
    A_TRIAL,
    A_UNITS,
    A_VOLUME,
    A_WEIGHT,
    CANDIDATES_MAX,
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
    L_GROUP,
    L_ITEM,
    L_NEED,
    L_SPLIT,
    L_UNITS,
    L_VALUE,
    M_LEVELS,
    M_POLICY,
    M_SERVICES,
    NEVER,
    O_ATOMIC,
    O_HOME,
    O_LEVEL,
    O_LEVEL_COUNT,
    O_LINE,
    O_LINE_COUNT,
    O_MAX_LEGS,
    O_POLICY,
    ORDER_COLUMNS,
    POLICY_COLUMNS,
    R_ASSUMED,
    R_CONSIDERED,
    R_SEEN,
    REACH_COLUMNS,
    S_TAGS,
    SERVICE_COLUMNS,
    SERVICES_MAX,
    T_ALONE,
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
    W_ALONE,
    W_CAPACITY,
    W_COLLIDED,
    W_DIVIDE,
    W_FLOOR,
    W_FULL,
    W_GOODS,
    W_GROUPS,
    W_HELD,
    W_KEPT,
    W_NODE,
    W_OPPORTUNITY,
    W_ORDER,
    W_REACH,
    W_REACHABLE,
    W_STAMP,
    W_VALUE,
    X_FREE,
    Y_MAX_LEGS,
    Batch,
    Load,
    Scratch,
    Stock,
)
from solvers.legs import reach_candidate
from solvers.tariff import times

VALUE_MAX = 100_000_000_000
"""A line's worth counts up to this (minor units), so that days x rate x value stays in int64."""


@inner
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


@inner
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


@inner
def group_goods(w: I64, table: I64, grid: I64, alone: I64, stock: Stock) -> None:
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


@inner
def look_at_part(
    m: I64,
    stock: Stock,
    load: Load,
    batch: Batch,
    scratch: Scratch,
    part: int,
    limit: int,
    reach_km: int,
    result: I64,
) -> int:
    """Read a part and its candidates into the scratch, ready to be searched; the legs it may have at most.

    No candidates are kept where it could only be refused. R_ASSUMED, R_SEEN, R_CONSIDERED and the blocks are filled in.
    """
    w = scratch.w
    table = scratch.table
    w[W_STAMP] += 1
    w[W_KEPT] = 0
    w[W_HELD] = 0
    w[W_REACHABLE] = 0
    w[W_DIVIDE] = 0
    result[R_ASSUMED] = _read_part(w, table, scratch.alone, batch, part)
    groups = w[W_GROUPS]
    count = w[W_ORDER + O_LINE_COUNT]
    small = groups <= GROUPS_EXACT
    seen = see_holders(m, scratch, stock, load, batch, reach_km, groups, result)
    result[R_SEEN] = seen
    hopeless = False
    for i in range(count):
        may_split = table[i, T_SPLIT] != 0 and table[table[i, T_GROUP], T_SIZE] == 1
        short = table[i, T_MAY] < table[i, T_WHOLE] or (not may_split and table[i, T_MOST] < table[i, T_UNITS])
        hopeless = hopeless or short
    max_legs = min(w[W_ORDER + O_MAX_LEGS], m[m[M_POLICY] + w[W_ORDER + O_POLICY] * POLICY_COLUMNS + Y_MAX_LEGS])
    if seen == 0 or (hopeless and w[W_ORDER + O_ATOMIC]):
        return int(max_legs)
    kept = choose_candidates(w, scratch.seen, seen, groups, limit if small else CANDIDATES_MAX)
    w[W_KEPT] = kept
    result[R_CONSIDERED] = kept
    read_candidates(m, scratch, stock, load, kept)
    for c in range(kept):
        reach_candidate(m, w, load, c)
    _drop_unserved(m, w, table, scratch.grid)
    for c in range(kept):
        if w[W_FLOOR + c] != NEVER:
            w[W_REACHABLE] = 1
            w[W_HELD] |= w[W_FULL + c]
    if not small:
        w[W_DIVIDE] = 1
        return int(max_legs)
    for i in range(count):
        if (w[W_HELD] >> table[i, T_GROUP]) & 1 or table[i, T_MAY] == 0:
            continue
        may_split = table[i, T_SPLIT] != 0 and table[table[i, T_GROUP], T_SIZE] == 1
        # Lines of one item count as held only where a node has the units of all: apart they may fit.
        if may_split or table[i, T_WHOLE] > table[i, T_UNITS]:
            w[W_DIVIDE] = 1
    if not w[W_DIVIDE] and w[W_HELD]:
        group_goods(w, table, scratch.grid, scratch.alone, stock)
        fill_subsets(w, groups)
    return int(max_legs)
