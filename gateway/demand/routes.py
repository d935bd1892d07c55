"""/v1/demand: units that wait for stock, capacity or a node; who comes first; and what customers did not get."""

from __future__ import annotations

import asyncio

from engine.domain.commands import CancelDemand, ListDemand, PrioritiseDemand, ReadDemandLog
from engine.domain.ids import OrderRef, parse_public_id
from engine.domain.replies import DemandList, DemandNotes, DemandView, Problem
from gateway.call import Answer, Call, Route
from gateway.cursors import decode_cursor, encode_cursor, is_number
from gateway.demand import examples
from gateway.demand.schemas import (
    CancelDemandBody,
    DemandPage,
    DemandQuery,
    LogPage,
    LogQuery,
    Prioritise,
    demand_line,
    note_shown,
)
from gateway.errors import problem, refuse
from gateway.idempotency import fingerprint
from gateway.orders.routes import foreign, shown_order, unexpected
from gateway.orders.schemas import Allocation
from gateway.schemas import Decoder, query_of

_CANCEL = b"demand:cancel"
_PRIORITISE = b"demand:prioritise"
_cancel = Decoder(CancelDemandBody)
_prioritise = Decoder(Prioritise)
_Place = tuple[int, int, int]


async def list_demand(call: Call) -> Answer | Problem:
    """Every home has its own queue; all rank by the same clock, so one cursor, a place in the queue, fits all."""
    query = query_of(call, DemandQuery)
    after = _decode(query.cursor, 3)
    if after is None:
        return problem("invalid_cursor")
    channels = call.principal.channels
    if query.channel is not None:
        if not call.principal.may_channel(query.channel):
            return problem("forbidden", f"this key is not for channel {query.channel!r}")
        if query.channel not in call.gateway.cluster.catalog.channel_of:
            return refuse("unknown_channel", "/channel", f"no channel {query.channel!r}", parameter="channel")
        channels = (query.channel,)
    command = ListDemand(
        query.sku,
        query.state,
        query.reason,
        tuple(sorted(channels)) if channels is not None else None,
        (after[0][0], after[0][1], after[0][2]) if after else None,
        query.limit,
    )
    rows: list[DemandView] = []
    reached: list[_Place] = []
    for reply in (await call.gateway.cluster.ask_all(command)).values():
        if not isinstance(reply, DemandList):
            return unexpected(reply)
        rows += reply.rows
        if reply.reached is not None:
            reached.append(reply.reached)
    rows.sort(key=_place)
    end = min(reached, default=None)
    if end is not None:  # beyond it, a shard has not looked yet
        rows = [row for row in rows if _place(row) <= end]
    if len(rows) > query.limit:
        rows = rows[: query.limit]
        end = _place(rows[-1])
    cursor = _encode([end]) if end is not None else None
    return Answer(DemandPage([demand_line(row) for row in rows], cursor, cursor is not None))


def _place(view: DemandView) -> _Place:
    return view.rank, view.order_no, view.no


def _encode(numbers: list[tuple[int, ...]]) -> str:
    text = ";".join(".".join(str(number) for number in group) for group in numbers)
    return encode_cursor(text)


def _decode(cursor: str | None, width: int) -> list[tuple[int, ...]] | None:
    """Groups of numbers, none for the beginning; None = it is no cursor of ours."""
    if not cursor:
        return []
    text = decode_cursor(cursor)
    if text is None:
        return None
    groups = []
    for group in text.split(";"):
        parts = group.split(".")
        if len(parts) != width or not all(is_number(part, 19) for part in parts):
            return None
        numbers = tuple([int(part) for part in parts])
        if any(number >= 1 << 63 for number in numbers):
            return None
        groups.append(numbers)
    return groups


def _demand_of(call: Call) -> tuple[OrderRef, int] | Problem:
    return parse_public_id(call.params[0], "dem", has_suffix=True) or problem("not_found", "no such demand")


async def cancel(call: Call) -> Answer | Problem:
    found = _demand_of(call)
    if type(found) is Problem:
        return found
    ref, no = found
    body = _cancel.of(call) if call.body else CancelDemandBody()
    if type(body) is Problem:
        return body
    refusal = await foreign(call, ref, "demand")
    if refusal is not None:
        return refusal
    mark = fingerprint(_CANCEL, (ref, no, body.reason))
    command = CancelDemand(ref.slot, ref.order_no, no, body.reason, call.key_hash, mark, call.key_ms)
    return shown_order(call, await call.gateway.ask_slot(ref.slot, command))


async def prioritise(call: Call) -> Answer | Problem:
    found = _demand_of(call)
    if type(found) is Problem:
        return found
    ref, no = found
    body = _prioritise.of(call)
    if type(body) is Problem:
        return body
    refusal = await foreign(call, ref, "demand")
    if refusal is not None:
        return refusal
    mark = fingerprint(_PRIORITISE, (ref, no, body.priority))
    command = PrioritiseDemand(ref.slot, ref.order_no, no, body.priority, call.key_hash, mark, call.key_ms)
    return shown_order(call, await call.gateway.ask_slot(ref.slot, command))


async def read_log(call: Call) -> Answer | Problem:
    """Each shard numbers its own notes, anew with each start: the cursor holds (shard, epoch, number) of each."""
    query = query_of(call, LogQuery)
    groups = _decode(query.cursor, 3)
    if groups is None:
        return problem("invalid_cursor")
    known = {shard: (epoch, no) for shard, epoch, no in groups}
    cluster = call.gateway.cluster
    per_shard = max(1, query.limit // max(1, len(cluster.shards)))
    asked = [
        cluster.ask(shard, ReadDemandLog(known.get(shard, (0, 0))[1], per_shard), timeout_s=None)
        for shard in cluster.shards
    ]
    notes = []
    ends: list[tuple[int, ...]] = []
    lost = more = False
    for shard, reply in zip(cluster.shards, await asyncio.gather(*asked), strict=True):
        epoch, no = known.get(shard, (0, 0))
        if isinstance(reply, DemandNotes) and epoch not in (0, reply.epoch):
            no, lost = 0, True
            reply = await cluster.ask(shard, ReadDemandLog(0, per_shard), timeout_s=None)
        if not isinstance(reply, DemandNotes):
            return unexpected(reply)
        lost = lost or (epoch != 0 and no + 1 < reply.first)
        end = reply.notes[-1].no if reply.notes else reply.next - 1
        more = more or end + 1 < reply.next
        ends.append((shard, reply.epoch, end))
        notes += [note for note in reply.notes if call.principal.may_channel(note.channel)]
    notes.sort(key=lambda note: note.at_ms)
    return Answer(LogPage([note_shown(note) for note in notes], _encode(ends), more, lost))


ROUTES = [
    Route(
        "GET",
        "/v1/demand",
        "allocate:read",
        list_demand,
        "What waits for stock",
        "demand",
        "Parked and partial lines, foremost first. They are planned again when units, capacity or a node come back.",
        query=DemandQuery,
        answer=DemandPage,
        problems=("unknown_sku", "unknown_channel", "invalid_cursor"),
        answer_example=examples.DEMAND_PAGE,
    ),
    Route(
        "POST",
        "/v1/demand/{demand_id}/cancel",
        "allocate:write",
        cancel,
        "Give up waiting units",
        "demand",
        "Cancels the waiting units of one line; units that have a node stay. A line that no longer waits answers `not_found`.",
        body=CancelDemandBody,
        body_required=False,
        answer=Allocation,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("key_reused",),
        body_examples=examples.CANCELS,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "POST",
        "/v1/demand/{demand_id}/prioritise",
        "allocate:write",
        prioritise,
        "Move waiting units in the queue",
        "demand",
        "A level of priority is worth a day of waiting, so that nobody is overtaken for ever.",
        body=Prioritise,
        answer=Allocation,
        needs_key=True,
        finishing=True,
        etag=True,
        problems=("key_reused",),
        body_examples=examples.PRIORITISE,
        answer_example=examples.ALLOCATION,
    ),
    Route(
        "GET",
        "/v1/demand/log",
        "allocate:read",
        read_log,
        "What customers did not get at once",
        "demand",
        "Refused, parked, partial and (after waiting) served units by SKU, channel and region: the newest 10,000 of each shard, "
        "in memory only. Orders that were served at once are in the journal.",
        query=LogQuery,
        answer=LogPage,
        problems=("invalid_cursor",),
        answer_example=examples.LOG_PAGE,
    ),
]
