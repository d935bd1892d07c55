"""Decision records of a batch: the kernel's packed bodies behind the head that the batch shares."""

from __future__ import annotations

from collections.abc import Mapping

from engine.domain.decisions import SCHEMA, encode
from engine.domain.ids import EPOCH_2020_MS
from engine.domain.orders import Rung
from solvers import layout as at
from solvers.jit import KERNEL_VERSION
from solvers.layout import DAY_MS

_FIELDS = 10
"""Fields of a DecisionRecord without its gap and its views."""
_NO_GAP = encode([])


class Heads:
    """The first bytes of the records of one batch."""

    def __init__(self, *, config: int, now_ms: int, views: Mapping[int, tuple[int, int]]) -> None:
        self._now_ms = now_ms
        self._shared = encode((SCHEMA, config, KERNEL_VERSION, now_ms - EPOCH_2020_MS))[1:]  # without the array's head
        seen = [number for shard, point in sorted(views.items()) for number in (shard, *point)]
        self._views = encode(seen) if seen else b""
        head = bytes([0x90 | _FIELDS + 2 * bool(seen)]) + self._shared
        self._plain = [head + bytes([rung]) for rung in range(len(Rung))]
        self._plain_end = _NO_GAP + self._views if seen else b""

    def record(self, rung: int, body: bytes, gap: list[int] | None) -> bytes:
        """A whole record."""
        if gap is None:
            return self._plain[rung] + body + self._plain_end
        head = 0x90 | _FIELDS + 1 + bool(self._views)
        return b"%c%b%c%b%b%b" % (head, self._shared, rung, body, encode(gap), self._views)

    def body(
        self, scope: int, legs: list[int], runner_up: list[int], candidates: list[int], counts: list[int]
    ) -> bytes:
        """A body that did not come from the kernel (an order that the joint solver moved)."""
        return b"".join(encode(part) for part in (scope, legs, runner_up, candidates, counts))

    def leg_numbers(self, leg: list[int], lines: list[int]) -> list[int]:
        """A leg as the record keeps it: the fields of ChosenLeg, how many lines follow, the lines."""
        return [
            leg[at.G_NODE],
            leg[at.G_SERVICE],
            leg[at.G_SHIP_DAY] - self._now_ms // DAY_MS,
            leg[at.G_DAYS],
            leg[at.G_PARCELS],
            leg[at.G_CASH],
            leg[at.G_CASH_LINES],
            leg[at.G_CASH_UNITS],
            leg[at.G_CASH_SURCHARGE],
            leg[at.G_LATE],
            leg[at.G_TRANSIT],
            leg[at.G_POLICY],
            leg[at.G_OPPORTUNITY],
            len(lines),
            *lines,
        ]
