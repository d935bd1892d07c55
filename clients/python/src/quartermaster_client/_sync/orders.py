# Made from ../_async by clients/python/tools/unasync.py: change that, not this.
"""Orders: reserve, commit, extend, release, allocate, cancel, batches, decisions; and the life of their legs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from quartermaster_client import bodies
from quartermaster_client._sync.base import Base
from quartermaster_client.base import OnShort, Request, StockEffect
from quartermaster_client.batching import Batch, BatchResult
from quartermaster_client.calling import JSON, Operation
from quartermaster_client.errors import QuartermasterError
from quartermaster_client.models import (
    Allocation,
    Decision,
    LegPage,
    LegStep,
    LineQuantity,
    NodeSummary,
    Order,
    OrderLeg,
    OrderLine,
    Reservation,
    ShipTo,
)
from quartermaster_client.models_quotes import Quote


class Orders(Base):
    """Methods that change something take `idempotency_key`: left out, one is made for the call and kept through its retries.
    Give your own (a checkout's id, say) where the call itself may be repeated, by another process or after a crash.

    `after`: the `token` of an earlier answer; the engine then decides on a state that contains it.
    """

    # -- quotes ---------------------------------------------------------------------------------------------------

    def quote(
        self,
        order: Order,
        *,
        ttl_s: int | None = None,
        pickups: int = 0,
        radius_km: int = 50,
        after: str | None = None,
    ) -> Quote:
        """Ways to deliver the order, with dates and costs; nothing is held. `order_id` may be any: it is not looked at.

        Put `quote_id` and an option's `option_id` (as `quote_option`) into the order that you then reserve or allocate: it keeps
        the promised date, or is refused with QuoteChanged. `ttl_s`: valid for less than the engine's time. Raises OutOfStock.
        `pickups`: offer so many stores within `radius_km` of `ship_to` too; `order.collected_at(option.pickup_node_id)` takes one up.
        """
        pickup = bodies.PickupOptions(limit=pickups, radius_km=radius_km) if pickups else None
        return self.send(
            Operation(
                name="POST /v1/quotes",
                path="/v1/quotes",
                read=lambda reply: reply.to(Quote),
                body=bodies.QuoteBody(**_fields(order), ttl_s=ttl_s, pickup=pickup),
                after=after,
            )
        )

    # -- reservations ---------------------------------------------------------------------------------------------

    def reserve(
        self, order: Order, *, ttl_s: int = 900, after: str | None = None, idempotency_key: str = ""
    ) -> Reservation:
        """Plan the order and hold its units for `ttl_s` seconds; then they go back by themselves.

        Without `ship_to` it is planned for the channel's demand centre. Raises OutOfStock with the numbers. A repeat of a key
        answers with its hold as it is now: `state` says where that ran out meanwhile.
        """
        body = bodies.ReserveBody(**_fields(order), ttl_s=ttl_s)
        return self.send(
            Operation(
                name="POST /v1/reservations",
                path="/v1/reservations",
                read=lambda reply: reply.to(Reservation),
                body=body,
                key=idempotency_key,
                after=after,
            )
        )

    def get_reservation(self, reservation_id: str) -> Reservation:
        return self.send(
            Operation(
                name="GET /v1/reservations/{reservation_id}",
                path=f"/v1/reservations/{_part(reservation_id)}",
                read=lambda reply: reply.to(Reservation),
            )
        )

    def commit(
        self,
        reservation_id: str,
        *,
        lines: Sequence[LineQuantity] | None = None,
        ship_to: ShipTo | None = None,
        idempotency_key: str = "",
    ) -> Allocation:
        """Turn a reservation into an allocation. `lines`: only these units, the rest is released. `ship_to`: where it goes
        after all; the order is planned again when that differs."""
        return self.send(
            Operation(
                name="POST /v1/reservations/{reservation_id}/commit",
                path=f"/v1/reservations/{_part(reservation_id)}/commit",
                read=lambda reply: reply.to(Allocation),
                body=bodies.CommitBody(lines=_listed(lines), ship_to=ship_to),
                key=idempotency_key,
            )
        )

    def extend(self, reservation_id: str, *, ttl_s: int, idempotency_key: str = "") -> Reservation:
        """Hold for `ttl_s` seconds from now; never shorter than before, at most a day in all."""
        return self.send(
            Operation(
                name="POST /v1/reservations/{reservation_id}/extend",
                path=f"/v1/reservations/{_part(reservation_id)}/extend",
                read=lambda reply: reply.to(Reservation),
                body=bodies.ExtendBody(ttl_s=ttl_s),
                key=idempotency_key,
            )
        )

    def release(self, reservation_id: str, *, idempotency_key: str = "") -> Reservation:
        """Give the held units back."""
        return self.send(
            Operation(
                name="DELETE /v1/reservations/{reservation_id}",
                path=f"/v1/reservations/{_part(reservation_id)}",
                read=lambda reply: reply.to(Reservation),
                key=idempotency_key,
            )
        )

    # -- allocations ----------------------------------------------------------------------------------------------

    def allocate(self, order: Order, *, after: str | None = None, idempotency_key: str = "") -> Allocation:
        """Decide and commit in one step: when this returns, the units are held durably. Raises OutOfStock."""
        return self.send(
            Operation(
                name="POST /v1/allocations",
                path="/v1/allocations",
                read=lambda reply: reply.to(Allocation),
                body=order,
                key=idempotency_key,
                after=after,
            )
        )

    def get_allocation(self, allocation_id: str) -> Allocation:
        return self.send(
            Operation(
                name="GET /v1/allocations/{allocation_id}",
                path=f"/v1/allocations/{_part(allocation_id)}",
                read=lambda reply: reply.to(Allocation),
            )
        )

    def cancel(
        self,
        allocation_id: str,
        *,
        lines: Sequence[LineQuantity] | None = None,
        reason: str = "",
        idempotency_key: str = "",
    ) -> Allocation:
        """Cancel all that has not left, or the units of `lines`. What has left cannot be cancelled (Conflict)."""
        return self.send(
            Operation(
                name="POST /v1/allocations/{allocation_id}/cancel",
                path=f"/v1/allocations/{_part(allocation_id)}/cancel",
                read=lambda reply: reply.to(Allocation),
                body=bodies.CancelBody(lines=_listed(lines), reason=reason),
                key=idempotency_key,
            )
        )

    def replan(
        self,
        allocation_id: str,
        *,
        ship_to: ShipTo | None = None,
        service: str | None = None,
        lines: Sequence[LineQuantity] = (),
        add_lines: Sequence[OrderLine] = (),
        remove_lines: Sequence[str] = (),
        on_short: OnShort | None = None,
        reason: str = "",
        if_version: int | None = None,
        idempotency_key: str = "",
    ) -> Allocation:
        """Edit an order: all of it or nothing (OutOfStock, and it is as it was). Released legs stay: `edit.fixed_legs`.

        `if_version`: raise where the order has another version by now.
        """
        return self.send(
            Operation(
                name="POST /v1/allocations/{allocation_id}/replan",
                path=f"/v1/allocations/{_part(allocation_id)}/replan",
                read=lambda reply: reply.to(Allocation),
                body=_replan_body(ship_to, service, lines, add_lines, remove_lines, on_short, reason),
                key=idempotency_key,
                headers=_seen(if_version),
            )
        )

    def replan_reservation(
        self,
        reservation_id: str,
        *,
        ship_to: ShipTo | None = None,
        service: str | None = None,
        lines: Sequence[LineQuantity] = (),
        add_lines: Sequence[OrderLine] = (),
        remove_lines: Sequence[str] = (),
        on_short: OnShort | None = None,
        reason: str = "",
        if_version: int | None = None,
        idempotency_key: str = "",
    ) -> Reservation:
        """Edit what is held, as `replan` edits an order; it stays held until the same moment."""
        return self.send(
            Operation(
                name="POST /v1/reservations/{reservation_id}/replan",
                path=f"/v1/reservations/{_part(reservation_id)}/replan",
                read=lambda reply: reply.to(Reservation),
                body=_replan_body(ship_to, service, lines, add_lines, remove_lines, on_short, reason),
                key=idempotency_key,
                headers=_seen(if_version),
            )
        )

    def clear_holds(
        self,
        allocation_id: str,
        *,
        reasons: Sequence[str] | None = None,
        reason: str = "",
        idempotency_key: str = "",
    ) -> Allocation:
        """Take hold reasons off an order, those named or all: with the last one gone its legs can be released."""
        return self.send(
            Operation(
                name="POST /v1/allocations/{allocation_id}/clear-holds",
                path=f"/v1/allocations/{_part(allocation_id)}/clear-holds",
                read=lambda reply: reply.to(Allocation),
                body=bodies.ClearHoldsBody(reasons=None if reasons is None else list(reasons), reason=reason),
                key=idempotency_key,
            )
        )

    def allocate_batch(
        self, orders: Iterable[Order], *, idempotency_keys: Sequence[str] | None = None, after: str | None = None
    ) -> list[BatchResult]:
        """Allocate any number of orders, in slices that the engine takes; one result for each, in the same order.

        Never raises for an order: its result has the error. Orders told "later" are sent again with their keys, alone.
        """
        batch = Batch(list(orders), idempotency_keys)
        retry, budget = self._config.retry, self._config.budget
        began_s = time.monotonic()
        for attempt in range(1, retry.attempts + 1):
            for places, body in batch.slices(batch.pending()):
                operation = Operation(
                    name="POST /v1/allocations/batch",
                    path="/v1/allocations/batch",
                    read=lambda reply: (reply.to(bodies.BatchAnswer), reply.maybe_done),
                    body=body,
                    content_type=JSON,
                    after=after,
                    repeatable=True,
                    maybe_done=batch.maybe_done(places),
                )
                try:
                    answer, maybe_done = self.send(operation)
                except QuartermasterError as error:
                    batch.fail(places, error)
                else:
                    batch.settle(places, answer.results, maybe_done=maybe_done)
            wait_s = retry.wait_s(attempt, batch.take_retry_after_s(), rng=self._config.rng)
            late = time.monotonic() + wait_s > began_s + retry.deadline_s
            if not batch.pending() or attempt == retry.attempts or late or not budget.take():
                break
            self._sleep(wait_s)
        return batch.results()

    def get_decision(self, decision_id: str, *, node_id: str | None = None) -> Decision:
        """Why an order went where it went; with `node_id`, also why that node was chosen or not."""
        return self.send(
            Operation(
                name="GET /v1/decisions/{decision_id}",
                path=f"/v1/decisions/{_part(decision_id)}",
                read=lambda reply: reply.to(Decision),
                params=(("node_id", node_id),) if node_id else (),
            )
        )

    # -- legs -----------------------------------------------------------------------------------------------------

    def list_legs(
        self, node_id: str, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> LegPage:
        """A page of a node's work list."""
        params: list[tuple[str, str | int]] = [("node_id", node_id), ("limit", limit)]
        params += [(name, value) for name, value in (("state", state), ("cursor", cursor)) if value]
        return self.send(
            Operation(name="GET /v1/legs", path="/v1/legs", read=lambda reply: reply.to(LegPage), params=tuple(params))
        )

    def iter_legs(self, node_id: str, *, state: str | None = None) -> Iterator[OrderLeg]:
        """Every leg of a node's work list, page by page."""
        cursor: str | None = None
        while True:
            page = self.list_legs(node_id, state=state, limit=1_000, cursor=cursor)
            yield from page.data
            cursor = page.next_cursor
            if not page.has_more or cursor is None:
                return

    def node_summary(self, node_id: str) -> NodeSummary:
        """What a node has still to do: how a drain is watched."""
        return self.send(
            Operation(
                name="GET /v1/legs/summary",
                path="/v1/legs/summary",
                read=lambda reply: reply.to(NodeSummary),
                params=(("node_id", node_id),),
            )
        )

    def get_leg(self, leg_id: str) -> OrderLeg:
        return self.send(
            Operation(
                name="GET /v1/legs/{leg_id}",
                path=f"/v1/legs/{_part(leg_id)}",
                read=lambda reply: reply.to(OrderLeg),
            )
        )

    def release_leg(self, leg_id: str, *, reason: str = "", idempotency_key: str = "") -> LegStep:
        """Give a leg to its node."""
        return self._step(leg_id, "release", bodies.StepBody(reason=reason), idempotency_key)

    def accept_leg(self, leg_id: str, *, reason: str = "", idempotency_key: str = "") -> LegStep:
        """The node takes the leg on."""
        return self._step(leg_id, "accept", bodies.StepBody(reason=reason), idempotency_key)

    def pick_leg(self, leg_id: str, *, reason: str = "", idempotency_key: str = "") -> LegStep:
        """The node began to pick."""
        return self._step(leg_id, "pick", bodies.StepBody(reason=reason), idempotency_key)

    def reject_leg(
        self,
        leg_id: str,
        *,
        reason: str,
        lines: Sequence[LineQuantity] | None = None,
        stock_effect: StockEffect = "none",
        idempotency_key: str = "",
    ) -> LegStep:
        """The node will not ship these lines (all without `lines`): they are planned again, never to this node."""
        body = bodies.RejectBody(reason=reason, lines=_listed(lines), stock_effect=stock_effect)
        return self._step(leg_id, "reject", body, idempotency_key)

    def ship_leg(
        self,
        leg_id: str,
        *,
        lines: Sequence[LineQuantity] | None = None,
        parcels: int | None = None,
        tracking: Sequence[str] = (),
        actual_cost_minor: int | None = None,
        idempotency_key: str = "",
    ) -> LegStep:
        """Units left the node: all, or those of `lines`; then what left becomes a leg of its own."""
        body = bodies.ShipBody(
            lines=_listed(lines), parcels=parcels, tracking=tuple(tracking), actual_cost_minor=actual_cost_minor
        )
        return self._step(leg_id, "ship", body, idempotency_key)

    def deliver_leg(self, leg_id: str, *, reason: str = "", idempotency_key: str = "") -> LegStep:
        """The parcels arrived."""
        return self._step(leg_id, "deliver", bodies.StepBody(reason=reason), idempotency_key)

    def _step(self, leg_id: str, verb: str, body: Request, key: str) -> LegStep:
        return self.send(
            Operation(
                name=f"POST /v1/legs/{{leg_id}}/{verb}",
                path=f"/v1/legs/{_part(leg_id)}/{verb}",
                read=lambda reply: reply.to(LegStep),
                body=body,
                key=key,
            )
        )


def _fields(order: Order) -> dict[str, Any]:
    return {name: getattr(order, name) for name in Order.__struct_fields__}


def _listed(lines: Sequence[LineQuantity] | None) -> list[LineQuantity] | None:
    return None if lines is None else list(lines)


def _replan_body(
    ship_to: ShipTo | None,
    service: str | None,
    lines: Sequence[LineQuantity],
    add_lines: Sequence[OrderLine],
    remove_lines: Sequence[str],
    on_short: OnShort | None,
    reason: str,
) -> bodies.ReplanBody:
    return bodies.ReplanBody(
        ship_to=ship_to,
        service=service,
        lines=list(lines),
        add_lines=list(add_lines),
        remove_lines=list(remove_lines),
        on_short=on_short,
        reason=reason,
    )


def _seen(version: int | None) -> tuple[tuple[str, str], ...]:
    return (("if-match", f'"{version}"'),) if version is not None else ()


def _part(text: str) -> str:
    """An id as one part of a path."""
    return quote(text, safe="")
