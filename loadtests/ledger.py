"""What the storefront was promised, kept by the storefront itself: an oversell shows here whatever the engine believes.

Units by (node, SKU). Promised counts from the engine's yes until the storefront asks to free the units (from then on the engine
may give them to somebody else, and its yes to them may arrive first); shipped units leave the shelf. If ever more is promised
than lies on the shelf, somebody was sold what is not there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias

import quartermaster_client as qm

Position = tuple[str, str]
Leg: TypeAlias = qm.Leg | dict[str, Any]
"""As the client shows it, or the API's JSON as it is."""
QUIET_S = 0.3


class Ledger:
    """Shelf and promises of every position, in the storefront's own books."""

    def __init__(self) -> None:
        self.shelf: dict[Position, int] = {}
        self.promised: dict[Position, int] = {}
        self.oversold: dict[Position, int] = {}
        """The worst excess seen of each position that was ever promised beyond its shelf."""
        self._moving: dict[Position, int] = {}
        """Reports of movements on their way to the engine."""
        self._moved_at: dict[Position, float] = {}

    def stock(self, positions: Iterable[tuple[Position, int]]) -> None:
        """Units that arrived."""
        for position, units in positions:
            self.shelf[position] = self.shelf.get(position, 0) + units

    def promise(self, legs: Iterable[Leg]) -> None:
        """Legs that the engine said yes to."""
        for position, units in lines_of(legs):
            now = self.promised[position] = self.promised.get(position, 0) + units
            excess = now - self.shelf.get(position, 0)
            if excess > 0:
                self.oversold[position] = max(excess, self.oversold.get(position, 0))

    def free(self, legs: Iterable[Leg]) -> None:
        """The engine is about to be asked to free these units. Where it keeps them, `promise` them again."""
        for position, units in lines_of(legs):
            self.promised[position] = self.promised.get(position, 0) - units

    def moving(self, positions: Iterable[Position]) -> None:
        """Units are about to arrive or leave: what the shelf holds is uncertain until `moved`."""
        for position in positions:
            self._moving[position] = self._moving.get(position, 0) + 1

    def moved(self, positions: Iterable[Position]) -> None:
        now = time.monotonic()
        for position in positions:
            self._moving[position] -= 1
            self._moved_at[position] = now

    def shipped(self, leg: Leg) -> None:
        """The units of a leg have left shelf and promise."""
        for position, units in lines_of([leg]):
            self.promised[position] = self.promised.get(position, 0) - units
            self.shelf[position] = self.shelf.get(position, 0) - units

    def still(self, position: Position) -> bool:
        """Whether nothing moved at a position lately, so that its shelf can be counted."""
        quiet = time.monotonic() - self._moved_at.get(position, 0.0) > QUIET_S
        return quiet and not self._moving.get(position)


def lines_of(legs: Iterable[Leg]) -> Iterable[tuple[Position, int]]:
    """((node, SKU), units) of legs that still hold their units."""
    for leg in legs:
        node_id, state, lines = _fields(leg)
        if state not in ("cancelled", "rejected", "shipped", "delivered"):
            for sku, units in lines:
                yield (node_id, sku), units


def _fields(leg: Leg) -> tuple[str, str, list[tuple[str, int]]]:
    if isinstance(leg, dict):
        return leg["node_id"], leg["state"], [(line["sku"], line["quantity"]) for line in leg["lines"]]
    return leg.node_id, leg.state, [(line.sku, line.quantity) for line in leg.lines]


class Recent:
    """A value over the last seconds: for rates that are shown live."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, int]] = deque()

    def add(self, at_s: float, total: int) -> None:
        self._points.append((at_s, total))
        while self._points[-1][0] - self._points[0][0] > self._window_s and len(self._points) > 2:
            self._points.popleft()

    def per_s(self) -> float:
        if len(self._points) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._points[0], self._points[-1]
        return (last - first) / max(1e-9, last_s - first_s)
