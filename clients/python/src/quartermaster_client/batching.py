"""Batches of any size: cut into slices that the engine takes, each order with a key and a result of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from quartermaster_client.bodies import BatchItem, BatchOrder
from quartermaster_client.calling import encode
from quartermaster_client.errors import QuartermasterError, error_of
from quartermaster_client.keys import new_key
from quartermaster_client.models import Allocation, Order
from quartermaster_client.retry import RETRY_CODES, RETRY_STATUS

ORDERS_MAX = 1_000
LINES_MAX = 20_000
VALUES_MAX = 16 * LINES_MAX
"""As a gateway counts them: commas of the body."""
BYTES_MAX = 4 * 1024 * 1024
"""Half of what a gateway takes by default."""


class BatchResult(NamedTuple):
    """What became of one order: `allocation`, or `error`. The key sends the same order again safely."""

    order_id: str
    idempotency_key: str
    allocation: Allocation | None
    error: QuartermasterError | None
    replayed: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> Allocation:
        """The allocation, or its error raised."""
        if self.error is not None:
            raise self.error
        assert self.allocation is not None
        return self.allocation


class Batch:
    """The orders of a call, and what is still to be sent. An order told "later" stays pending."""

    def __init__(self, orders: Sequence[Order], keys: Sequence[str] | None) -> None:
        if keys is not None and len(keys) != len(orders):
            raise ValueError(f"{len(keys)} keys for {len(orders)} orders")
        self.keys = list(keys) if keys is not None else [new_key() for _ in orders]
        self._orders = orders
        self._results: list[BatchResult | None] = [None] * len(orders)
        self._so_far: dict[int, BatchResult] = {}
        self._maybe_done: set[int] = set()
        """Orders that an attempt may have placed although its answer does not say so."""
        self._retry_after_s = 0.0

    def pending(self) -> list[int]:
        """Orders without a result, by place."""
        return [n for n, result in enumerate(self._results) if result is None]

    def slices(self, places: Sequence[int]) -> Iterator[tuple[list[int], bytes]]:
        """(places, body) of requests that stay inside the engine's limits. The body is JSON, whatever the client speaks."""
        part: list[int] = []
        bodies: list[bytes] = []
        lines = values = size = 0
        for place in places:
            order = self._orders[place]
            fields: dict[str, Any] = {f: getattr(order, f) for f in Order.__struct_fields__}
            body = encode(BatchOrder(**fields, idempotency_key=self.keys[place]), packed=False)
            commas = body.count(b",") + 1
            full = (
                len(part) == ORDERS_MAX
                or lines + len(order.lines) > LINES_MAX
                or values + commas > VALUES_MAX
                or size + len(body) > BYTES_MAX
            )
            if part and full:
                yield part, _joined(bodies)
                part, bodies, lines, values, size = [], [], 0, 0, 0
            part.append(place)
            bodies.append(body)
            lines += len(order.lines)
            values += commas
            size += len(body) + 1
        if part:
            yield part, _joined(bodies)

    def maybe_done(self, places: Sequence[int]) -> bool:
        """Whether an order of a slice may have been placed before."""
        return not self._maybe_done.isdisjoint(places)

    def settle(self, places: Sequence[int], items: Sequence[BatchItem], *, maybe_done: bool = False) -> None:
        """Take a slice's answer. What may end differently stays pending, with its error for the case that it does not.

        maybe_done: an attempt before the one that was answered may have been done.
        """
        if maybe_done:
            self._maybe_done.update(places)
        for place, item in zip(places, items, strict=True):
            key = self.keys[place]
            order_id = self._orders[place].order_id
            if item.body is not None:
                self._results[place] = BatchResult(order_id, key, item.body, None, item.replayed)
                continue
            unsure = place in self._maybe_done
            found = error_of(item.problem or {}, status=item.status, idempotency_key=key, maybe_done=unsure)
            if found.outcome_unknown:
                self._maybe_done.add(place)
            result = BatchResult(order_id, key, None, found)
            if item.status in RETRY_STATUS or found.code in RETRY_CODES:
                self._retry_after_s = max(self._retry_after_s, found.retry_after_s or 0.0)
                self._so_far[place] = result
            else:
                self._results[place] = result

    def fail(self, places: Sequence[int], error: QuartermasterError) -> None:
        """A whole slice was refused, or not answered after all retries."""
        for place in places:
            self._results[place] = BatchResult(self._orders[place].order_id, self.keys[place], None, error)

    def take_retry_after_s(self) -> float:
        """The longest wait that an order of the last round was told."""
        seconds, self._retry_after_s = self._retry_after_s, 0.0
        return seconds

    def results(self) -> list[BatchResult]:
        """One for each order, in their order. Every slice must have been settled or failed."""
        return [result or self._so_far[place] for place, result in enumerate(self._results)]


def _joined(bodies: list[bytes]) -> bytes:
    return msgspec.json.encode({"orders": [msgspec.Raw(body) for body in bodies]})
