"""Deciding stock facts: typed movements, absolute counts, position settings. Facts are never refused for being inconvenient:
they may leave a position short. They are refused when they name unknown things or arrive out of order. Pure.
"""

from __future__ import annotations

from engine.domain.commands import AdjustStock, CountStock, SetPosition
from engine.domain.decide_orders import refuse
from engine.domain.events import PositionSet, StockCounted, StockMoved
from engine.domain.ids import EPOCH_2020_MS
from engine.domain.movements import KEPT_MS
from engine.domain.problems import CODES, instant
from engine.domain.replies import Problem, ProblemItem, WouldChange
from engine.domain.state import NodePart, ShardState
from engine.domain.supply import UNCOUNTED, is_uncounted

MOVEMENT_SIGN = {
    "received": 1,
    "found": 1,
    "returned": 1,
    "transferred_in": 1,
    "damaged": -1,
    "lost": -1,
    "sold_in_store": -1,
    "transferred_out": -1,
    "adjusted": 0,
}
"""Sign of each kind of movement; 0 = the quantity carries its own sign."""
SCOPES = ("full", "nonzero", "delta")
SUPPLY_MODES = ("counted", "trusted", "uncounted")
UNITS_MAX = 1_000_000_000
ROWS_MAX = 50_000
CLOCK_AHEAD_MS = 60_000


def find_node(state: ShardState, node_id: str) -> int | Problem:
    """Index of one of this shard's own nodes; `moved` where another shard owns it."""
    node = state.catalog.node_of.get(node_id)
    if node is None:
        return refuse("unknown_node", "/node_id", f"no node {node_id!r}")
    if not state.catalog.owns_node(node):
        return refuse("moved", "/node_id", f"{node_id} belongs to another shard", version=state.catalog.version)
    return node


def _kit_fault(state: ShardState, item: int, pointer: str) -> ProblemItem | None:
    """What is wrong with stock of a kit: it would be shown and never sold, as orders take the components."""
    document = state.catalog.items[item] if item < len(state.catalog.items) else None
    if document is None or not document.components:
        return None
    parts = [component.sku for component in document.components]
    return ProblemItem(
        pointer, f"{document.sku} is a kit: its components have the stock", {"sku": document.sku, "components": parts}
    )


def adjust(state: ShardState, command: AdjustStock) -> StockMoved | Problem:
    """Typed movements at one node, all or none."""
    node = find_node(state, command.node_id)
    if isinstance(node, Problem):
        return node
    if not 0 < len(command.moves) <= ROWS_MAX:
        return refuse("invalid_field", "/moves", f"1 to {ROWS_MAX} movements", moves=len(command.moves))
    part = state.nodes.get(node)
    moves: list[tuple[int, str, int]] = []
    net: dict[int, int] = {}
    changed: list[ProblemItem] = []
    for n, move in enumerate(command.moves):
        item = state.catalog.item_of.get(move.sku)
        if item is None:
            return refuse("unknown_sku", f"/moves/{n}/sku", f"no item {move.sku!r}", sku=move.sku)
        if is_uncounted(part, item):
            return refuse(
                "invalid_field", f"/moves/{n}/sku", f"nobody counts {move.sku} here: it has no shelf", sku=move.sku
            )
        sign = MOVEMENT_SIGN.get(move.kind)
        if sign is None:
            return refuse("invalid_field", f"/moves/{n}/kind", f"one of {', '.join(MOVEMENT_SIGN)}")
        if (sign and move.quantity < 1) or move.quantity == 0 or abs(move.quantity) > UNITS_MAX:
            return refuse("invalid_field", f"/moves/{n}/quantity", f"{move.quantity} is not a quantity of {move.kind}")
        change = move.quantity * (sign or 1)
        fault = _kit_fault(state, item, f"/moves/{n}/sku") if change > 0 else None  # what was there before may go
        if fault is not None:
            return Problem("invalid_field", CODES["invalid_field"].title, (fault,))
        row = state.positions.find(item, node)
        on_hand = state.positions.v_on_hand[row] if row >= 0 else 0
        expected = command.expected[n] if command.expected else None
        there = on_hand + net.get(item, 0)
        if expected is not None and expected != there:
            detail = f"{there} of {move.sku} are on hand, not {expected}"
            facts = {"sku": move.sku, "expected_on_hand": expected, "on_hand": there}
            changed.append(ProblemItem(f"/moves/{n}/expected_on_hand", detail, facts))
        net[item] = net.get(item, 0) + change
        if not -UNITS_MAX <= on_hand + net[item] <= UNITS_MAX:
            return refuse(
                "invalid_field", f"/moves/{n}/quantity", f"on hand would leave +-{UNITS_MAX}", on_hand=on_hand
            )
        moves.append((item, move.kind, change))
    if changed:
        return Problem("stock_changed", CODES["stock_changed"].title, tuple(changed))
    reasons = tuple([move.reason for move in command.moves])
    if len(set(reasons)) == 1:
        return StockMoved(node, tuple(moves), reasons[0], command.key_hash, command.fingerprint)
    return StockMoved(node, tuple(moves), "", command.key_hash, command.fingerprint, reasons=reasons)


def count(state: ShardState, command: CountStock, *, now_ms: int) -> StockCounted | Problem:
    """An absolute count: what the shelf held at `as_of`, plus every movement of ours since then.

    So a snapshot that was taken before a shipment and arrives after it does not put the shipped units back.
    """
    node = find_node(state, command.node_id)
    if isinstance(node, Problem):
        return node
    if command.scope not in SCOPES:
        return refuse("invalid_field", "/scope", f"one of {', '.join(SCOPES)}")
    if command.as_of_ms > now_ms + CLOCK_AHEAD_MS:
        return refuse(
            "invalid_field",
            "/as_of",
            f"lies more than {CLOCK_AHEAD_MS // 1_000} s in the future, by the engine's clock",
            now=instant(now_ms),
        )
    part = state.nodes.get(node)
    reaches_ms = max(now_ms - KEPT_MS, part.movements.forgotten_ms if part else 0)
    if command.as_of_ms < reaches_ms:
        return refuse(
            "stale_count", "/as_of", "older than the movements kept to net it", kept_since=instant(reaches_ms)
        )
    if len(command.rows) > ROWS_MAX:
        return refuse("invalid_field", "/rows", f"at most {ROWS_MAX} rows", rows=len(command.rows))
    newest_seq, newest_ms = part.feeds.get(command.source, (-1, 0)) if part else (-1, 0)
    if command.source_seq < newest_seq or (command.source_seq == newest_seq and not command.listed):
        return Problem(
            "stale_count",
            CODES["stale_count"].title,
            (
                ProblemItem(
                    "/source_seq",
                    f"{command.source} was already applied up to {newest_seq}",
                    {
                        "source_seq": command.source_seq,
                        "newest_source_seq": newest_seq,
                        "newest_as_of": instant(newest_ms),
                    },
                ),
            ),
        )
    since = part.movements.net_after(command.as_of_ms) if part else {}
    positions = state.positions
    as_of = divmod(command.as_of_ms - EPOCH_2020_MS, 1_000)
    counted: dict[int, int] = {}
    kits: list[ProblemItem] = []
    for n, (sku, units) in enumerate(command.rows):
        item = state.catalog.item_of.get(sku)
        if item is None:
            return refuse("unknown_sku", f"/rows/{n}/sku", f"no item {sku!r}", sku=sku)
        if not 0 <= units <= UNITS_MAX:
            return refuse("invalid_field", f"/rows/{n}/quantity", f"{units} is not a count")
        if item in counted:
            return refuse("invalid_field", f"/rows/{n}/sku", f"{sku} is listed twice", sku=sku)
        counted[item] = units
        fault = _kit_fault(state, item, f"/rows/{n}/sku") if units else None
        if fault is not None:
            kits.append(fault)
    if kits:
        return Problem("invalid_field", CODES["invalid_field"].title, tuple(kits))
    if command.scope != "delta":
        items = positions.items()
        own = positions.node[: positions.size] == node  # empty ones too: an older count must not fill them later
        listed = {state.catalog.item_of.get(sku) for sku in command.listed}
        for item in sorted(items[own].tolist()):
            if item not in listed:
                counted.setdefault(item, 0)
    rows: list[tuple[int, int]] = []
    for item, units in counted.items():
        if is_uncounted(part, item):
            continue  # a feed lists its whole catalogue: what it says of such a position is no count
        row = positions.find(item, node)
        if row >= 0 and (positions.v_counted_s[row], positions.v_counted_ms[row]) > as_of:
            continue  # another source counted this position later than this one did
        on_hand = positions.v_on_hand[row] if row >= 0 else 0
        now = units + since.get(item, 0)
        if row < 0 and not now:
            continue  # a feed lists its whole catalogue: what was never here needs no position
        if abs(now) > UNITS_MAX:
            return refuse("invalid_field", "/rows", f"on hand would leave +-{UNITS_MAX}", sku=state.catalog.sku(item))
        rows.append((item, now - on_hand))
    return StockCounted(
        node,
        command.source,
        command.source_seq,
        command.as_of_ms,
        command.scope,
        tuple(rows),
        command.key_hash,
        command.fingerprint,
    )


def would_change(state: ShardState, command: CountStock, event: StockCounted) -> WouldChange:
    """What a count that was decided would do, without doing it."""
    listed = {state.catalog.item_of.get(sku) for sku in (*command.listed, *[sku for sku, _ in command.rows])}
    changes = [(item, units) for item, units in event.rows if units]
    return WouldChange(
        len(changes),
        sum(item not in listed for item, _ in changes),
        sum(units for _, units in changes if units > 0),
        -sum(units for _, units in changes if units < 0),
    )


def _supply(
    part: NodePart | None, item: int, mode: str | None, trust_bp: int | None, daily_cap: int | None
) -> tuple[str, int, int]:
    """Supply mode, trust and daily cap as they are to be: what is None stays as it is."""
    is_mode, is_trust_bp, is_daily_cap = (part.settings.get(item) if part else None) or ("counted", 10_000, 0)
    return (
        is_mode if mode is None else mode,
        is_trust_bp if trust_bp is None else trust_bp,
        is_daily_cap if daily_cap is None else daily_cap,
    )


def set_position(state: ShardState, command: SetPosition) -> PositionSet | Problem:
    """Safety units and supply mode of positions at one node."""
    node = find_node(state, command.node_id)
    if isinstance(node, Problem):
        return node
    if not 0 < len(command.rows) <= ROWS_MAX:
        return refuse("invalid_field", "/rows", f"1 to {ROWS_MAX} rows", rows=len(command.rows))
    part = state.nodes.get(node)
    rows = []
    for n, row in enumerate(command.rows):
        sku, safety = row[:2]
        item = state.catalog.item_of.get(sku)
        if item is None:
            return refuse("unknown_sku", f"/rows/{n}/sku", f"no item {sku!r}", sku=sku)
        fault = _kit_fault(state, item, f"/rows/{n}/sku")
        if fault is not None:
            return Problem("invalid_field", CODES["invalid_field"].title, (fault,))
        if not 0 <= safety <= UNITS_MAX:
            return refuse("invalid_field", f"/rows/{n}/safety", f"{safety} is not a quantity")
        mode, trust_bp, daily_cap = _supply(part, item, *row[2:])
        if mode not in SUPPLY_MODES:
            return refuse("invalid_field", f"/rows/{n}/supply", f"one of {', '.join(SUPPLY_MODES)}")
        if not 0 <= trust_bp <= 10_000:
            return refuse("invalid_field", f"/rows/{n}/trust_bp", "0 to 10000 basis points")
        if not 0 <= daily_cap <= UNITS_MAX:
            return refuse("invalid_field", f"/rows/{n}/daily_cap", f"{daily_cap} is not a quantity")
        if daily_cap and mode != UNCOUNTED:
            return refuse(
                "invalid_field", f"/rows/{n}/daily_cap", f"{mode} supply has none: only uncounted supply does"
            )
        rows.append((item, safety, mode, trust_bp, daily_cap))
    return PositionSet(node, tuple(rows), command.key_hash, command.fingerprint)
