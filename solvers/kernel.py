"""One call plans a batch: part after part, each on the stock that the parts before it left.

What a part takes is claimed in the position columns while the batch is planned and given back before the call returns, so that
the caller's state is unchanged. An order that may not be partly served and cannot be served whole takes nothing.
"""

from __future__ import annotations

from solvers.candidates import take
from solvers.columns import ENTRIES_TO_PLAN, price_subset, search_plan
from solvers.cover import add_goods, clear_goods, cover_order, price_of
from solvers.explain import explain_part
from solvers.jit import inner, jit
from solvers.layout import (
    A_TRIAL,
    D_CANDIDATE,
    D_LEGS,
    D_MASK,
    D_NODE,
    DAY_MS,
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
    K_LINE,
    K_ROW,
    K_UNITS,
    L_PLACE,
    LEGS_EXACT,
    LEGS_MAX,
    M_NOW,
    MAX_LEGS,
    NEVER,
    NO_CAPACITY,
    NO_NODE,
    O_ATOMIC,
    O_LAST,
    O_LINE,
    O_LINE_COUNT,
    OUT_OF_STOCK,
    R_CANDIDATE,
    R_CANDIDATE_COUNT,
    R_COLLIDED,
    R_LEG,
    R_LEG_COUNT,
    R_RECORD,
    R_RECORD_END,
    R_REFUSED,
    R_SCOPE,
    R_SCORE,
    R_SEEN,
    R_UNFILLED,
    R_UNFILLED_COUNT,
    RING,
    SCOPE_COLUMNS,
    SCOPE_SPLITS,
    T_ANY,
    T_GROUP,
    T_MAY,
    T_MOST,
    T_SIZE,
    T_SPLIT,
    T_UNITS,
    T_WHOLE,
    U_LINE,
    U_REASON,
    U_UNITS,
    V_A,
    V_CODE,
    V_SHORT,
    W_BEST,
    W_CAPACITY,
    W_COLLECT,
    W_COLLIDED,
    W_COVER,
    W_COVER_CANDIDATE,
    W_COVER_RUNNER,
    W_DIVIDE,
    W_ENTRIES,
    W_GROUPS,
    W_HELD,
    W_KEPT,
    W_KM,
    W_LEG,
    W_NODE,
    W_ORDER,
    W_REACHABLE,
    W_TRIAL_GOODS,
    X_ROW,
    Batch,
    Load,
    Outcome,
    Scratch,
    Stock,
)
from solvers.legs import deliver_by, price_leg
from solvers.look import look_at_part
from solvers.pack import pack_record, record_room

NO_ROOM = -1
"""The outcome's arrays are too small: call again with larger ones; nothing has changed."""
_LEGS, _LEG_LINES, _UNFILLED, _CANDIDATES, _RECORD = range(5)


@inner
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


@inner
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


@inner
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


@inner
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


@inner
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


@inner
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


@inner
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
    max_legs = look_at_part(m, stock, load, batch, scratch, part, limit, reach_km, result)
    w[W_COVER_RUNNER] = 0
    count = w[W_ORDER + O_LINE_COUNT]
    exact = False
    if w[W_KEPT] > 0:
        w[W_COLLECT] = 0
        w[W_ENTRIES] = ENTRIES_TO_PLAN
        if not w[W_DIVIDE] and w[W_HELD]:
            exact = search_plan(m, w, scratch.alone, w[W_GROUPS], w[W_HELD], min(max_legs, LEGS_EXACT))
        if exact:
            if outcome.used[_LEG_LINES] + count > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_SPLITS
            _write_exact(m, scratch, stock, load, outcome, result)
        elif w[W_REACHABLE]:
            if outcome.used[_LEG_LINES] + count * min(max_legs, LEGS_MAX) > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_COLUMNS
            cover_order(m, w, table, scratch.grid, scratch.units, scratch.alone, stock.prices, max_legs)
            _write_cover(m, scratch, stock, load, outcome, result)
    result[R_LEG_COUNT] = outcome.used[_LEGS] - result[R_LEG]
    result[R_COLLIDED] = w[W_COLLIDED]
    _write_unfilled(w, table, outcome, result, w[W_REACHABLE] != 0 or result[R_SEEN] == 0)
    if result[R_LEG_COUNT] > 0 or not batch.parts[part, O_ATOMIC]:
        outcome.used[_CANDIDATES] = explain_part(m, scratch, outcome, result, exact, outcome.used[_CANDIDATES])
    return True


@inner
def _finish_order(m: I64, batch: Batch, outcome: Outcome, first_part: int, last_part: int, first_leg: int) -> bool:
    """Name lines by their place in the order, and pack its record; False = there is no room for it."""
    for part in range(first_part, last_part + 1):
        result = outcome.parts[part]
        line = batch.parts[part, O_LINE]
        for n in range(result[R_UNFILLED], result[R_UNFILLED] + result[R_UNFILLED_COUNT]):
            outcome.unfilled[n, U_LINE] = batch.lines[line + outcome.unfilled[n, U_LINE], L_PLACE]
        for leg in range(result[R_LEG], result[R_LEG] + result[R_LEG_COUNT]):
            start = outcome.legs[leg, G_LINE]
            for k in range(start, start + outcome.legs[leg, G_LINE_COUNT]):
                outcome.leg_lines[k, K_LINE] = batch.lines[line + outcome.leg_lines[k, K_LINE], L_PLACE]
        for n in range(result[R_CANDIDATE], result[R_CANDIDATE] + result[R_CANDIDATE_COUNT]):
            if outcome.candidates[n, V_CODE] == V_SHORT:
                outcome.candidates[n, V_A] = batch.lines[line + outcome.candidates[n, V_A], L_PLACE]
    start = outcome.used[_RECORD]
    outcome.parts[last_part, R_RECORD] = start
    outcome.parts[last_part, R_RECORD_END] = start
    legs = outcome.used[_LEGS] - first_leg
    if legs == 0 and batch.parts[first_part, O_ATOMIC]:  # refused: nobody keeps its record
        return True
    if start + record_room(outcome, first_leg, legs) > outcome.record.shape[0]:
        return False
    end = pack_record(outcome, first_part, last_part, m[M_NOW] // DAY_MS, start)
    outcome.parts[last_part, R_RECORD_END] = end
    outcome.used[_RECORD] = end
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
    """Plan all parts on the atlas `m`; how many collided with others, or NO_ROOM: the outcome's arrays are too small (then nothing
    is in them).

    limit: candidates looked at for an order of few groups. reach_km: how far nodes are considered, 0 = all.
    Parts of one order follow each other; the last one has O_LAST. Where O_ATOMIC and something stays unfilled, the order is
    refused: it has no legs and takes nothing (R_REFUSED on all its parts).
    """
    outcome.used[:] = 0
    collided = 0
    first_part = 0
    first_leg = 0
    first_line = 0
    scratch.taken[:, 0] = -1
    for part in range(batch.parts.shape[0]):
        if not _plan_part(m, stock, load, batch, scratch, outcome, part, limit, reach_km):
            collided = NO_ROOM
            break
        if outcome.parts[part, R_COLLIDED] != 0:
            collided += 1
        if batch.parts[part, O_LAST]:
            unfilled = 0
            for n in range(first_part, part + 1):
                unfilled += outcome.parts[n, R_UNFILLED_COUNT]
            if batch.parts[part, O_ATOMIC] and unfilled > 0:
                _give_back(stock, load, scratch.taken, outcome, first_leg, first_line)
                for n in range(first_part, part + 1):
                    outcome.parts[n, R_LEG_COUNT] = 0
                    outcome.parts[n, R_REFUSED] = 1
            if not _finish_order(m, batch, outcome, first_part, part, first_leg):
                collided = NO_ROOM
                break
            first_part = part + 1
            first_leg = outcome.used[_LEGS]
            first_line = outcome.used[_LEG_LINES]
    legs = outcome.used[_LEGS]
    lines = outcome.used[_LEG_LINES]
    _give_back(stock, load, scratch.taken, outcome, 0, 0)
    if collided != NO_ROOM:
        outcome.used[_LEGS] = legs
        outcome.used[_LEG_LINES] = lines
    return collided
