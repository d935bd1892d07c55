"""Waiting orders of several homes in one queue: what each home tells the owners of stock, and whose turn it is.

G1  A home tells every other shard what its orders wait for and where they collect: each row is all of one order, so a repeat does no
    harm. One message is under way to each; where one is not acknowledged, all is told again, as on a new connection. All rows are
    also repeated now and then. Whose connection ends is forgotten, and nothing is kept for it any more.
G2  At an owner, guests stand in an item's queue as its own orders do (domain/demand.py, W2), and units are kept for them likewise.
    When a guest's turn comes, its home is told what is free for it there, and the turn stays where it is until home answers how
    the order stands then, at most TURN_MS. A home that lets one pass gets none until it says something.
G3  A home lets such an order try with what owners said they keep for it: with all that the turns it has were given for, and where it
    collects as long as it does. The TRY names its place: an owner withholds from it only what is kept for those before it.
G4  At most GUESTS_MAX guests stand in line, and TURNS_MAX turns are given at once. Who finds no room waits for what everybody sees.
    A home plans what turns ask for as it plans all that waits (Q3).
G5  Nothing here is a promise. What is kept is memory, and an owner decides as ever (V3): at worst somebody comes second.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from engine.domain.commands import ShowDemand, TakeTurn
from engine.domain.orders import DemandRow
from engine.domain.replies import Done, Reply, TurnOver

if TYPE_CHECKING:
    from engine.protocol.demand_queue import DemandQueue, Entry, Place
    from engine.protocol.shard_core import ShardCore

GUESTS_MAX = 50_000
TURNS_MAX = 64
TURN_MS = 3_000
"""Longer than a TRY may take. An attempt of several rounds may lose its turn; it goes on with what is left for its place."""
TELL_INTERVAL_MS = 20
ROWS_PER_MESSAGE = 500
LOOKS_PER_POLL = 64
"""Orders with turns that one poll goes through."""


class Guest:
    """An order of another home that waits for items of which this shard may have some."""

    __slots__ = ("conn", "due_ms", "items", "misses", "order_no", "place", "said", "shard")

    def __init__(self, shard: int, conn: int, row: DemandRow, said: tuple[int, int]) -> None:
        self.shard = shard
        """Its home."""
        self.said = said
        """Number of what its home said last about it."""
        self.conn = conn
        self.order_no, rank, items, _ = row
        self.place: Place = (rank, self.order_no)
        self.items = dict(items)
        self.misses = 0
        """Turns in a row that did not help it."""
        self.due_ms = 0
        """When it gets a turn although it was not helped before; 0 = at the next."""


class _Turn:
    """An item's turn, while it is a guest's."""

    __slots__ = ("again", "corr", "guest", "until_ms")

    def __init__(self, guest: Guest, corr: int, until_ms: int) -> None:
        self.guest = guest
        self.corr = corr
        self.until_ms = until_ms
        self.again = False
        """More units came meanwhile: all are asked once more."""


class Guests:
    """The owner's side."""

    def __init__(self, core: ShardCore, queue: DemandQueue) -> None:
        self._core = core
        self._queue = queue
        self.by_order: dict[int, Guest] = {}
        self.by_item: dict[int, list[Place]] = {}
        """Places of the guests that wait for an item, foremost first."""
        self.turns: dict[int, _Turn] = {}
        """Items whose turn is a guest's."""
        self.silent: dict[int, None] = {}
        """Homes that let a turn pass, until they say something."""
        self._doubted: dict[int, dict[int, None]] = {}
        """Guests that were not told again yet, while their home tells all."""
        self._heard: dict[int, tuple[int, int]] = {}
        """(epoch, number) of the newest ShowDemand, by home."""
        self._by_corr: dict[int, int] = {}
        """Item by correlation id of a TakeTurn."""

    def walk(self, after: Place, item: int) -> Iterator[Guest]:
        """Guests behind a place that wait for an item, foremost first."""
        places = self.by_item.get(item, ())
        for n in range(bisect_right(places, after), len(places)):
            yield self.by_order[places[n][1]]

    # -- who stands in line ---------------------------------------------------------------------------------------

    def shown(self, conn: int, command: ShowDemand, now_ms: int) -> None:
        """G1. A home numbers what it says: what was overtaken is out of date."""
        said = command.said
        if said < self._heard.get(command.shard, (0, 0)):
            return
        self._heard[command.shard] = said
        self._speaks(command.shard)
        if command.begins:
            theirs = [guest.order_no for guest in self.by_order.values() if guest.shard == command.shard]
            self._doubted[command.shard] = dict.fromkeys(theirs)
        doubted = self._doubted.get(command.shard, {})
        for row in command.rows:
            doubted.pop(row[0], None)
            self._take(command.shard, conn, row, said, now_ms)
        if command.ends:
            gone = [self.by_order[no] for no in self._doubted.pop(command.shard, ()) if no in self.by_order]
            self._forget_all([guest for guest in gone if guest.shard == command.shard])

    def disconnected(self, conn: int) -> None:
        self._forget_all([guest for guest in self.by_order.values() if guest.conn == conn])

    def _speaks(self, shard: int) -> None:
        """A home says something: its guests may have turns again."""
        if shard in self.silent:
            del self.silent[shard]
            self._queue.stir_kept()

    def _forget_all(self, guests: list[Guest]) -> None:
        """Forget many at once: each list is gone through once."""
        gone = {guest.place for guest in guests}
        for item in {item for guest in guests for item in guest.items}:
            left = [place for place in self.by_item[item] if place not in gone]
            if left:
                self.by_item[item] = left
            else:
                del self.by_item[item]
        for guest in guests:  # one by one: what one gives back is shared out among those who are left
            del self.by_order[guest.order_no]
            self._queue.keeping.forget(guest.order_no)

    def forget(self, order_no: int) -> None:
        """An order waits no more, or it lives here now."""
        guest = self.by_order.pop(order_no, None)
        if guest is None:
            return
        self._take_out(guest)
        self._queue.keeping.forget(order_no)

    def _take_out(self, guest: Guest) -> None:
        for item in guest.items:
            places = self.by_item[item]
            del places[bisect_left(places, guest.place)]
            if not places:
                del self.by_item[item]

    def _take(self, shard: int, conn: int, row: DemandRow, said: tuple[int, int], now_ms: int) -> None:
        order_no, _, items, collects = row
        old = self.by_order.get(order_no)
        if not items:
            if old is not None and old.shard == shard:
                self.forget(order_no)
            return
        if order_no in self._queue.entries:
            return  # it came to live here: what its last home said is out of date
        if old is None and len(self.by_order) >= GUESTS_MAX:
            self._core.count("demand_guests_left_out")
            return
        guest = Guest(shard, conn, row, said)
        if old is not None:
            self._take_out(old)
        keeping = self._queue.keeping
        if old is not None and old.items == guest.items and guest.place >= old.place:
            guest.misses, guest.due_ms = old.misses, old.due_ms
        elif collects or any(keeping.keeps(item) for item in guest.items):
            # What is kept for it, or for those behind it, its home does not see; and a turn of it may be forgotten.
            self._queue.wait_longer(guest, now_ms)
        self.by_order[order_no] = guest
        for item in guest.items:
            insort(self.by_item.setdefault(item, []), guest.place)
        keeping.collects(order_no, {item << 32 | node: units for item, node, units in collects})

    # -- turns ----------------------------------------------------------------------------------------------------

    def give_turn(self, guest: Guest, item: int, now_ms: int) -> bool:
        """Let a guest try (G2); False = nothing is kept for it here that not everybody sees."""
        core, keeping = self._core, self._queue.keeping
        rows = keeping.free_for(guest.place, guest.items)
        if not rows:
            return False
        core.count("demand_turns_given")
        corr = core.send(guest.shard, TakeTurn(guest.order_no, rows))
        self._by_corr[corr] = item
        self.turns[item] = _Turn(guest, corr, now_ms + TURN_MS)
        return True

    def replied(self, shard: int, corr: int, reply: Reply, now_ms: int) -> bool:
        """A home's answer to a turn; False = the correlation id is none of ours."""
        item = self._by_corr.pop(corr, None)
        if item is None:
            return False
        turn = self.turns.get(item)
        if turn is None or turn.corr != corr:
            return True
        guest = self.by_order.get(turn.guest.order_no)
        if not isinstance(reply, TurnOver):
            self.silent[shard] = None
        elif guest is not None and guest.shard == shard and guest.said <= reply.said:
            self._take(shard, guest.conn, reply.row, reply.said, now_ms)
        self._over(item, turn, now_ms)
        return True

    def tick(self, now_ms: int) -> None:
        """Take turns back that last too long."""
        for item, turn in [(item, turn) for item, turn in self.turns.items() if now_ms >= turn.until_ms]:
            self._by_corr.pop(turn.corr, None)
            self.silent[turn.guest.shard] = None
            self._over(item, turn, now_ms)

    def no_turns(self) -> None:
        """Nobody waits any more."""
        self.turns.clear()
        self._by_corr.clear()

    def wake_at_ms(self) -> int | None:
        return min((turn.until_ms for turn in self.turns.values()), default=None)

    def _over(self, item: int, turn: _Turn, now_ms: int) -> None:
        del self.turns[item]
        before = turn.guest
        guest = self.by_order.get(before.order_no)
        if guest is not None and guest.items == before.items:
            guest.misses += 1
            self._queue.wait_longer(guest, now_ms)
        if not turn.again:
            self._queue.turn_ended(item, before.place)


class _Listener:
    """A shard that is told what waits here."""

    __slots__ = ("all_due", "corr", "due", "telling_all", "until_ms")

    def __init__(self) -> None:
        self.all_due = True
        """All is to be told, from the beginning."""
        self.due: dict[int, None] = {}
        """Orders of which it does not know how they stand."""
        self.telling_all = False
        """`due` is the rest of a full telling."""
        self.corr = 0
        """Of the message under way; 0 = none is."""
        self.until_ms = 0


class Visits:
    """The home's side: its orders at other shards."""

    def __init__(self, core: ShardCore, queue: DemandQueue) -> None:
        self._core = core
        self._queue = queue
        self._listeners: dict[int, _Listener] = {}
        """By shard: all whose views were heard."""
        self._told_ms = 0
        self._said = (0, 0)
        """(epoch, number) of the last ShowDemand or TurnOver."""
        self._turns: dict[int, list[tuple[int, int]]] = {}
        """Turns of an order: (conn, corr) of who gave them."""
        self._untried: dict[int, None] = {}
        """Orders that have a turn and did not try since it came."""
        self._kept: dict[int, dict[int, int]] = {}
        """Units that owners keep for an order, by its number and position key: as they said last."""

    def changed(self, order_no: int) -> None:
        """An order waits for something else, elsewhere, or no more."""
        for listener in self._listeners.values():
            if not listener.all_due:
                listener.due[order_no] = None

    def connected(self, shard: int) -> None:
        """G1: a new connection to an owner. Nothing that was under way counts."""
        self._listeners[shard] = _Listener()

    def tell_all_again(self) -> None:
        """So that nothing depends on a message that came late, as one of a slot's last home may have."""
        for listener in self._listeners.values():
            if not listener.all_due:
                listener.due.update(dict.fromkeys(self._queue.entries))

    def row(self, order_no: int) -> DemandRow:
        """What an order waits for."""
        entry = self._queue.entries.get(order_no)
        if entry is None:
            return order_no, 0, (), ()
        collects = [(key >> 32, key & 0xFFFFFFFF, units) for key, units in self._queue.keeping.collected(order_no)]
        return order_no, entry.place[0], tuple(entry.items.items()), tuple(collects)

    def tell(self, now_ms: int) -> None:
        """Tell the others what has changed, at most every few milliseconds."""
        for shard in self._core.catalog.placement.ended:
            self._listeners.pop(shard, None)
        if now_ms < self._told_ms + TELL_INTERVAL_MS:
            return
        for shard, listener in self._listeners.items():
            if listener.corr and now_ms >= listener.until_ms:  # it may not have been heard
                listener.corr, listener.all_due = 0, True
                listener.due.clear()
            if not listener.corr and (listener.due or listener.all_due):
                self._send(shard, listener, now_ms)

    def _send(self, shard: int, listener: _Listener, now_ms: int) -> None:
        begins = listener.all_due
        if begins:
            listener.all_due, listener.telling_all = False, True
            listener.due = dict.fromkeys(self._queue.entries)
        sent = list(islice(listener.due, ROWS_PER_MESSAGE))
        for order_no in sent:
            del listener.due[order_no]
        ends = listener.telling_all and not listener.due
        if ends:
            listener.telling_all = False
        rows = tuple([self.row(order_no) for order_no in sent])
        listener.corr = self._core.send(shard, ShowDemand(self._core.shard, self._next_said(), rows, begins, ends))
        listener.until_ms = now_ms + TURN_MS
        self._told_ms = now_ms

    def _next_said(self) -> tuple[int, int]:
        self._said = (self._core.epoch, self._said[1] + 1)
        return self._said

    def replied(self, shard: int, corr: int, reply: Reply) -> bool:
        """An answer to ShowDemand; False = the correlation id is none of ours."""
        listener = self._listeners.get(shard)
        if listener is None or listener.corr != corr:
            return False
        if isinstance(reply, Done):
            listener.corr = 0
        return True  # else it is told again when its time is up

    @property
    def due(self) -> bool:
        """Whether somebody is to be told something."""
        return any(listener.due or listener.all_due or listener.corr for listener in self._listeners.values())

    def wake_at_ms(self) -> int | None:
        times = [
            listener.until_ms if listener.corr else self._told_ms + TELL_INTERVAL_MS
            for listener in self._listeners.values()
            if listener.corr or listener.due or listener.all_due
        ]
        return min(times, default=None)

    # -- turns ----------------------------------------------------------------------------------------------------

    def take_turn(self, conn: int, corr: int, command: TakeTurn) -> None:
        """An owner keeps something for an order. It tries with that soon, or once it has ended what it tries already."""
        order_no = command.order_no
        if order_no not in self._queue.entries:
            self._core.answer(conn, corr, TurnOver(self.row(order_no), self._next_said()))
            return
        kept = self._kept.setdefault(order_no, {})
        owner = self._core.catalog.owner
        nodes = [node for _, node, _ in command.rows if node < len(owner)]
        for key in [key for key in kept if nodes and owner[key & 0xFFFFFFFF] == owner[nodes[0]]]:
            del kept[key]  # it says all that it keeps
        kept.update({item << 32 | node: units for item, node, units in command.rows})
        self._turns.setdefault(order_no, []).append((conn, corr))
        self._untried[order_no] = None

    @property
    def working(self) -> bool:
        """Whether a turn can be used now: what an order tries already ends by a message, or its deadline, and both wake the core."""
        is_busy = self._core.replans.is_busy
        return any(not is_busy(order_no) for order_no in islice(self._untried, LOOKS_PER_POLL))

    def try_some(self, attempts: int, now_ms: int) -> int:
        """Use turns that came, at most so many; returns how many."""
        tried = 0
        for order_no in list(islice(self._untried, LOOKS_PER_POLL)):
            if tried == attempts:
                break
            if self._core.replans.is_busy(order_no):
                continue  # what it tries now ends soon
            tried += self._try(self._queue.entries[order_no], now_ms)
        return tried

    def _try(self, entry: Entry, now_ms: int) -> int:
        core, order_no = self._core, entry.order_no
        del self._untried[order_no]
        core.count("demand_turns_taken")
        core.replans.start(entry.slot, order_no, now_ms=now_ms)
        if order_no in self._turns and not core.replans.is_busy(order_no):
            self.over(order_no)
        return 1

    def kept(self, order_no: int) -> dict[int, int]:
        """Units that owners keep for an order, by position key, as far as is known here."""
        return self._kept.get(order_no, {})

    def learnt(self, order_no: int, item: int, node: int, units: int) -> None:
        """An owner did not have so much for an order as it said."""
        kept = self._kept.get(order_no, {})
        key = item << 32 | node
        if key in kept:
            kept[key] = min(kept[key], units)

    def is_out(self, order_no: int) -> bool:
        """Whether an order has a turn elsewhere."""
        return order_no in self._turns

    def attempt_ended(self, order_no: int) -> None:
        """An attempt of an order is over: give its turns back, but for those that came meanwhile."""
        if order_no in self._turns and order_no not in self._untried:
            self.over(order_no)

    def over(self, order_no: int) -> None:
        """Give all turns back. What is kept for the order goes on being so where it collects (G3)."""
        self._untried.pop(order_no, None)
        collected = dict(self._queue.keeping.collected(order_no))
        kept = {key: units for key, units in self._kept.pop(order_no, {}).items() if key in collected}
        if kept:
            self._kept[order_no] = kept
        for conn, corr in self._turns.pop(order_no, ()):
            self._core.answer(conn, corr, TurnOver(self.row(order_no), self._next_said()))
