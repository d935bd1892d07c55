"""What the storefront was promised, kept by the storefront itself: an oversell shows here whatever the engine believes.

Units by (node, SKU). Promised counts from the engine's yes until the storefront asks to free the units (from then on the engine
may give them to somebody else, and its yes to them may arrive first); shipped units leave the shelf. If ever more is promised
than lies on the shelf, somebody was sold what is not there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

Position = tuple[str, str]
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

    def promise(self, legs: list[dict[str, Any]]) -> None:
        """Legs as the API shows them."""
        for position, units in lines_of(legs):
            now = self.promised[position] = self.promised.get(position, 0) + units
            excess = now - self.shelf.get(position, 0)
            if excess > 0:
                self.oversold[position] = max(excess, self.oversold.get(position, 0))

    def free(self, legs: list[dict[str, Any]]) -> None:
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

    def shipped(self, leg: dict[str, Any]) -> None:
        """The units of a leg have left shelf and promise."""
        for position, units in lines_of([leg]):
            self.promised[position] = self.promised.get(position, 0) - units
            self.shelf[position] = self.shelf.get(position, 0) - units

    def still(self, position: Position) -> bool:
        """Whether nothing moved at a position lately, so that its shelf can be counted."""
        quiet = time.monotonic() - self._moved_at.get(position, 0.0) > QUIET_S
        return quiet and not self._moving.get(position)


def lines_of(legs: list[dict[str, Any]]) -> Iterable[tuple[Position, int]]:
    """((node, SKU), units) of legs that still hold their units."""
    for leg in legs:
        if leg["state"] in ("cancelled", "rejected", "shipped", "delivered"):
            continue
        for line in leg["lines"]:
            yield (leg["node_id"], line["sku"]), line["quantity"]


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
