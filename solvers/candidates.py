"""Which nodes are looked at for an order: those that hold units of it and may serve it, nearest first.

Of all holders the kernel keeps at most `limit`: half of them the nearest that hold everything, then for every group its two
nearest full holders, then the nearest of the rest. Nothing else of the network is touched: the walk is over the positions of
the order's items.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    B_EXCLUDED,
    B_POLICY,
    B_REACH,
    B_STALE,
    B_SWITCH,
    B_TAGS,
    E_CANDIDATE,
    E_EXCLUDED,
    E_FULL,
    E_GROUP,
    E_KEY,
    E_LINES,
    E_SLOT,
    E_SPARE,
    E_STAMP,
    F_CHANNEL,
    F_ON,
    F_PICKUP,
    F_SHIP,
    F_STORE,
    GROUPS_EXACT,
    I32,
    I64,
    LIMIT,
    M_KEEPS_BACK,
    M_NODE_COUNT,
    M_NODES,
    M_POLICY_NODE,
    N_OFFER,
    N_SAFETY,
    NEVER,
    NODE_COLUMNS,
    O_CHANNEL,
    O_DEST,
    O_EXCLUDED,
    O_EXCLUDED_COUNT,
    O_HOME,
    O_LINE_COUNT,
    O_METHOD,
    O_ONLY_HOME,
    O_POLICY,
    R_BLOCKED,
    STALE_EXCLUDED,
    STALE_SAFETY,
    STRETCH,
    T_ANY,
    T_GROUP,
    T_ITEM,
    T_MAY,
    T_MOST,
    T_NEED,
    T_SIZE,
    T_WHOLE,
    U8,
    W_COLLIDED,
    W_FULL,
    W_KM,
    W_NEAR,
    W_NODE,
    W_ORDER,
    W_STAMP,
    X_FREE,
    X_ROW,
    Batch,
    Load,
    Scratch,
    Stock,
)

PICKUP = 1
_SHIFT = 32
_NODE_MASK = (1 << _SHIFT) - 1


@inner
def taken_at(taken: I64, row: int) -> int:
    """Units of a row that this batch has taken."""
    mask = taken.shape[0] - 1
    n = (row * 0x9E3779B1) & mask
    while taken[n, 0] >= 0:
        if taken[n, 0] == row:
            return int(taken[n, 1])
        n = (n + 1) & mask
    return 0


@inner
def take(taken: I64, row: int, units: int) -> None:
    """Count units of a row as taken (negative = given back)."""
    mask = taken.shape[0] - 1
    n = (row * 0x9E3779B1) & mask
    while taken[n, 0] >= 0 and taken[n, 0] != row:
        n = (n + 1) & mask
    if taken[n, 0] < 0:
        taken[n, 0] = row
        taken[n, 1] = 0
    taken[n, 1] += units


@inner
def read_stretch(stock: Stock, rows: I32, free: I32, item: int, at: int) -> tuple[int, int]:
    """Read the next rows of an item and the units free there; (how many, where to go on; -1 = that was the last).

    `at`: 0 at first. Rows in the sorted part are read in one sweep that the compiler turns into vector code.
    """
    start = int(stock.offset[item])
    end = int(stock.offset[item + 1])
    count = 0
    if at < end - start:
        first = start + at
        count = min(STRETCH, end - first)
        for n in range(count):
            row = first + n
            rows[n] = row
            free[n] = (
                stock.on_hand[row]
                - stock.safety[row]
                - stock.held[row]
                - stock.allocated[row]
                - stock.claimed[row]
                - stock.fenced[row]
            )
        if count == STRETCH:
            return count, at + count
    row = int(stock.head[item])
    for _ in range(at - (end - start)):  # an overflow longer than a stretch: as good as never
        row = int(stock.next[row])
    left = STRETCH - count
    skipped = max(0, at - (end - start))
    while row >= 0 and left > 0:
        rows[count] = row
        free[count] = (
            stock.on_hand[row]
            - stock.safety[row]
            - stock.held[row]
            - stock.allocated[row]
            - stock.claimed[row]
            - stock.fenced[row]
        )
        count += 1
        left -= 1
        skipped += 1
        row = int(stock.next[row])
    return count, (end - start) + skipped if row >= 0 else -1


@inner
def kept_back(m: I64, stock: Stock, stale: U8, row: int, node: int, method: int) -> int:
    """Units that a node keeps back beyond the position's own safety: for the method, or because its feed is old."""
    safety = int(stock.safety[row])
    most = max(safety, m[m[M_NODES] + node * NODE_COLUMNS + N_SAFETY + method])
    if stale[node] == STALE_SAFETY:
        most = max(1, 2 * most)
    return int(most - safety)


@inner
def block_of(m: I64, w: I64, seen: I64, batch: Batch, stale: U8, reach_km: int, node: int) -> int:
    """Why a node may not serve a part at all (B_ reasons but tags), -1 = it may."""
    flags = batch.flags[w[W_ORDER + O_CHANNEL], node]
    home = node == w[W_ORDER + O_HOME]
    if w[W_ORDER + O_ONLY_HOME] and not home:
        return B_SWITCH
    method = F_PICKUP if w[W_ORDER + O_METHOD] == PICKUP else F_SHIP
    if home and flags & F_STORE and method == F_SHIP:
        method = F_STORE
    needed = F_ON | F_CHANNEL | method
    if flags & needed != needed:
        return B_SWITCH
    if seen[E_EXCLUDED, node] == w[W_STAMP]:
        return B_EXCLUDED
    if stale[node] == STALE_EXCLUDED:
        return B_STALE
    if m[m[M_POLICY_NODE] + w[W_ORDER + O_POLICY] * m[M_NODE_COUNT] + node] >= LIMIT:
        return B_POLICY
    dest = w[W_ORDER + O_DEST]
    if dest >= 0:
        km = batch.km[dest, node]
        if km < 0 or (reach_km > 0 and km > reach_km):
            return B_REACH
    elif not home:
        return B_REACH
    return -1


@inner
def see_holders(
    m: I64, scratch: Scratch, stock: Stock, load: Load, batch: Batch, reach_km: int, groups: int, result: I64
) -> int:
    """Walk the positions of the part's items: who holds what; how many nodes may serve."""
    w, seen, table, taken = scratch.w, scratch.seen, scratch.table, scratch.taken
    stamp = w[W_STAMP]
    first = w[W_ORDER + O_EXCLUDED]
    nodes = m[M_NODE_COUNT]
    for n in range(first, first + w[W_ORDER + O_EXCLUDED_COUNT]):
        if batch.excluded[n] < nodes:
            seen[E_EXCLUDED, batch.excluded[n]] = stamp
    keeps_back = m[M_KEEPS_BACK] != 0
    rows = scratch.rows
    free_at = scratch.free
    method = w[W_ORDER + O_METHOD]
    dest = w[W_ORDER + O_DEST]
    small = groups <= GROUPS_EXACT
    count = 0
    for i in range(w[W_ORDER + O_LINE_COUNT]):
        item = table[i, T_ITEM]
        units = table[i, T_WHOLE]
        need = table[i, T_NEED]
        g = table[i, T_GROUP]
        any_units = 0
        may_units = 0
        most = 0
        at = 0 if item < stock.head.shape[0] else -1
        while at >= 0:
            stretch, at = read_stretch(stock, rows, free_at, item, at)
            for n in range(stretch):
                row = int(rows[n])
                node = int(stock.node[row])
                if node >= nodes:  # a position of a node that the configuration at hand does not know yet
                    continue
                free = int(free_at[n])
                if keeps_back:
                    free -= kept_back(m, stock, load.stale, row, node, method)
                if free < units and w[W_COLLIDED] & 1 == 0 and taken_at(taken, row) > 0:
                    w[W_COLLIDED] |= 1
                if free > 0:
                    any_units += free
                    if seen[E_STAMP, node] != stamp:
                        seen[E_STAMP, node] = stamp
                        block = block_of(m, w, seen, batch, load.stale, reach_km, node)
                        if block >= 0:
                            seen[E_SLOT, node] = -1 - block
                            result[R_BLOCKED + block] += 1
                        else:
                            km = int(batch.km[dest, node]) if dest >= 0 else 0
                            seen[E_SLOT, node] = count
                            seen[E_KEY, count] = (km << _SHIFT) | node
                            seen[E_FULL, count] = 0
                            seen[E_LINES, count] = 0
                            if small:
                                for j in range(groups):
                                    seen[E_GROUP + j, count] = 0
                            count += 1
                    slot = seen[E_SLOT, node]
                    if slot >= 0:
                        if need & ~m[m[M_NODES] + node * NODE_COLUMNS + N_OFFER] != 0:
                            result[R_BLOCKED + B_TAGS] += 1
                        else:
                            may_units += free
                            most = max(most, free)
                            if free >= units:
                                seen[E_LINES, slot] += 1
                                if small:
                                    seen[E_GROUP + g, slot] += 1
                                    if seen[E_GROUP + g, slot] == table[g, T_SIZE]:
                                        seen[E_FULL, slot] |= 1 << g
        table[i, T_ANY] = any_units
        table[i, T_MAY] = may_units
        table[i, T_MOST] = most
    return count


@inner
def _keep_nearest(w: I64, seen: I64, count: int, lines: int, more: int, kept: int) -> int:
    """Keep up to `more` further of the nearest seen nodes that hold `lines` lines whole; how many are kept now.

    A kept node is in `w[W_NODE..]` by its place among the seen, and its key is turned negative.
    """
    if more <= 0:
        return kept
    first = W_NODE + kept
    found = 0
    worst = NEVER
    for n in range(count):
        key = seen[E_KEY, n]
        if key < 0 or key >= worst or seen[E_LINES, n] < lines:
            continue
        b = found
        if found == more:
            b -= 1
        else:
            found += 1
        while b > 0 and seen[E_KEY, w[first + b - 1]] > key:
            w[first + b] = w[first + b - 1]
            b -= 1
        w[first + b] = n
        if found == more:
            worst = seen[E_KEY, w[first + found - 1]]
    for n in range(found):
        seen[E_KEY, w[first + n]] = ~seen[E_KEY, w[first + n]]
    return kept + found


@inner
def _keep_holders(w: I64, seen: I64, count: int, groups: int, more: int) -> int:
    """Keep up to `more` of the nearest nodes that hold all groups whole, then the two nearest that hold each; how many.

    One sweep over the seen nodes, most of which hold nothing whole.
    """
    everything = (1 << groups) - 1
    for g in range(groups):
        w[W_NEAR + 2 * g] = -1
        w[W_NEAR + 2 * g + 1] = -1
    found = 0
    worst = NEVER
    for n in range(count):
        full = seen[E_FULL, n]
        if full == 0:
            continue
        key = seen[E_KEY, n]
        if full == everything and key < worst and more > 0:
            b = found
            if found == more:
                b -= 1
            else:
                found += 1
            while b > 0 and seen[E_KEY, w[W_NODE + b - 1]] > key:
                w[W_NODE + b] = w[W_NODE + b - 1]
                b -= 1
            w[W_NODE + b] = n
            if found == more:
                worst = seen[E_KEY, w[W_NODE + found - 1]]
        for g in range(groups):
            if (full >> g) & 1 == 0:
                continue
            near = W_NEAR + 2 * g
            if w[near] < 0 or key < seen[E_KEY, w[near]]:
                w[near + 1] = w[near]
                w[near] = n
            elif w[near + 1] < 0 or key < seen[E_KEY, w[near + 1]]:
                w[near + 1] = n
    for n in range(found):
        seen[E_KEY, w[W_NODE + n]] = ~seen[E_KEY, w[W_NODE + n]]
    if groups > 1:
        for n in range(W_NEAR, W_NEAR + 2 * groups):
            if w[n] >= 0 and seen[E_KEY, w[n]] >= 0:
                w[W_NODE + found] = w[n]
                seen[E_KEY, w[n]] = ~seen[E_KEY, w[n]]
                found += 1
    return found


@inner
def _bar(seen: I64, count: int, more: int) -> int:
    """The key of the `more`-th nearest of the seen nodes that are not kept; NEVER = there are no more than that."""
    keys = seen[E_SPARE]
    left = 0
    right = -1
    for n in range(count):
        if seen[E_KEY, n] >= 0:
            right += 1
            keys[right] = seen[E_KEY, n]
    if right < more:
        return NEVER
    wanted = more - 1
    while left < right:  # quickselect; the middle as pivot, so that it is the same every time
        pivot = keys[(left + right) >> 1]
        a = left
        b = right
        while a <= b:
            while keys[a] < pivot:
                a += 1
            while keys[b] > pivot:
                b -= 1
            if a <= b:
                swap = keys[a]
                keys[a] = keys[b]
                keys[b] = swap
                a += 1
                b -= 1
        if wanted <= b:
            right = b
        elif wanted >= a:
            left = a
        else:
            break
    return int(keys[wanted])


@inner
def _keep_rest(w: I64, seen: I64, count: int, kept: int, limit: int) -> int:
    """Keep the nearest of the others up to the limit; how many are kept now."""
    if kept >= limit:
        return kept
    bar = _bar(seen, count, limit - kept)
    for n in range(count):
        if 0 <= seen[E_KEY, n] <= bar:
            w[W_NODE + kept] = n
            seen[E_KEY, n] = ~seen[E_KEY, n]
            kept += 1
    return kept


@inner
def choose_candidates(w: I64, seen: I64, count: int, groups: int, limit: int) -> int:
    """Keep at most `limit` of the seen nodes as candidates, nearest first; how many."""
    kept = 0
    if count <= limit:
        for n in range(count):
            w[W_NODE + n] = n
            seen[E_KEY, n] = ~seen[E_KEY, n]
        kept = count
    elif groups <= GROUPS_EXACT:
        kept = _keep_holders(w, seen, count, groups, max(0, min(limit // 2, limit - 2 * groups)))
        kept = _keep_rest(w, seen, count, kept, limit)
    else:
        most = 0
        for n in range(count):
            most = max(most, seen[E_LINES, n])
        while most > 0 and kept < limit // 2:  # those that hold most lines, nearest first among near equals
            most = most * 7 // 8
            kept = _keep_nearest(w, seen, count, most + 1, limit // 2 - kept, kept)
        kept = _keep_rest(w, seen, count, kept, limit)
    for a in range(1, kept):  # by distance
        slot = w[W_NODE + a]
        key = ~seen[E_KEY, slot]
        b = a - 1
        while b >= 0 and ~seen[E_KEY, w[W_NODE + b]] > key:
            w[W_NODE + b + 1] = w[W_NODE + b]
            b -= 1
        w[W_NODE + b + 1] = slot
    for c in range(kept):
        slot = w[W_NODE + c]
        key = ~seen[E_KEY, slot]
        w[W_FULL + c] = seen[E_FULL, slot]
        w[W_NODE + c] = key & _NODE_MASK
        w[W_KM + c] = key >> _SHIFT
    return kept


@inner
def read_candidates(m: I64, scratch: Scratch, stock: Stock, load: Load, kept: int) -> None:
    """Fill units free and rows of the candidates; a line that may not leave a node has 0 free there."""
    w, seen, table, grid = scratch.w, scratch.seen, scratch.table, scratch.grid
    count = w[W_ORDER + O_LINE_COUNT]
    method = w[W_ORDER + O_METHOD]
    nodes = m[M_NODE_COUNT]
    rows = scratch.rows
    free_at = scratch.free
    for c in range(kept):
        seen[E_CANDIDATE, w[W_NODE + c]] = c + 1
        for i in range(count):
            grid[X_FREE, c, i] = 0
            grid[X_ROW, c, i] = -1
    for i in range(count):
        item = table[i, T_ITEM]
        at = 0 if item < stock.head.shape[0] else -1
        while at >= 0:
            stretch, at = read_stretch(stock, rows, free_at, item, at)
            for n in range(stretch):
                row = int(rows[n])
                node = int(stock.node[row])
                if node >= nodes:
                    continue
                c = seen[E_CANDIDATE, node] - 1
                if c < 0:
                    continue
                grid[X_ROW, c, i] = row
                if table[i, T_NEED] & ~m[m[M_NODES] + node * NODE_COLUMNS + N_OFFER] == 0:
                    free = int(free_at[n])
                    if m[M_KEEPS_BACK] != 0:
                        free -= kept_back(m, stock, load.stale, row, node, method)
                    grid[X_FREE, c, i] = max(0, free)
    for c in range(kept):
        seen[E_CANDIDATE, w[W_NODE + c]] = 0
