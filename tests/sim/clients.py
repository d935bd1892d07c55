"""Storefronts, pickers and counters of a simulated cluster: every command is repeated under its key until it is answered.

What was acknowledged is remembered here and must be in every later state of the shards: exactly once, and never taken back (I3).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from engine.domain.commands import (
    ActOnLeg,
    AdjustStock,
    CancelDemand,
    CancelInbound,
    CancelOrder,
    Command,
    CommitHold,
    CountStock,
    EditOrder,
    ExtendHold,
    GetOrder,
    GetStatus,
    ListLegs,
    PlaceOrder,
    PlaceQuoted,
    PrioritiseDemand,
    PutInbound,
    Quoted,
    QuoteOrder,
    ReceiveInbound,
    ReleaseHold,
    SetPosition,
    StockMove,
)
from engine.domain.config import Node
from engine.domain.ids import slot_of
from engine.domain.orders import LegState, OnShort, OrderRequest, OrderState
from engine.domain.placement import shard_of_node, shard_of_slot
from engine.domain.replies import InboundReply, LegView, Opened, OrderView, Problem, QuoteReply, Reply, StockReply
from engine.domain.views import whole_view
from engine.protocol.control_core import ControlCore
from engine.protocol.shard_core import ShardCore
from engine.protocol.tokens import parse_token
from tests.builders import a_destination, a_line, an_order
from tests.sim.checker import check_guests, orders_of
from tests.sim.harness import World

TIMEOUT_MS = 400
PATIENCE = 500
"""Attempts before a command counts as unanswered."""
_TRY_LATER = ("moved", "overloaded", "unavailable", "view_behind", "journal_full")
_ACTIONS = ("release", "accept", "pick", "ship", "deliver", "reject")


@dataclass
class Op:
    command: Command
    shard: int
    then: Callable[[Reply], None]
    attempts: int = 0
    reply: Reply | None = None


class Clients:
    """`work` starts one command after another; `open` = those without an answer."""

    def __init__(self, world: World, *, items: int, postal_codes: list[str], max_quantity: int = 3) -> None:
        self.world = world
        self.random = random.Random(world.seed * 7 + 1)
        self.items = items
        self.postal_codes = postal_codes
        self.max_quantity = max_quantity
        self.open: dict[int, Op] = {}
        self.views: dict[int, OrderView] = {}
        """Newest acknowledged view by order number."""
        self.placed: dict[str, dict[int, None]] = defaultdict(dict)
        """Order numbers acknowledged under an order id."""
        self.count = 0
        self.refusals: dict[str, int] = defaultdict(int)
        self.answered = 0
        self.quotes_kept = 0
        self._corr = 0
        self._feed_seq = 0
        self.nodes: list[Node] = [node for node in world.core(0).catalog.nodes if node is not None]
        world.on_answer = self._answer
        world.on_recovered = self._recovered

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, shard: int, command: Command, then: Callable[[Reply], None] = lambda reply: None) -> Op:
        self._corr += 1
        op = self.open[self._corr] = Op(command, shard, then)
        self._attempt(self._corr, op)
        return op

    def _attempt(self, corr: int, op: Op) -> None:
        if op.reply is None:
            op.attempts += 1
            assert op.attempts < PATIENCE, f"I11: no answer to {op.command}"
            self.world.submit(op.shard, corr, op.command)
            self.world.after(TIMEOUT_MS, lambda: self._attempt(corr, op))

    def _answer(self, corr: int, reply: Reply) -> None:
        op = self.open.get(corr)
        if op is None:
            return
        if isinstance(reply, Opened):
            assert isinstance(op.command, PlaceOrder) and op.command.brief
            reply = whole_view(op.command.order, reply)
        if isinstance(reply, Problem):
            if reply.code in _TRY_LATER:
                if reply.code == "moved":
                    op.shard = self._owner(op)
                return
            wrong = ["internal", "key_reused"]
            if not self._may_be_invalid(op.command):
                wrong.append("invalid_field")
            assert reply.code not in wrong, f"{op.command} got {reply}"
            self.refusals[reply.code] += 1
        self._check_durable(reply)
        del self.open[corr]
        op.reply = reply
        self.answered += 1
        if isinstance(reply, OrderView):
            self._saw(op.command, reply)
        op.then(reply)

    def _may_be_invalid(self, command: Command) -> bool:
        """Units that were there when the client looked may be gone when it asks, and nobody may count what it counts by then."""
        if isinstance(command, AdjustStock):
            return any(self._is_supplied(command.node_id, move.sku) for move in command.moves)
        if isinstance(command, PutInbound):
            return any(self._is_supplied(command.node_id, row[1]) for row in command.rows)
        if isinstance(command, ReceiveInbound):
            return self._is_supplied(command.node_id, command.inbound_id.partition("/")[2])
        return bool(getattr(command, "lines", None)) or isinstance(command, EditOrder)

    def _is_supplied(self, node_id: str, sku: str) -> bool:
        """Whether a position is now and then uncounted: the last item, at every fourth node."""
        n = next(n for n, node in enumerate(self.nodes) if node.node_id == node_id)
        return n % 4 == 0 and sku == f"SKU-{self.items - 1}"

    def _owner(self, op: Op) -> int:
        """Who owns what a command is about, by the newest map."""
        placement, command = self.world.placement, op.command
        node_id, slot = getattr(command, "node_id", None), getattr(command, "slot", None)
        if slot is None and isinstance(command, PlaceOrder | QuoteOrder) and command.order.ship_to is not None:
            slot = slot_of(command.order.ship_to.country, command.order.ship_to.postal_code)
        if slot is not None:
            return shard_of_slot(placement, slot)
        node = next((node for node in self.nodes if node.node_id == node_id), None)
        return shard_of_node(placement, node) if node is not None else op.shard

    def _check_durable(self, reply: Reply) -> None:
        """P2: nothing is answered before the entries that it names are durable."""
        if isinstance(reply, OrderView | StockReply | InboundReply):
            for shard, (_, seq) in (parse_token(reply.token) or {}).items():
                assert seq <= self.world.journals[shard].tail_seq, f"an answer names entry {seq}, which is not durable"

    def _saw(self, command: Command, view: OrderView) -> None:
        if isinstance(command, PlaceOrder):
            self.placed[view.order_id][view.order_no] = None
        known = self.views.get(view.order_no)
        if known is None or known.version <= view.version:
            self.views[view.order_no] = view

    def _recovered(self, shard: int, core: ShardCore | ControlCore) -> None:
        """I3: whatever was acknowledged is in the recovered state."""
        if not isinstance(core, ShardCore):
            return
        for order_no, view in self.views.items():
            if core.catalog.owns_slot(view.slot):
                record = core.state.order(view.slot, order_no)
                assert record is not None, f"I3: acknowledged order {view.order_id} is lost"
                assert record.version >= view.version, f"I3: order {view.order_id} went back from {view} to {record}"

    # -- work -----------------------------------------------------------------------------------------------------

    def home(self, slot: str) -> int:
        """The shard of a slot, or now and then the wrong one."""
        right = shard_of_slot(self.world.placement, slot)
        return right if self.random.random() < 0.95 else self.random.randrange(self.world.shards)

    def key(self) -> dict[str, int]:
        self.count += 1
        return {"key_hash": self.count * 0x9E3779B97F4A7C15 & (1 << 64) - 1, "fingerprint": self.count}

    def stock_up(self, *, quantity_max: int) -> None:
        """Every node gets a few of every item, or leave to sell what nobody counts."""
        for node in self.nodes:
            shard = shard_of_node(self.world.placement, node)
            moves = tuple(
                StockMove(f"SKU-{i}", "received", units)
                for i in range(self.items)
                if (units := self.random.randint(0, quantity_max)) and not self._is_supplied(node.node_id, f"SKU-{i}")
            )
            if self._is_supplied(node.node_id, f"SKU-{self.items - 1}"):
                self.send(shard, self._some_setting(node.node_id, f"SKU-{self.items - 1}"))
            if moves:
                self.send(shard, AdjustStock(node.node_id, moves, **self.key()))

    def place(self, lines: dict[str, int], *, postal_code: str, ttl_s: int = 0, **fields: object) -> Op:
        self.count += 1
        order = an_order(f"A-{self.count}", lines, ship_to=a_destination(postal_code), **fields)
        slot = "US" + postal_code[:3]
        command = PlaceOrder(order, ttl_s, **self.key(), brief=self.count % 3 > 0)
        return self.send(shard_of_slot(self.world.placement, slot), command)

    def work(self) -> None:
        """One random thing that somebody does."""
        roll = self.random.random()
        if roll < 0.45 or not self.views:
            self._place_something()
        elif roll < 0.8:
            self._change_something()
        elif roll < 0.97:
            self._move_stock()
        else:
            node = self.random.choice(self.nodes)
            self.send(
                self.random.randrange(self.world.shards), self.random.choice([GetStatus(), ListLegs(node.node_id)])
            )

    def _place_something(self) -> None:
        rng = self.random
        skus = rng.sample(range(self.items), rng.randint(1, min(3, self.items)))
        postal_code = rng.choice(self.postal_codes)
        lines = [a_line(f"SKU-{sku}", rng.randint(1, self.max_quantity), line_id=str(n)) for n, sku in enumerate(skus)]
        order = an_order(
            f"A-{self.count}" if rng.random() < 0.95 else "A-SAME",
            lines,
            ship_to=a_destination(postal_code),
            on_short=rng.choice([OnShort.REFUSE, OnShort.REFUSE, OnShort.PARTIAL, OnShort.PARK]),
            priority=rng.choice([0, 0, 0, 5]),
            cancel_after_ms=self.world.now_ms + rng.randint(0, 5_000) if rng.random() < 0.2 else None,
        )
        ttl_s = rng.choice([0, 0, 1, 2, 5])
        home = self.home("US" + postal_code[:3])
        if rng.random() < 0.2:
            self.count += 1  # the next order has another id
            self.send(home, QuoteOrder(order), lambda reply: self._spend(order, ttl_s, home, reply))
        else:
            self.send(home, PlaceOrder(order, ttl_s, **self.key(), brief=self.count % 3 > 0))

    def _spend(self, order: OrderRequest, ttl_s: int, home: int, reply: Reply) -> None:
        """Take up what was quoted, some of it too late: it is kept, or refused with a reason of its own."""
        if not isinstance(reply, QuoteReply):
            return
        option = self.random.choice(reply.options)
        quoted = Quoted(
            option.service,
            reply.at_ms,
            reply.at_ms + self.random.choice([1, 200, 60_000]),
            option.ship_by_ms,
            option.deliver_by_ms,
            option.money_minor[0],
            option.unfilled_units,
        )

        def kept(answer: Reply) -> None:
            if isinstance(answer, OrderView) and not answer.replayed and answer.version == 1:
                assert answer.deliver_by_ms <= quoted.deliver_by_ms, (
                    f"quoted by {quoted.deliver_by_ms}, placed as {answer}"
                )
                unfilled = sum(line.quantity for line in answer.unfilled)
                assert unfilled <= quoted.unfilled_units, (
                    f"{quoted.unfilled_units} unfilled were quoted, not {unfilled}"
                )
                self.quotes_kept += 1

        def spend() -> None:
            self.send(home, PlaceQuoted(order, ttl_s, **self.key(), quoted=quoted), kept)

        self.world.after(self.random.choice([1, 50, 400]), spend)

    def _change_something(self) -> None:
        rng = self.random
        view = self.views[rng.choice(list(self.views))]
        home, at = self.home(view.slot), (view.slot, view.order_no)
        if view.state == "held" and rng.random() < 0.9:
            command: Command = rng.choice(
                [
                    CommitHold(*at, **self.key()),
                    CommitHold(*at, self._some_lines(view.legs), **self.key()),
                    CommitHold(*at, None, **self.key(), ship_to=a_destination(rng.choice(self.postal_codes))),
                    ReleaseHold(*at, **self.key()),
                    ExtendHold(*at, rng.choice([1, 5]), **self.key()),
                    CancelOrder(*at, **self.key()),
                ]
            )
        elif view.legs and rng.random() < 0.8:
            leg = rng.choice(view.legs)
            action = rng.choice(_ACTIONS)
            if rng.random() < 0.7:
                action = {"allocated": "release", "released": "pick", "picking": "ship", "shipped": "deliver"}.get(
                    leg.state, action
                )
            lines = self._some_lines((leg,)) if action in ("ship", "reject") and rng.random() < 0.5 else None
            effect = rng.choice(["none", "zero_until_count", "write_off"]) if action == "reject" else "none"
            command = ActOnLeg(*at, leg.leg_no, action, lines, "", effect, **self.key())
        else:
            lines = self._some_lines(view.legs) if rng.random() < 0.5 else None
            command = CancelOrder(*at, lines, **self.key())
        if isinstance(command, CommitHold | CancelOrder | ActOnLeg) and command.lines == ():
            command = msgspec.structs.replace(command, lines=None)
        if rng.random() < 0.1:
            command = self._some_edit(view)
        if view.unfilled and rng.random() < 0.3:
            no = view.unfilled[0].demand_no or 0
            command = rng.choice(
                [CancelDemand(*at, no, **self.key()), PrioritiseDemand(*at, no, rng.randint(0, 9), **self.key())]
            )
        if rng.random() < 0.1:
            command = GetOrder(*at)
        self.send(home, command)

    def _some_edit(self, view: OrderView) -> EditOrder:
        """Another address, other quantities, a new or a removed line: often one that cannot be."""
        rng = self.random
        line_ids = sorted({line.line_id for leg in view.legs for line in leg.lines}) or ["0"]
        added = (a_line(f"SKU-{rng.randrange(self.items)}", rng.randint(1, 2), line_id=f"e{self.count}"),)
        changed = rng.choice(line_ids)
        return EditOrder(
            view.slot,
            view.order_no,
            a_destination(rng.choice(self.postal_codes)) if rng.random() < 0.5 else None,
            lines=((changed, rng.randint(1, self.max_quantity)),) if rng.random() < 0.5 else (),
            added=added if rng.random() < 0.3 else (),
            removed=(rng.choice(line_ids),) if rng.random() < 0.2 else (),
            on_short=rng.choice([None, OnShort.REFUSE, OnShort.PARTIAL, OnShort.PARK]),
            **self.key(),
        )

    def _some_lines(self, legs: tuple[LegView, ...]) -> tuple[tuple[str, int], ...]:
        """Part of what some legs have, by line id."""
        units: dict[str, int] = defaultdict(int)
        for leg in legs:
            if leg.state not in ("cancelled", "rejected", "shipped", "delivered"):
                for line in leg.lines:
                    units[line.line_id] += line.quantity
        chosen = {line_id: self.random.randint(0, most) for line_id, most in units.items()}
        return tuple((line_id, some) for line_id, some in chosen.items() if some)

    def _move_stock(self) -> None:
        rng = self.random
        node = rng.choice(self.nodes)
        shard = shard_of_node(self.world.placement, node)
        sku = f"SKU-{rng.randrange(self.items)}"
        roll = rng.random()
        if roll < 0.35:
            moves = (StockMove(sku, "received", rng.randint(1, 9)),)
            command: Command = AdjustStock(node.node_id, moves, **self.key())
        elif roll < 0.45:
            moves = (StockMove(sku, rng.choice(["damaged", "sold_in_store"]), 1),)
            command = AdjustStock(node.node_id, moves, **self.key())
        elif roll < 0.6:
            command = self._some_setting(node.node_id, sku)
        elif roll < 0.85:
            command = self._some_inbound(node.node_id, sku)
        else:
            self._feed_seq += rng.choice([0, 1, 1, 1])
            as_of_ms = self.world.now_ms - rng.randint(0, 2_000)
            rows2 = tuple((f"SKU-{i}", rng.randint(0, 3)) for i in range(self.items) if rng.random() < 0.5)
            scope = rng.choice(["full", "nonzero", "delta", "delta"])
            command = CountStock(node.node_id, "wms", as_of_ms, self._feed_seq, scope, rows2, **self.key())
        self.send(shard, command)

    def _some_setting(self, node_id: str, sku: str) -> SetPosition:
        rng = self.random
        mode, cap = rng.choice(["counted", "trusted"]), 0
        if self._is_supplied(node_id, sku) and rng.random() < 0.9:
            mode, cap = "uncounted", rng.randint(0, 6)
        return SetPosition(node_id, ((sku, rng.randint(0, 1), mode, 5_000, cap),), **self.key())

    def _some_inbound(self, node_id: str, sku: str) -> Command:
        """State, change, receive or cancel one of a few records."""
        rng = self.random
        inbound_id = f"PO-{rng.randrange(2)}/{sku}"
        roll = rng.random()
        if roll < 0.5:
            row = (inbound_id, sku, rng.randint(1, 9), self.world.now_ms + rng.randint(-1_000, 5_000))
            return PutInbound(node_id, (row,), **self.key())
        known = sorted(i for n, i in self.world.transit.inbound if self.nodes[n].node_id == node_id)
        if known and rng.random() < 0.8:
            inbound_id = rng.choice(known)
        if roll < 0.9:
            return ReceiveInbound(node_id, inbound_id, rng.choice([None, 1, 3, 9]), rng.random() < 0.3, **self.key())
        return CancelInbound(node_id, inbound_id, **self.key())

    # -- the end --------------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """When all is quiet: every command was answered, every acknowledged order is there exactly once, nothing holds on."""
        assert not self.open, f"I11: unanswered: {[op.command for op in self.open.values()]}"
        by_id: dict[str, list[int]] = defaultdict(list)
        everything = {}
        check_guests(self.world.cores())
        for core in self.world.cores():
            for order_no, (slot, record) in orders_of(core.state).items():
                assert core.catalog.owns_slot(slot)
                assert order_no not in everything, f"order {order_no} is in two shards"
                everything[order_no] = record
                by_id[record.order_id].append(order_no)
                assert record.state != OrderState.HELD, f"I11: order {record.order_id} is held for ever"
                assert all(leg.state != LegState.HELD for leg in record.legs)
        for order_id, numbers in self.placed.items():
            for order_no in numbers:
                assert order_no in everything, f"I3: acknowledged order {order_id} is lost"
        for order_id, numbers in by_id.items():
            if order_id != "A-SAME":
                assert len(numbers) == 1, f"I3: order {order_id} was placed {len(numbers)} times"
        for order_no, view in self.views.items():
            assert everything[order_no].version >= view.version
