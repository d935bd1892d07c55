"""All cheap ways to serve orders that collide: the columns of the joint problem."""

from __future__ import annotations

from solvers.columns import ENTRIES_TO_PLAN, price_subset, search_plan
from solvers.jit import inner, jit
from solvers.layout import (
    D_CANDIDATE,
    D_LEGS,
    D_MASK,
    D_NODE,
    D_SCORE,
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
    I64,
    J_LEG,
    J_LEG_COUNT,
    J_PART,
    J_SCORE,
    J_TAKE,
    J_TAKE_COUNT,
    L_PLACE,
    LEGS_EXACT,
    M_NODES,
    N_CAP_DAY,
    N_CAP_HARD,
    NEVER,
    NODE_COLUMNS,
    O_LINE,
    O_LINE_COUNT,
    RING,
    T_GROUP,
    T_UNITS,
    TRIAL_COLUMNS,
    W_BEST,
    W_COLLECT,
    W_DIVIDE,
    W_ENTRIES,
    W_GROUPS,
    W_HELD,
    W_KEPT,
    W_KM,
    W_LEG,
    W_NODE,
    W_ORDER,
    W_USED,
    W_WAYS,
    W_WAYS_USED,
    X_FREE,
    X_ROW,
    X_TAKE_FREE,
    X_TAKE_LINE,
    X_TAKE_ROW,
    X_TAKE_UNITS,
    Batch,
    Load,
    Scratch,
    Stock,
    Ways,
)
from solvers.legs import deliver_by
from solvers.look import look_at_part

NO_ROOM = -1


@inner
def _write_way(m: I64, scratch: Scratch, batch: Batch, ways: Ways, part: int, trial: int) -> bool:
    """Write a way with its legs and takes; False = the arrays are too small."""
    w = scratch.w
    table = scratch.table
    count = w[W_ORDER + O_LINE_COUNT]
    legs = w[trial + D_LEGS]
    if ways.used[0] == ways.ways.shape[0] or ways.used[1] + legs > ways.legs.shape[0]:
        return False
    if ways.used[2] + count + legs > ways.takes.shape[0]:
        return False
    way = ways.ways[ways.used[0]]
    ways.used[0] += 1
    way[J_PART] = part
    way[J_SCORE] = w[trial + D_SCORE]
    way[J_LEG] = ways.used[1]
    way[J_LEG_COUNT] = legs
    way[J_TAKE] = ways.used[2]
    for n in range(legs):
        t = 0
        while w[W_NODE + w[trial + D_CANDIDATE + t]] != w[trial + D_NODE + n]:
            t += 1
        c = w[trial + D_CANDIDATE + t]
        subset = w[trial + D_MASK + t]
        price_subset(m, w, scratch.alone, c, subset, W_LEG)
        leg = ways.legs[ways.used[1]]
        ways.used[1] += 1
        for k in range(G_DAYS + 1):
            leg[k] = w[W_LEG + k]
        node = w[W_NODE + c]
        leg[G_DELIVER_BY] = deliver_by(m, node, leg[G_SERVICE], leg[G_DELIVER_DAY], leg[G_SHIP_BY])
        leg[G_NODE] = node
        leg[G_KM] = w[W_KM + c]
        leg[G_LINE] = subset
        leg[G_LINE_COUNT] = 0
        for i in range(count):
            if (subset >> table[i, T_GROUP]) & 1:
                take = ways.takes[ways.used[2]]
                take[X_TAKE_ROW] = scratch.grid[X_ROW, c, i]
                take[X_TAKE_UNITS] = table[i, T_UNITS]
                take[X_TAKE_FREE] = scratch.grid[X_FREE, c, i]
                take[X_TAKE_LINE] = batch.lines[w[W_ORDER + O_LINE] + i, L_PLACE]
                ways.used[2] += 1
                leg[G_LINE_COUNT] += 1
        record = m[M_NODES] + node * NODE_COLUMNS
        if leg[G_CAP_UNITS] > 0 and m[record + N_CAP_HARD]:
            slot = leg[G_SHIP_DAY] % RING
            take = ways.takes[ways.used[2]]
            take[X_TAKE_ROW] = -1 - (node * RING + slot)
            take[X_TAKE_UNITS] = leg[G_CAP_UNITS]
            take[X_TAKE_FREE] = m[record + N_CAP_DAY] - w[W_USED + c * RING + slot]
            take[X_TAKE_LINE] = -1
            ways.used[2] += 1
    way[J_TAKE_COUNT] = ways.used[2] - way[J_TAKE]
    return True


@jit
def own_optima(
    m: I64,
    stock: Stock,
    load: Load,
    batch: Batch,
    scratch: Scratch,
    chosen: I64,
    scores: I64,
    limit: int,
    reach_km: int,
) -> None:
    """The best score of each chosen part, alone on the whole stock; NEVER where it cannot be searched."""
    w = scratch.w
    scratch.taken[:, 0] = -1
    for n in range(chosen.shape[0]):
        scores[n] = NEVER
        max_legs = look_at_part(m, stock, load, batch, scratch, chosen[n], limit, reach_km, scratch.result)
        if w[W_KEPT] == 0 or w[W_DIVIDE] or not w[W_HELD]:
            continue
        w[W_COLLECT] = 0
        w[W_ENTRIES] = ENTRIES_TO_PLAN
        if search_plan(m, w, scratch.alone, w[W_GROUPS], w[W_HELD], min(max_legs, LEGS_EXACT)):
            scores[n] = w[W_BEST + D_SCORE]


@jit
def enumerate_ways(
    m: I64,
    stock: Stock,
    load: Load,
    batch: Batch,
    scratch: Scratch,
    chosen: I64,
    ways: Ways,
    limit: int,
    reach_km: int,
    entries: int,
    most: int,
) -> int:
    """The cheapest ways of the chosen parts, each on the whole stock; 0, or NO_ROOM where the arrays are too small.

    entries: candidates looked at a subset of groups. Up to `most` (at most WAYS_MAX) ways a part come back, cheapest first; the
    ways of a part follow each other, and so do their takes.
    """
    w = scratch.w
    ways.used[:] = 0
    scratch.taken[:, 0] = -1
    for n in range(chosen.shape[0]):
        max_legs = look_at_part(m, stock, load, batch, scratch, chosen[n], limit, reach_km, scratch.result)
        if w[W_KEPT] == 0 or w[W_DIVIDE] or not w[W_HELD]:
            continue
        w[W_COLLECT] = 1
        w[W_ENTRIES] = entries
        search_plan(m, w, scratch.alone, w[W_GROUPS], w[W_HELD], min(max_legs, LEGS_EXACT))
        w[W_COLLECT] = 0
        for k in range(min(most, w[W_WAYS_USED])):
            if not _write_way(m, scratch, batch, ways, chosen[n], W_WAYS + k * TRIAL_COLUMNS):
                return NO_ROOM
    return 0
