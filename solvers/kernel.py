"""One call plans a batch: part after part, each on the stock that the parts before it left.

What a part takes is claimed in the position columns while the batch is planned and given back before the call returns, so that
the caller's state is unchanged. An order that may not be partly served and cannot be served whole takes nothing.
"""

from __future__ import annotations

from solvers.candidates import (
    Work,
    choose_candidates,
    group_lines,
    make_work,
    read_candidates,
    see_holders,
    take,
)
from solvers.columns import (
    T_CANDIDATE,
    T_LEGS,
    T_MASK,
    T_NODE,
    Search,
    fill_subsets,
    make_search,
    price_subset,
    search_plan,
)
from solvers.cover import LEGS_MAX, Cover, add_goods, cover_order, make_cover
from solvers.jit import jit
from solvers.layout import (
    CANDIDATES_MAX,
    G_CAP_UNITS,
    G_CASH,
    G_CASH_LINES,
    G_CASH_SURCHARGE,
    G_CASH_UNITS,
    G_DELIVER_BY,
    G_KM,
    G_LATE,
    G_LINE,
    G_LINE_COUNT,
    G_NODE,
    G_OPPORTUNITY,
    G_POLICY,
    G_SHIP_DAY,
    G_TRANSIT,
    GROUPS_EXACT,
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
    L_ITEM,
    L_NEED,
    L_SPLIT,
    L_UNITS,
    L_VALUE,
    LEGS_EXACT,
    MAX_LEGS,
    NEVER,
    NO_CAPACITY,
    NO_NODE,
    O_ATOMIC,
    O_LAST,
    O_LINE,
    O_LINE_COUNT,
    O_MAX_LEGS,
    O_POLICY,
    OUT_OF_STOCK,
    R_ASSUMED,
    R_CANDIDATE,
    R_CANDIDATE_COUNT,
    R_COLLIDED,
    R_CONSIDERED,
    R_LEG,
    R_LEG_COUNT,
    R_REFUSED,
    R_RUNNER_CASH,
    R_RUNNER_LEGS,
    R_RUNNER_NODE,
    R_RUNNER_OPPORTUNITY,
    R_RUNNER_POLICY,
    R_RUNNER_SERVICE,
    R_SCOPE,
    R_SCORE,
    R_SEEN,
    R_UNFILLED,
    R_UNFILLED_COUNT,
    RECORD_CANDIDATES,
    SCOPE_COLUMNS,
    SCOPE_SPLITS,
    U_LINE,
    U_REASON,
    U_UNITS,
    V_A,
    V_B,
    V_CASH,
    V_CHOSEN,
    V_CODE,
    V_DEARER,
    V_FULL,
    V_KM,
    V_NO_SERVICE,
    V_NODE,
    V_OPPORTUNITY,
    V_PART,
    V_POLICY,
    V_SERVICE,
    V_SHORT,
    Y_MAX_LEGS,
    Batch,
    Calendar,
    Load,
    Network,
    Outcome,
    Stock,
)
from solvers.legs import (
    A_GROUP,
    A_LINE,
    A_UNITS,
    A_VOLUME,
    A_WEIGHT,
    NOTE_CAPACITY,
    NOTE_COLLIDED,
    Q_COLUMNS,
    deliver_by,
    price_leg,
    reach_candidate,
)
from solvers.tariff import times

NO_ROOM = -1
"""The outcome's arrays are too small: call again with larger ones; nothing has changed."""
VALUE_MAX = 100_000_000_000
"""A line's worth counts up to this (minor units), so that days x rate x value stays in int64."""
_LEGS, _LEG_LINES, _UNFILLED, _CANDIDATES = range(4)


@jit
def _measure(
    network: Network, batch: Batch, order: I64, work: Work, search: Search, groups: int
) -> tuple[int, int, int]:
    """Fill unit weights and the ship-alone table; (ship-alone lines, value of the part, lines of assumed weight)."""
    alone = 0
    assumed = 0
    total_value = 0
    first = order[O_LINE]
    for i in range(order[O_LINE_COUNT]):
        item = batch.lines[first + i, L_ITEM]
        units = batch.lines[first + i, L_UNITS]
        value = batch.lines[first + i, L_VALUE]
        work.alone[i] = -1
        work.need[i] = batch.lines[first + i, L_NEED]
        work.unit_weight[i] = 0
        work.unit_volume[i] = 0
        if item < network.items.shape[0]:
            flags = network.items[item, I_FLAGS]
            work.unit_weight[i] = network.items[item, I_WEIGHT]
            work.unit_volume[i] = network.items[item, I_VOLUME]
            work.need[i] |= network.items[item, I_NEED]
            if value == 0:
                value = network.items[item, I_VALUE]
            if flags & ITEM_ASSUMED:
                assumed += 1
            if flags & ITEM_ALONE:
                work.alone[i] = alone
                search.alone[alone, A_LINE] = i
                search.alone[alone, A_WEIGHT] = work.unit_weight[i]
                search.alone[alone, A_VOLUME] = work.unit_volume[i]
                search.alone[alone, A_UNITS] = units
                search.alone[alone, A_GROUP] = work.group[i]
                alone += 1
        work.unit_value[i] = min(value, VALUE_MAX // units)
        total_value += work.unit_value[i] * units
    return alone, total_value, assumed


@jit
def _group_goods(stock: Stock, batch: Batch, order: I64, work: Work, search: Search, groups: int, kept: int) -> None:
    """Goods of every single group, and the price of its units at every candidate."""
    for g in range(groups):
        for q in range(Q_COLUMNS):
            search.goods[1 << g, q] = 0
        for c in range(kept):
            search.opportunity[c, g] = 0
    first = order[O_LINE]
    priced = stock.prices.shape[0] > 0
    for i in range(order[O_LINE_COUNT]):
        g = work.group[i]
        units = batch.lines[first + i, L_UNITS]
        add_goods(work, search.goods[1 << g], search.alone_units, i, units, 0)
        if priced:
            for c in range(kept):
                row = work.row[c, i]
                if row >= 0:
                    search.opportunity[c, g] += times(units, stock.prices[row])


@jit
def _finish_leg(
    network: Network,
    calendar: Calendar,
    stock: Stock,
    load: Load,
    work: Work,
    outcome: Outcome,
    leg_no: int,
    c: int,
) -> None:
    """Fill the columns of a priced leg that do not depend on its goods, and take its capacity."""
    leg = outcome.legs[leg_no]
    node = work.node[c]
    leg[G_DELIVER_BY] = deliver_by(network, calendar, node, leg)
    leg[G_NODE] = node
    leg[G_KM] = work.km[c]
    if leg[G_CAP_UNITS] > 0:
        load.taken[node, leg[G_SHIP_DAY] % load.used.shape[1]] += leg[G_CAP_UNITS]


@jit
def _put_line(stock: Stock, work: Work, outcome: Outcome, leg_no: int, c: int, i: int, units: int) -> None:
    """Add units of a line to a leg and claim them."""
    n = outcome.count[_LEG_LINES]
    outcome.leg_lines[n, K_LINE] = i
    outcome.leg_lines[n, K_UNITS] = units
    outcome.leg_lines[n, K_ROW] = work.row[c, i]
    outcome.legs[leg_no, G_LINE_COUNT] += 1
    outcome.count[_LEG_LINES] = n + 1
    stock.claimed[work.row[c, i]] += units
    take(work, work.row[c, i], units)


@jit
def _give_back(stock: Stock, load: Load, work: Work, outcome: Outcome, from_leg: int, from_line: int) -> None:
    """Undo the claims of the legs from a number on, and forget the legs."""
    for n in range(from_line, outcome.count[_LEG_LINES]):
        row = outcome.leg_lines[n, K_ROW]
        stock.claimed[row] -= outcome.leg_lines[n, K_UNITS]
        take(work, row, -outcome.leg_lines[n, K_UNITS])
    for n in range(from_leg, outcome.count[_LEGS]):
        leg = outcome.legs[n]
        if leg[G_CAP_UNITS] > 0:
            load.taken[leg[G_NODE], leg[G_SHIP_DAY] % load.used.shape[1]] -= leg[G_CAP_UNITS]
    outcome.count[_LEG_LINES] = from_line
    outcome.count[_LEGS] = from_leg


@jit
def _write_exact(
    network: Network,
    calendar: Calendar,
    stock: Stock,
    load: Load,
    batch: Batch,
    order: I64,
    work: Work,
    search: Search,
    outcome: Outcome,
    result: I64,
    alone_count: int,
    total_value: int,
    notes: I64,
) -> None:
    """Write the legs of the best plan of the exact search."""
    best = search.best
    first = order[O_LINE]
    for n in range(best[T_LEGS]):
        # Legs in the order of their nodes.
        t = 0
        while work.node[best[T_CANDIDATE + t]] != best[T_NODE + n]:
            t += 1
        c = best[T_CANDIDATE + t]
        m = best[T_MASK + t]
        leg_no = outcome.count[_LEGS]
        leg = outcome.legs[leg_no]
        score = price_subset(network, calendar, load, order, work, search, alone_count, total_value, c, m, leg, notes)
        result[R_SCORE] += score
        outcome.count[_LEGS] = leg_no + 1
        leg[G_LINE] = outcome.count[_LEG_LINES]
        leg[G_LINE_COUNT] = 0
        _finish_leg(network, calendar, stock, load, work, outcome, leg_no, c)
        for i in range(order[O_LINE_COUNT]):
            if (m >> work.group[i]) & 1:
                _put_line(stock, work, outcome, leg_no, c, i, batch.lines[first + i, L_UNITS])


@jit
def _write_cover(
    network: Network,
    calendar: Calendar,
    stock: Stock,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    cover: Cover,
    outcome: Outcome,
    result: I64,
    alone_count: int,
    total_value: int,
    notes: I64,
) -> None:
    """Write the legs of the best cover, in the order of their nodes."""
    count = order[O_LINE_COUNT]
    last = -1
    for _ in range(cover.kept[0]):
        a = -1
        for b in range(cover.kept[0]):
            if cover.best_candidate[b] >= 0:
                node = work.node[cover.best_candidate[b]]
                if node > last and (a < 0 or node < work.node[cover.best_candidate[a]]):
                    a = b
        if a < 0:
            break
        c = cover.best_candidate[a]
        last = work.node[c]
        leg_no = outcome.count[_LEGS]
        leg = outcome.legs[leg_no]
        goods = cover.trial
        goods[:] = 0
        alone_units = cover.alone_units[LEGS_MAX]
        alone_units[:alone_count] = 0
        for i in range(count):
            if cover.best_units[a, i] > 0:
                row = work.row[c, i]
                price = stock.prices[row] if row < stock.prices.shape[0] else 0
                add_goods(work, goods, alone_units, i, cover.best_units[a, i], price)
        score = price_leg(
            network,
            calendar,
            load,
            order,
            work.node[c],
            work.zones[c],
            goods,
            total_value,
            search.alone,
            alone_units,
            alone_count,
            leg,
            notes,
        )
        if score == NEVER:
            continue
        result[R_SCORE] += score
        outcome.count[_LEGS] = leg_no + 1
        leg[G_LINE] = outcome.count[_LEG_LINES]
        leg[G_LINE_COUNT] = 0
        _finish_leg(network, calendar, stock, load, work, outcome, leg_no, c)
        for i in range(count):
            if cover.best_units[a, i] > 0:
                _put_line(stock, work, outcome, leg_no, c, i, cover.best_units[a, i])


@jit
def _write_unfilled(
    batch: Batch, order: I64, work: Work, outcome: Outcome, result: I64, reachable: bool, notes: I64
) -> None:
    """What the legs of a part leave open, and why."""
    first = order[O_LINE]
    start = result[R_LEG]
    for i in range(order[O_LINE_COUNT]):
        left = batch.lines[first + i, L_UNITS]
        for n in range(start, start + result[R_LEG_COUNT]):
            leg = outcome.legs[n]
            for k in range(leg[G_LINE], leg[G_LINE] + leg[G_LINE_COUNT]):
                if outcome.leg_lines[k, K_LINE] == i:
                    left -= outcome.leg_lines[k, K_UNITS]
        if left <= 0:
            continue
        may_split = batch.lines[first + i, L_SPLIT] != 0 and work.group_size[work.group[i]] == 1
        if work.any_units[i] < work.whole[i]:
            reason = OUT_OF_STOCK
        elif work.may_units[i] < work.whole[i] or not reachable or (not may_split and work.most_units[i] < work.whole[i]):
            reason = NO_NODE
        elif notes[NOTE_CAPACITY]:
            reason = NO_CAPACITY
        elif work.group_size[work.group[i]] > 1:
            reason = NO_NODE
        else:
            reason = MAX_LEGS
        n = outcome.count[_UNFILLED]
        outcome.unfilled[n, U_LINE] = i
        outcome.unfilled[n, U_UNITS] = left
        outcome.unfilled[n, U_REASON] = reason
        outcome.count[_UNFILLED] = n + 1
        result[R_UNFILLED_COUNT] += 1


@jit
def _sum_parts(legs: I64, first: int, count: int, sums: I64) -> None:
    """Cash, service, policy and opportunity money of legs, into `sums`."""
    sums[:4] = 0
    for n in range(first, first + count):
        sums[0] += legs[n, G_CASH] + legs[n, G_CASH_LINES] + legs[n, G_CASH_UNITS] + legs[n, G_CASH_SURCHARGE]
        sums[1] += legs[n, G_LATE] + legs[n, G_TRANSIT]
        sums[2] += legs[n, G_POLICY]
        sums[3] += legs[n, G_OPPORTUNITY]


@jit
def _explain(
    network: Network,
    calendar: Calendar,
    load: Load,
    order: I64,
    work: Work,
    search: Search,
    outcome: Outcome,
    result: I64,
    groups: int,
    kept: int,
    exact: bool,
    alone_count: int,
    total_value: int,
) -> None:
    """The runner-up's money and the verdict on up to eight candidates: those chosen, the runner-up's, then the nearest."""
    notes = work.notes
    sums = search.sums
    _sum_parts(outcome.legs, result[R_LEG], result[R_LEG_COUNT], sums)
    if exact and search.runner[T_LEGS] > 0:
        runner = search.runner
        result[R_RUNNER_LEGS] = runner[T_LEGS]
        for n in range(LEGS_EXACT):
            result[R_RUNNER_NODE + n] = runner[T_NODE + n] if n < runner[T_LEGS] else -1
        for column in range(4):
            result[R_RUNNER_CASH + column] = -sums[column]
        for n in range(runner[T_LEGS]):
            leg = search.leg
            price_subset(
                network,
                calendar,
                load,
                order,
                work,
                search,
                alone_count,
                total_value,
                runner[T_CANDIDATE + n],
                runner[T_MASK + n],
                leg,
                notes,
            )
            result[R_RUNNER_CASH] += leg[G_CASH] + leg[G_CASH_LINES] + leg[G_CASH_UNITS] + leg[G_CASH_SURCHARGE]
            result[R_RUNNER_SERVICE] += leg[G_LATE] + leg[G_TRANSIT]
            result[R_RUNNER_POLICY] += leg[G_POLICY]
            result[R_RUNNER_OPPORTUNITY] += leg[G_OPPORTUNITY]
    everything = (1 << groups) - 1 if groups <= GROUPS_EXACT else 0
    for turn in range(3):
        for c in range(kept):
            if result[R_CANDIDATE_COUNT] == RECORD_CANDIDATES:
                return
            node = work.node[c]
            chosen = -1
            for n in range(result[R_LEG_COUNT]):
                if outcome.legs[result[R_LEG] + n, G_NODE] == node:
                    chosen = n
            of_runner = False
            for n in range(result[R_RUNNER_LEGS]):
                of_runner = of_runner or result[R_RUNNER_NODE + n] == node
            rank = 0 if chosen >= 0 else (1 if of_runner else 2)
            if rank != turn:
                continue
            row = outcome.candidates[outcome.count[_CANDIDATES]]
            outcome.count[_CANDIDATES] += 1
            result[R_CANDIDATE_COUNT] += 1
            row[:] = 0
            row[V_NODE] = node
            row[V_KM] = work.km[c]
            if chosen >= 0:
                row[V_CODE] = V_CHOSEN
                row[V_A] = chosen
            elif work.floor[c] == NEVER:
                row[V_CODE] = V_NO_SERVICE
            elif exact and work.full[c] == everything:
                notes[NOTE_CAPACITY] = 0
                leg = search.leg
                score = price_subset(
                    network,
                    calendar,
                    load,
                    order,
                    work,
                    search,
                    alone_count,
                    total_value,
                    c,
                    everything,
                    leg,
                    notes,
                )
                if score == NEVER:
                    row[V_CODE] = V_FULL if notes[NOTE_CAPACITY] else V_NO_SERVICE
                else:
                    row[V_CODE] = V_DEARER
                    row[V_CASH] = leg[G_CASH] + leg[G_CASH_LINES] + leg[G_CASH_UNITS] + leg[G_CASH_SURCHARGE] - sums[0]
                    row[V_SERVICE] = leg[G_LATE] + leg[G_TRANSIT] - sums[1]
                    row[V_POLICY] = leg[G_POLICY] - sums[2]
                    row[V_OPPORTUNITY] = leg[G_OPPORTUNITY] - sums[3]
            else:
                row[V_CODE] = V_PART
                for i in range(order[O_LINE_COUNT]):
                    if work.free[c, i] < work.whole[i]:
                        row[V_CODE] = V_SHORT
                        row[V_A] = i
                        row[V_B] = work.free[c, i]
                        break


@jit
def _plan_part(
    network: Network,
    calendar: Calendar,
    stock: Stock,
    load: Load,
    batch: Batch,
    part: int,
    work: Work,
    search: Search,
    cover: Cover,
    outcome: Outcome,
) -> bool:
    """Plan one part and claim its units; False = the outcome's arrays are too small."""
    order = batch.orders[part]
    result = outcome.parts[part]
    result[:] = 0
    notes = work.notes_of_part
    notes[:] = 0
    result[R_LEG] = outcome.count[_LEGS]
    result[R_UNFILLED] = outcome.count[_UNFILLED]
    result[R_CANDIDATE] = outcome.count[_CANDIDATES]
    count = order[O_LINE_COUNT]
    groups = group_lines(batch, order, work)
    alone_count, total_value, assumed = _measure(network, batch, order, work, search, groups)
    result[R_ASSUMED] = assumed
    seen = see_holders(network, stock, load, batch, order, part, groups, work, result, notes)
    result[R_SEEN] = seen
    small = groups <= GROUPS_EXACT
    hopeless = False
    for i in range(count):
        may_split = batch.lines[order[O_LINE] + i, L_SPLIT] != 0 and work.group_size[work.group[i]] == 1
        enough = work.may_units[i] if may_split else work.most_units[i]
        hopeless = hopeless or enough < work.whole[i]
    kept = 0
    reachable = False
    exact = False
    if seen > 0 and not (hopeless and order[O_ATOMIC]):
        limit = batch.candidates if small else CANDIDATES_MAX
        kept = choose_candidates(work, seen, groups, count, limit)
        result[R_CONSIDERED] = kept
        read_candidates(network, stock, load, batch, order, work, kept)
        held = 0
        for c in range(kept):
            least, days = reach_candidate(network, calendar, order, work.node[c], work.km[c], work.zones[c])
            work.floor[c] = least
            work.days[c] = days
            if least != NEVER:
                reachable = True
                held |= work.full[c]
        max_legs = min(order[O_MAX_LEGS], network.policy[order[O_POLICY], Y_MAX_LEGS])
        divide = not small
        if small:
            for i in range(count):
                if not (held >> work.group[i]) & 1 and work.may_units[i] > 0:
                    if batch.lines[order[O_LINE] + i, L_SPLIT] and work.group_size[work.group[i]] == 1:
                        divide = True
        if small and not divide and held:
            _group_goods(stock, batch, order, work, search, groups, kept)
            fill_subsets(search, groups)
            exact = search_plan(
                network,
                calendar,
                load,
                order,
                work,
                search,
                kept,
                groups,
                held,
                alone_count,
                total_value,
                min(max_legs, LEGS_EXACT),
                notes,
            )
        if exact:
            if outcome.count[_LEG_LINES] + count > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_SPLITS
            _write_exact(
                network,
                calendar,
                stock,
                load,
                batch,
                order,
                work,
                search,
                outcome,
                result,
                alone_count,
                total_value,
                notes,
            )
        elif reachable:
            if outcome.count[_LEG_LINES] + count * min(max_legs, LEGS_MAX) > outcome.leg_lines.shape[0]:
                return False
            result[R_SCOPE] = SCOPE_COLUMNS
            cover_order(
                network,
                calendar,
                load,
                batch,
                order,
                work,
                cover,
                stock.prices,
                search.alone,
                alone_count,
                total_value,
                groups,
                kept,
                max_legs,
                notes,
            )
            _write_cover(
                network,
                calendar,
                stock,
                load,
                order,
                work,
                search,
                cover,
                outcome,
                result,
                alone_count,
                total_value,
                notes,
            )
    result[R_LEG_COUNT] = outcome.count[_LEGS] - result[R_LEG]
    result[R_COLLIDED] = notes[NOTE_COLLIDED]
    _write_unfilled(batch, order, work, outcome, result, reachable or seen == 0, notes)
    if result[R_LEG_COUNT] > 0:
        _explain(
            network,
            calendar,
            load,
            order,
            work,
            search,
            outcome,
            result,
            groups,
            kept,
            exact,
            alone_count,
            total_value,
        )
    return True


@jit
def plan_batch(network: Network, calendar: Calendar, stock: Stock, load: Load, batch: Batch, outcome: Outcome) -> int:
    """Plan all parts; 0, or NO_ROOM where the outcome's arrays are too small (then nothing is in them).

    Parts of one order follow each other; the last one has O_LAST. Where O_ATOMIC and something stays unfilled, the order is
    refused: it has no legs and takes nothing (R_REFUSED on all its parts).
    """
    longest = 1
    for part in range(batch.orders.shape[0]):
        longest = max(longest, batch.orders[part, O_LINE_COUNT])
    work = make_work(network.nodes.shape[0], longest, network.services.shape[0], batch.lines.shape[0])
    search = make_search(CANDIDATES_MAX, longest)
    cover = make_cover(CANDIDATES_MAX, longest)
    outcome.count[:] = 0
    status = 0
    first_part = 0
    first_leg = 0
    first_line = 0
    for part in range(batch.orders.shape[0]):
        if not _plan_part(network, calendar, stock, load, batch, part, work, search, cover, outcome):
            status = NO_ROOM
            break
        if batch.orders[part, O_LAST]:
            unfilled = 0
            for n in range(first_part, part + 1):
                unfilled += outcome.parts[n, R_UNFILLED_COUNT]
            if batch.orders[part, O_ATOMIC] and unfilled > 0:
                _give_back(stock, load, work, outcome, first_leg, first_line)
                for n in range(first_part, part + 1):
                    outcome.parts[n, R_LEG_COUNT] = 0
                    outcome.parts[n, R_REFUSED] = 1
            first_part = part + 1
            first_leg = outcome.count[_LEGS]
            first_line = outcome.count[_LEG_LINES]
    legs = outcome.count[_LEGS]
    lines = outcome.count[_LEG_LINES]
    _give_back(stock, load, work, outcome, 0, 0)
    if status == 0:
        outcome.count[_LEGS] = legs
        outcome.count[_LEG_LINES] = lines
    return status
