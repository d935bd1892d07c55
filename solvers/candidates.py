"""Which nodes are looked at for an order: those that hold units of it and may serve it, nearest first.

Of all holders the kernel keeps at most `limit`: half of them the nearest that hold everything, then for every group its two
nearest full holders, then the nearest of the rest. Nothing else of the network is touched: the walk is over the positions of
the order's items.
"""

from __future__ import annotations

from solvers.jit import inner
from solvers.layout import (
    B_CHANNEL,
    B_EXCLUDED,
    B_METHOD,
    B_OFF,
    B_POLICY,
    B_REACH,
    B_STALE,
    B_TAGS,
    E_CANDIDATE,
    E_EXCLUDED,
    E_FULL,
    E_GROUP,
    E_KEY,
    E_LINES,
    E_SLOT,
    E_STAMP,
    F_CHANNEL,
    F_ON,
    F_PICKUP,
    F_SHIP,
    F_STORE,
    GROUPS_EXACT,
    I32,
    I64,
    KEEPS_STALE,
    LIMIT,
    M_KEEPS_BACK,
    M_NODE_COUNT,
    M_NODES,
    M_POLICY,
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
    POLICY_COLUMNS,
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
    Y_BANS,
    Batch,
    Load,
    Scratch,
    Stock,
)
from solvers.places import KEY_SHIFT, put_km

PICKUP = 1
_NODE_MASK = (1 << KEY_SHIFT) - 1
_EVERYWHERE = 1 << 16


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
    kept = safety + m[m[M_NODES] + node * NODE_COLUMNS + N_SAFETY + method]
    if stale[node] == STALE_SAFETY:
        kept = max(1, 2 * kept)
    return int(kept - safety)


@inner
def block_of(m: I64, w: I64, seen: I64, batch: Batch, stale: U8, node: int) -> int:
    """Why a node may not serve a part at all (B_ reasons but tags and its distance), -1 = it may."""
    flags = batch.flags[w[W_ORDER + O_CHANNEL], node]
    home = node == w[W_ORDER + O_HOME]
    if w[W_ORDER + O_ONLY_HOME] and not home:
        return B_METHOD
    method = F_PICKUP if w[W_ORDER + O_METHOD] == PICKUP else F_SHIP
    if home and flags & F_STORE and method == F_SHIP:
        method = F_STORE
    needed = F_ON | F_CHANNEL | method
    if flags & needed != needed:
        if not flags & F_ON:
            return B_OFF
        return B_METHOD if flags & F_CHANNEL else B_CHANNEL
    # Tables of eight bytes a node are touched only where they can say something: with thousands of nodes they fill the cache.
    if w[W_ORDER + O_EXCLUDED_COUNT] and seen[E_EXCLUDED, node] == w[W_STAMP]:
        return B_EXCLUDED
    if stale[node] == STALE_EXCLUDED:
        return B_STALE
    policy = w[W_ORDER + O_POLICY]
    banned = m[m[M_POLICY] + policy * POLICY_COLUMNS + Y_BANS]
    if banned and m[m[M_POLICY_NODE] + policy * m[M_NODE_COUNT] + node] >= LIMIT:
        return B_POLICY
    if w[W_ORDER + O_DEST] < 0 and not home:
        return B_REACH
    return -1


@inner
def _place_new(scratch: Scratch, batch: Batch, reach_km: int, first: int, count: int, result: I64) -> int:
    """Distances of the nodes seen since `first`; those out of reach are taken out again. How many are seen now."""
    seen = scratch.seen
    dest = scratch.w[W_ORDER + O_DEST]
    if dest < 0:  # only the home may be among them, and it is nowhere
        return count
    keys = seen[E_KEY, first:count]
    put_km(keys, batch.sphere, scratch.chord, batch.points[dest, 0], batch.points[dest, 1])
    most = 0
    least = 0
    for n in range(count - first):
        most = max(most, keys[n])
        least = min(least, keys[n])
    reach = reach_km if reach_km > 0 else _EVERYWHERE
    if least >= 0 and most >> KEY_SHIFT <= reach:
        return count
    kept = first
    for n in range(count - first):
        node = keys[n] & _NODE_MASK
        if 0 <= keys[n] >> KEY_SHIFT <= reach:
            seen[E_KEY, kept] = keys[n]
            seen[E_SLOT, node] = kept
            kept += 1
        else:
            seen[E_SLOT, node] = -1 - B_REACH
            result[R_BLOCKED + B_REACH] += 1
    return kept


@inner
def keeps_back(m: I64, method: int) -> bool:
    """Whether any node keeps units back from a part of this method."""
    return bool((m[M_KEEPS_BACK] >> method) & 1 != 0 or m[M_KEEPS_BACK] & KEEPS_STALE != 0)


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
    rows = scratch.rows
    free_at = scratch.free
    method = w[W_ORDER + O_METHOD]
    held_back = keeps_back(m, method)
    home = w[W_ORDER + O_HOME]
    # What nearly every node of nearly every part comes to: `block_of` without what cannot apply.
    needed = F_ON | F_CHANNEL | (F_PICKUP if method == PICKUP else F_SHIP)
    policy = m[M_POLICY] + w[W_ORDER + O_POLICY] * POLICY_COLUMNS
    plain = not w[W_ORDER + O_ONLY_HOME] and not w[W_ORDER + O_EXCLUDED_COUNT] and not m[policy + Y_BANS]
    plain = plain and w[W_ORDER + O_DEST] >= 0
    flags = batch.flags[w[W_ORDER + O_CHANNEL]]
    stale = load.stale
    stamps = seen[E_STAMP]
    slots = seen[E_SLOT]
    keys = seen[E_KEY]
    full = seen[E_FULL]
    small = groups <= GROUPS_EXACT
    tied = groups < w[W_ORDER + O_LINE_COUNT]
    """Some group has several lines, which have to be counted by node."""
    count = 0
    for i in range(w[W_ORDER + O_LINE_COUNT]):
        item = table[i, T_ITEM]
        units = table[i, T_WHOLE]
        need = table[i, T_NEED]
        g = table[i, T_GROUP]
        bit = 1 << g if small and table[g, T_SIZE] == 1 else 0
        any_units = 0
        may_units = 0
        most = 0
        at = 0 if item < stock.head.shape[0] else -1
        while at >= 0:
            stretch, at = read_stretch(stock, rows, free_at, item, at)
            before = count
            for n in range(stretch):
                row = int(rows[n])
                node = int(stock.node[row])
                if node >= nodes:  # a position of a node that the configuration at hand does not know yet
                    free_at[n] = 0
                    continue
                if held_back:
                    free_at[n] -= kept_back(m, stock, stale, row, node, method)
                if free_at[n] > 0 and stamps[node] != stamp:
                    stamps[node] = stamp
                    block = -1
                    usual = node != home and flags[node] & needed == needed and stale[node] != STALE_EXCLUDED
                    if not (plain and usual):
                        block = block_of(m, w, seen, batch, stale, node)
                    if block >= 0:
                        slots[node] = -1 - block
                        result[R_BLOCKED + block] += 1
                    else:
                        slots[node] = count
                        keys[count] = node
                        count += 1
            if count > before:
                count = _place_new(scratch, batch, reach_km, before, count, result)
            for slot in range(before, count):
                full[slot] = 0
                if not small:
                    seen[E_LINES, slot] = 0
                elif tied:
                    for j in range(groups):
                        seen[E_GROUP + j, slot] = 0
            for n in range(stretch):
                row = int(rows[n])
                free = int(free_at[n])
                if free < units and w[W_COLLIDED] & 1 == 0 and stock.node[row] < nodes and taken_at(taken, row) > 0:
                    w[W_COLLIDED] |= 1
                if free <= 0:
                    continue
                any_units += free
                node = int(stock.node[row])
                slot = slots[node]
                if slot < 0:
                    continue
                if need != 0 and need & ~m[m[M_NODES] + node * NODE_COLUMNS + N_OFFER] != 0:
                    result[R_BLOCKED + B_TAGS] += 1
                    continue
                may_units += free
                most = max(most, free)
                if free >= units:
                    if bit:
                        full[slot] |= bit
                    elif small:
                        seen[E_GROUP + g, slot] += 1
                        if seen[E_GROUP + g, slot] == table[g, T_SIZE]:
                            full[slot] |= 1 << g
                    else:
                        seen[E_LINES, slot] += 1
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

    One sweep over the seen nodes. Most of them hold less than everything and are farther than what is kept already, which is
    two comparisons.
    """
    keys = seen[E_KEY]
    fulls = seen[E_FULL]
    everything = (1 << groups) - 1
    for g in range(groups):
        w[W_NEAR + 2 * g] = -1
        w[W_NEAR + 2 * g + 1] = -1
    found = 0
    worst = NEVER if more > 0 else 0
    bound = NEVER
    """Of the second nearest holders of each group, the farthest key."""
    for n in range(count):
        key = keys[n]
        full = fulls[n]
        if full == everything and key < worst:
            b = found
            if found == more:
                b -= 1
            else:
                found += 1
            while b > 0 and keys[w[W_NODE + b - 1]] > key:
                w[W_NODE + b] = w[W_NODE + b - 1]
                b -= 1
            w[W_NODE + b] = n
            if found == more:
                worst = keys[w[W_NODE + found - 1]]
        if key < bound and full != 0:
            bound = 0
            for g in range(groups):
                near = W_NEAR + 2 * g
                if (full >> g) & 1:
                    if w[near] < 0 or key < keys[w[near]]:
                        w[near + 1] = w[near]
                        w[near] = n
                    elif w[near + 1] < 0 or key < keys[w[near + 1]]:
                        w[near + 1] = n
                bound = max(bound, NEVER if w[near + 1] < 0 else keys[w[near + 1]])
    for n in range(found):
        keys[w[W_NODE + n]] = ~keys[w[W_NODE + n]]
    if groups > 1:
        for n in range(W_NEAR, W_NEAR + 2 * groups):
            if w[n] >= 0 and keys[w[n]] >= 0:
                w[W_NODE + found] = w[n]
                keys[w[n]] = ~keys[w[n]]
                found += 1
    return found


@inner
def _bar(seen: I64, count: int, limit: int) -> int:
    """A key that exactly `limit` of the seen nodes do not exceed, the kept ones (negative keys) among them.

    Bisection by counting: a count is a sweep in vector instructions without a jump that could be guessed wrong.
    """
    keys = seen[E_KEY]
    low = -1
    high = 0
    for n in range(count):
        high = max(high, keys[n])
    while True:
        middle = (low + high) >> 1
        within = 0
        for n in range(count):
            within += keys[n] <= middle
        if within == limit:
            return int(middle)
        if within < limit:
            low = middle
        else:
            high = middle


@inner
def _keep_rest(w: I64, seen: I64, count: int, kept: int, limit: int) -> int:
    """Keep the nearest of the others up to the limit (more than which are seen); how many are kept now."""
    if kept >= limit:
        return kept
    keys = seen[E_KEY]
    bar = _bar(seen, count, limit)
    for n in range(count):
        if 0 <= keys[n] <= bar:
            w[W_NODE + kept] = n
            keys[n] = ~keys[n]
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
    for a in range(kept):  # by distance
        key = ~seen[E_KEY, w[W_NODE + a]]
        b = a
        while b > 0 and w[W_KM + b - 1] > key:
            w[W_KM + b] = w[W_KM + b - 1]
            b -= 1
        w[W_KM + b] = key
    for c in range(kept):
        key = w[W_KM + c]
        node = key & _NODE_MASK
        w[W_NODE + c] = node
        w[W_KM + c] = key >> KEY_SHIFT
        w[W_FULL + c] = seen[E_FULL, seen[E_SLOT, node]]
    return kept


@inner
def read_candidates(m: I64, scratch: Scratch, stock: Stock, load: Load, kept: int) -> None:
    """Fill units free and rows of the candidates; a line that may not leave a node has 0 free there."""
    w, seen, table, grid = scratch.w, scratch.seen, scratch.table, scratch.grid
    count = w[W_ORDER + O_LINE_COUNT]
    method = w[W_ORDER + O_METHOD]
    held_back = keeps_back(m, method)
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
                need = table[i, T_NEED]
                if need == 0 or need & ~m[m[M_NODES] + node * NODE_COLUMNS + N_OFFER] == 0:
                    free = int(free_at[n])
                    if held_back:
                        free -= kept_back(m, stock, load.stale, row, node, method)
                    grid[X_FREE, c, i] = max(0, free)
    for c in range(kept):
        seen[E_CANDIDATE, w[W_NODE + c]] = 0
