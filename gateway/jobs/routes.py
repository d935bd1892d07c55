"""Bulk imports as jobs: POST a file, watch the job. Items, nodes, channels, carriers, stock counts."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from hashlib import blake2b
from typing import IO, Any

from engine.domain.config import Carrier, Channel, Item, Node
from engine.domain.replies import Problem
from gateway.auth import Principal
from gateway.call import ANY_KEY, Answer, Call, Route
from gateway.errors import problem, refuse
from gateway.jobs import examples
from gateway.jobs.imports import import_counts, import_documents
from gateway.jobs.reader import CSV, JSON_LINES, NDJSON, TYPES, Row, item_fields, node_fields, plain_fields, rows_of
from gateway.jobs.schemas import CountImportQuery, CountLine, JobShown, NoQuery, job_shown
from gateway.jobs.store import Job, new_job_id
from gateway.negotiate import media_type
from gateway.pipeline import over_limit
from gateway.schemas import query_of
from gateway.times import ms_of

IN_MEMORY_BYTES = 1024 * 1024
"""Uploads beyond this go to a file in the system's temporary folder."""
WRITE_BYTES = 256 * 1024
STALL_S = 30.0
"""An upload that sends nothing for this long is given up."""
BYTES_PER_S_MIN = 1_024
"""So is one that is slower than this on the whole, once it has taken that long."""
_REPLAYED = (b"idempotent-replayed", b"true")


class Upload:
    """A body on its way into a file."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  (the job closes it)
        self.size = 0
        self.lines = 0
        self._hash = blake2b(digest_size=8)
        self._last = b""

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.size += len(data)
        self.lines += data.count(b"\n")
        self._hash.update(data)
        self._last = data[-1:] or self._last

    @property
    def rows(self) -> int:
        """Lines, an unfinished last one included."""
        return self.lines + (self._last not in (b"", b"\n"))

    @property
    def hash(self) -> int:
        return int.from_bytes(self._hash.digest(), "big")


async def receive_file(call: Call) -> Upload | Problem:
    """The whole body in a file, or why not."""
    limit = call.gateway.settings.import_bytes_max
    length = call.headers.get(b"content-length")
    if length is not None and (not length.isdigit() or int(length) > limit):
        call.close = True
        return over_limit(limit)
    upload = Upload()
    waiting: list[bytes] = []
    size = pending = 0
    try:
        while True:
            async with asyncio.timeout(STALL_S):
                message = await call.receive()
            if message["type"] != "http.request":
                raise ConnectionError("the client went away")
            data = message.get("body", b"")
            size += len(data)
            pending += len(data)
            taken_s = time.monotonic() - call.started
            if taken_s > STALL_S and size < taken_s * BYTES_PER_S_MIN and message.get("more_body"):
                raise TimeoutError
            if size > limit:
                call.close = True
                upload.file.close()
                return over_limit(limit)
            waiting.append(data)
            last = not message.get("more_body")
            if pending >= WRITE_BYTES or last:
                await asyncio.to_thread(upload.write, b"".join(waiting))
                waiting, pending = [], 0
            if last:
                return upload
    except TimeoutError:
        call.close = True
        upload.file.close()
        return problem(
            "malformed_body", f"the file arrived too slowly: nothing for {STALL_S:.0f} seconds, or under 1 KiB/s"
        )
    except BaseException:
        upload.file.close()
        raise


async def _start(call: Call, kind: str, work: Callable[[Job], Awaitable[None]], extra: bytes = b"") -> Answer | Problem:
    """202 with the job; a repeat of the key gets the job that it started, or starts it again where it failed (J3)."""
    jobs = call.gateway.jobs
    refusal = jobs.refusal()
    if refusal is not None:
        call.close = True
        return refusal
    jobs.receiving(1)
    try:
        upload = await receive_file(call)
    finally:
        jobs.receiving(-1)
    if isinstance(upload, Problem):
        return upload
    body_hash = upload.hash ^ int.from_bytes(blake2b(kind.encode() + extra, digest_size=8).digest(), "big")
    key_id = call.principal.key_id
    known = jobs.with_key(key_id, call.key_hash)
    if known is not None and known.body_hash != body_hash:
        upload.file.close()
        return problem("key_reused")
    if known is not None and known.state != "failed":
        upload.file.close()
        return _accepted(known, _REPLAYED)
    rows = max(0, upload.rows - (media_type(call.headers[b"content-type"]) == CSV.encode()))
    job = Job(
        new_job_id(), kind, key_id, call.key_hash, body_hash, upload.file, upload.size, rows, call.gateway.now_ms()
    )
    jobs.start(job, work)
    return _accepted(job)


def _accepted(job: Job, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(job_shown(job), 202, ((b"location", b"/v1/jobs/" + job.job_id.encode()), *headers))


def _permitted(principal: Principal, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, those of channels that the key is not for refused: it may change them no more by a file than by a put."""
    for row in rows:
        if isinstance(row.value, Channel) and not principal.may_channel(row.value.channel_id):
            yield Row(row.line, None, "/channel_id", f"this key is not for channel {row.value.channel_id!r}")
        else:
            yield row


def _document_import(kind: str, document: type, prepare: Callable[[dict[str, str]], Any]) -> Any:
    async def start(call: Call) -> Answer | Problem:
        query_of(call, NoQuery)
        form = media_type(call.headers[b"content-type"]).decode()
        gateway, principal = call.gateway, call.principal

        async def work(job: Job) -> None:
            rows = _permitted(principal, rows_of(job.file, form, document, prepare))
            await import_documents(gateway, job, kind, rows)

        return await _start(call, f"{kind}s", work)

    return start


async def import_stock(call: Call) -> Answer | Problem:
    query = query_of(call, CountImportQuery)
    if query.source_seq is not None and query.source is None:
        return refuse("invalid_field", "/source", "a source_seq belongs to a source", parameter="source")
    form = media_type(call.headers[b"content-type"]).decode()
    gateway = call.gateway
    as_of_ms = ms_of(query.as_of) if query.as_of is not None else gateway.now_ms()

    async def work(job: Job) -> None:
        rows = rows_of(job.file, form, CountLine, plain_fields)
        await import_counts(gateway, job, query, as_of_ms, rows)

    return await _start(call, "stock", work, call.query)


def get_job(call: Call) -> Answer | Problem:
    job = call.gateway.jobs.find(call.params[0], call.principal.key_id)
    return Answer(job_shown(job)) if job is not None else problem("not_found", "no such job of this key here")


def _import_route(path: str, scope: str, handle: Any, what: str, description: str, tag: str, **more: Any) -> Route:
    more.setdefault("body_types", TYPES)
    return Route(
        "POST",
        path,
        scope,
        handle,
        f"Import {what} from a file",
        tag,
        description
        + " Answers 202 with a job; rows that cannot be taken are listed there by line, the others are put.",
        answer=JobShown,
        status=202,
        problems=("overloaded", "key_reused"),
        answer_example=examples.JOB,
        **more,
    )


ROUTES = [
    _import_route(
        "/v1/items/import",
        "config:write",
        _document_import("item", Item, item_fields),
        "items",
        f"`{NDJSON}`: one item document a line. `{CSV}`: columns named as the fields; lists are `a|b`, components "
        "`SKU:2|SKU-2:1`.",
        "items",
        query=NoQuery,
        takes_key=True,
        raw_examples=examples.ITEM_FILES,
    ),
    _import_route(
        "/v1/nodes/import",
        "config:write",
        _document_import("node", Node, node_fields),
        "nodes",
        f"`{NDJSON}`: one node document a line. `{CSV}`: columns named as the fields; lists are `a|b`; capacity as "
        "`capacity_per_day`, `capacity_unit`, `capacity_hard`.",
        "nodes",
        query=NoQuery,
        takes_key=True,
        raw_examples=examples.NODE_FILES,
    ),
    _import_route(
        "/v1/channels/import",
        "config:write",
        _document_import("channel", Channel, plain_fields),
        "channels",
        f"`{NDJSON}`: one channel document a line. Rows of channels that the key is not for are refused.",
        "channels",
        query=NoQuery,
        takes_key=True,
        body_types=JSON_LINES,
        raw_examples=examples.CHANNEL_FILES,
    ),
    _import_route(
        "/v1/carriers/import",
        "config:write",
        _document_import("carrier", Carrier, plain_fields),
        "carriers",
        f"`{NDJSON}`: one carrier document a line, with its services and rate cards.",
        "carriers",
        query=NoQuery,
        takes_key=True,
        body_types=JSON_LINES,
        raw_examples=examples.CARRIER_FILES,
    ),
    _import_route(
        "/v1/inventory/import",
        "inventory:write",
        import_stock,
        "stock counts",
        "Rows of `node_id`, `sku`, `quantity`. With scope full or nonzero, or a `source_seq`, the rows of a node stand "
        "together. With `dry_run` nothing is put: `would_change` of the job says what would be.",
        "inventory",
        query=CountImportQuery,
        needs_key=True,
        raw_examples=examples.STOCK_FILES,
    ),
    Route(
        "GET",
        "/v1/jobs/{job_id}",
        ANY_KEY,
        get_job,
        "Watch an import",
        "jobs",
        "Jobs are kept for an hour by the gateway process that took the file, for the key that sent it.",
        answer=JobShown,
        answer_example=examples.JOB,
    ),
]
