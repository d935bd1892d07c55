"""New orders between arrival and decision: planned, claimed at a solver, tried at other shards, or waiting for a claim's end.

A repeat of the key of an order under way waits for the same answer; another order under its order id is refused.
"""

from __future__ import annotations

from msgspec import Struct

from engine.domain.commands import PlaceOrder
from engine.domain.decide_orders import Prepared, refuse
from engine.domain.problems import CODES
from engine.domain.replies import Problem


class Flight(Struct, gc=False):
    """One new order that is not decided yet."""

    askers: list[tuple[int, int]]
    """(conn, corr) of all that wait for its answer, the first one's first."""
    command: PlaceOrder
    prepared: Prepared
    id_hash: int
    """keys.hash_of its order id."""
    order_no: int = 0
    """Given by its first transaction; 0 = none yet."""
    rounds: int = 0
    """Transactions that other shards refused."""
    replans: int = 0
    """Plans that did not fit the state any more."""
    registered: bool = False
    wait_until_ms: int = 0
    """Set when it first waits for a claim; after it the order is decided as the state then stands."""
    waits_for: tuple[int, ...] = ()
    """Items whose claims it waits for."""

    @property
    def slot(self) -> str:
        return self.prepared.slot


class Flights:
    """Orders under way by idempotency key and by order id, within their slots."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, int], Flight] = {}
        self._by_id: dict[tuple[str, str], Flight] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def any_in(self, slot: str) -> bool:
        """Whether an order of a slot is under way."""
        return any(key[0] == slot for key in self._by_id)

    def slots(self) -> list[str]:
        """Slots of the orders under way."""
        return [key[0] for key in self._by_id]

    def register(self, flight: Flight) -> None:
        if not flight.registered:
            flight.registered = True
            command = flight.command
            if command.key_hash:
                self._by_key[(flight.slot, command.key_hash)] = flight
            self._by_id[(flight.slot, command.order.order_id)] = flight

    def close(self, flight: Flight) -> None:
        """It is decided."""
        if flight.registered:
            flight.registered = False
            command = flight.command
            self._by_key.pop((flight.slot, command.key_hash), None)
            self._by_id.pop((flight.slot, command.order.order_id), None)

    def join_key(self, conn: int, corr: int, slot: str, key_hash: int, fingerprint: int) -> Problem | bool:
        """The same, by idempotency key alone."""
        flight = self._by_key.get((slot, key_hash)) if key_hash else None
        if flight is None:
            return False
        if flight.command.fingerprint != fingerprint:
            return Problem("key_reused", CODES["key_reused"].title)
        flight.askers.append((conn, corr))
        return True

    def join(self, conn: int, corr: int, slot: str, command: PlaceOrder) -> Problem | bool:
        """True = it waits with the order under way; a problem = it cannot; False = nothing like it is under way."""
        if not self._by_id:
            return False
        joined = self.join_key(conn, corr, slot, command.key_hash, command.fingerprint)
        if joined is not False:
            return joined
        order_id = command.order.order_id
        if (slot, order_id) in self._by_id:
            return refuse("duplicate_order", "/order_id", f"{order_id} is being placed")
        return False
