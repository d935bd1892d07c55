"""What import jobs do with their rows: documents go to the control shard, counts to the owners of the nodes.

A chunk is put as one command. Where the answer names bad rows, they are noted and the others are put again; where it says
"later", the same command is repeated for a while. The command's key comes from the job's, so a repeat is done once.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from engine.domain.commands import Command, CountStock, GetConfig, PutConfig
from engine.domain.config import KEY_FIELD, Document
from engine.domain.decide_stock import ROWS_MAX
from engine.domain.feeds import upload_source
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, Problem, Reply, StockReply
from gateway.config.follow import IMPORT_WAIT_S, in_use
from gateway.errors import problem
from gateway.idempotency import fingerprint, hash_key
from gateway.jobs.reader import FileFault, Row
from gateway.jobs.schemas import CountImportQuery, CountLine
from gateway.jobs.store import Job

if TYPE_CHECKING:
    from gateway.gateway import Gateway

CHUNK_ROWS = 500
CHUNK_BYTES = 1024 * 1024
NODES_AT_ONCE = 64
"""Nodes whose rows are on their way together: a file sorted by SKU has few rows of each in a chunk."""
NODE_ROWS_MAX = 200_000
"""Rows of one node in one absolute count."""
RETRY_FOR_S = 120.0
RETRY_WAIT_S = 0.5
_LATER = frozenset(("unavailable", "overloaded", "journal_full", "dedupe_full", "moved"))
_encode = msgspec.json.Encoder(order="deterministic").encode
_ROW_SKU = re.compile(r"^/rows/(\d+)/sku$")


class Stopped(Exception):
    """The job cannot go on: the problem is the job's outcome."""

    def __init__(self, found: Problem) -> None:
        super().__init__(found.code)
        self.problem = found


async def _next(rows: Iterator[Row], count: int) -> list[Row]:
    """Up to `count` rows, read and decoded in a thread: requests go on meanwhile."""
    return await asyncio.to_thread(lambda: list(itertools.islice(rows, count)))


async def import_documents(gateway: Gateway, job: Job, kind: str, rows: Iterator[Row]) -> None:
    """Put items or nodes; done when the shards work with them. A document that exists is replaced."""
    try:
        chunk_no = version = 0
        while chunk := await _next(rows, CHUNK_ROWS):
            good = _good_rows(job, chunk)
            documents = [(row.line, row.value, _encode(row.value)) for row in good]
            while documents:
                part, documents = _cut(documents)
                chunk_no += 1
                version = max(version, await _put_part(gateway, job, kind, part, chunk_no))
        await in_use(gateway, version, within_s=IMPORT_WAIT_S)
    except FileFault as fault:
        job.problem = problem("malformed_body", str(fault))
    except Stopped as stopped:
        job.problem = stopped.problem
    job.rows_total = max(job.rows_done, job.rows_total if job.problem else 0)


def _cut(
    documents: list[tuple[int, Document, bytes]],
) -> tuple[list[tuple[int, Document, bytes]], list[tuple[int, Document, bytes]]]:
    """A part within the size of one command, without a name twice; and the rest."""
    size = 0
    names: set[str] = set()
    for n, (_, document, text) in enumerate(documents):
        name = str(getattr(document, next(f for f in KEY_FIELD.values() if f and hasattr(document, f))))
        size += len(text)
        if n and (size > CHUNK_BYTES or name in names):
            return documents[:n], documents[n:]
        names.add(name)
    return documents, []


async def _put_part(
    gateway: Gateway, job: Job, kind: str, part: list[tuple[int, Document, bytes]], chunk_no: int
) -> int:
    """Returns the configuration version that has them, 0 where none was taken."""
    attempt = 0
    while part:
        attempt += 1
        texts = tuple([text for _, _, text in part])
        command = PutConfig(kind, texts, None, _key(job, chunk_no, attempt), fingerprint(b"import", texts))
        reply = await _insist(gateway, CONTROL_SHARD, command)
        if not isinstance(reply, Problem):
            job.rows_done += len(part)
            assert isinstance(reply, ConfigReply)
            return max(document.version for document in reply.documents)
        bad = {e.facts["document"]: e for e in reversed(reply.errors) if isinstance(e.facts.get("document"), int)}
        if not bad:
            raise Stopped(reply)
        for n, error in sorted(bad.items()):
            job.fail_row(part[n][0], error.pointer, error.detail)
        part = [row for n, row in enumerate(part) if n not in bad]
    return 0


def _good_rows(job: Job, chunk: list[Row]) -> list[Row]:
    good = []
    for row in chunk:
        if row.value is None:
            job.fail_row(row.line, row.pointer, row.detail)
        else:
            good.append(row)
    return good


def _key(job: Job, chunk_no: int, attempt: int) -> int:
    return hash_key(b"import", f"{job.key_id} {job.key_hash or job.job_id} {chunk_no} {attempt}".encode())


async def _insist(gateway: Gateway, shard: int | None, command: Command, node_id: str = "") -> Reply:
    """Ask until there is an answer other than "later". Raises Stopped after two minutes of that."""
    deadline_s = time.monotonic() + RETRY_FOR_S
    while True:
        if shard is not None:
            reply: Reply | None = await gateway.cluster.ask(shard, command, timeout_s=30.0)
        else:
            reply = await gateway.ask_node(node_id, command)
        if reply is None:
            return problem("unknown_node", f"no node {node_id!r}")
        if not isinstance(reply, Problem) or reply.code not in _LATER:
            return reply
        if time.monotonic() > deadline_s:
            raise Stopped(reply)
        await asyncio.sleep(RETRY_WAIT_S)


# -- stock --------------------------------------------------------------------------------------------------------


async def import_counts(
    gateway: Gateway, job: Job, query: CountImportQuery, as_of_ms: int, rows: Iterator[Row]
) -> None:
    """Put counts, one command for each run of rows of a node.

    An absolute count (full, nonzero) or one with a source of its own must be one command a node: its rows stand together.
    A delta of ours may come in any order.
    """
    whole = query.scope != "delta" or query.source_seq is not None
    try:
        counter = itertools.count(1)
        if whole:
            await _whole_counts(gateway, job, query, as_of_ms, rows)
        else:
            while chunk := await _next(rows, CHUNK_ROWS):
                by_node: dict[str, list[Row]] = {}
                for row in _good_rows(job, chunk):
                    by_node.setdefault(row.value.node_id, []).append(row)
                parts = [(node_id, group, next(counter)) for node_id, group in by_node.items()]
                for start in range(0, len(parts), NODES_AT_ONCE):
                    some = parts[start : start + NODES_AT_ONCE]
                    puts = [_put_count(gateway, job, query, as_of_ms, *part) for part in some]
                    for outcome in await asyncio.gather(*puts, return_exceptions=True):
                        if isinstance(outcome, BaseException):
                            raise outcome
    except FileFault as fault:
        job.problem = problem("malformed_body", str(fault))
    except Stopped as stopped:
        job.problem = stopped.problem
    job.rows_total = max(job.rows_done, job.rows_total if job.problem else 0)


async def _whole_counts(
    gateway: Gateway, job: Job, query: CountImportQuery, as_of_ms: int, rows: Iterator[Row]
) -> None:
    seen: set[str] = set()
    node_id = ""
    group: list[Row] = []
    torn = False
    """Whether a row of the group may be missing: what a whole count does not list, it takes."""
    after_unread = False

    async def put() -> None:
        if torn and query.scope != "delta":
            for row in group:
                job.fail_row(
                    row.line, "", f"a row of its node cannot be taken: a count of scope {query.scope} needs all of them"
                )
        elif group:
            await _put_whole_count(gateway, job, query, as_of_ms, node_id, group)

    while True:
        chunk = await _next(rows, CHUNK_ROWS)
        for row in chunk:
            if row.value is None:  # of this node or the next one, nobody knows
                job.fail_row(row.line, row.pointer, row.detail)
                torn = after_unread = True
                continue
            line: CountLine = row.value
            if line.node_id != node_id:
                await put()
                group, torn = [], after_unread
                if line.node_id in seen:
                    kind = f"of scope {query.scope}" if query.scope != "delta" else "with a source_seq"
                    detail = f"rows of node {line.node_id} must stand together in a count {kind}: sort the rows by node"
                    job.fail_row(row.line, "/node_id", detail)
                    node_id = ""
                    continue
                node_id = line.node_id
                seen.add(node_id)
            after_unread = False
            if len(group) >= NODE_ROWS_MAX:
                job.fail_row(row.line, "", f"more than {NODE_ROWS_MAX} rows of one node")
                torn = True
                continue
            group.append(row)
        if not chunk:
            break
    await put()


async def _put_whole_count(
    gateway: Gateway, job: Job, query: CountImportQuery, as_of_ms: int, node_id: str, group: list[Row]
) -> None:
    """The count of a node, one command after the other: the shard is busy with each, and answers others between them.

    Each names what came before it, and only the last one takes what none of them lists. Where one is refused, the rest is.
    """
    group = _without_repeats(job, group)
    listed: tuple[str, ...] = ()
    for part_no, start in enumerate(range(0, len(group), ROWS_MAX)):
        part = group[start : start + ROWS_MAX]
        how = query if start + ROWS_MAX >= len(group) else structs.replace(query, scope="delta")
        refusal = await _put_count(gateway, job, how, as_of_ms, node_id, part, part_no, listed)
        if refusal is not None:
            for row in group[start + ROWS_MAX :]:
                job.fail_row(row.line, *refusal)
            return
        listed += tuple([row.value.sku for row in part])


async def _put_count(
    gateway: Gateway,
    job: Job,
    query: CountImportQuery,
    as_of_ms: int,
    node_id: str,
    group: list[Row],
    part_no: int,
    listed: tuple[str, ...] = (),
) -> tuple[str, str] | None:
    """One command; unknown SKUs, kits and repeated ones are noted by row, the others are put. Returns where and why all were refused."""
    group = _without_repeats(job, group)
    # From the key, not from the job: the file sent again with its key, to another process perhaps, is the same commands.
    source = query.source or upload_source(job.key_id, job.key_hash)
    source_seq = query.source_seq if query.source_seq is not None else part_no
    attempt = 0
    while group or listed:  # the last of several takes what none of them lists, whatever becomes of its own rows
        attempt += 1
        rows = tuple([(row.value.sku, row.value.quantity) for row in group])
        values = (node_id, source, as_of_ms, source_seq, query.scope, rows)
        mark = fingerprint(b"import", (node_id, source, query.as_of, source_seq, query.scope, rows))
        key = hash_key(b"import", f"{job.key_id} {job.key_hash} {node_id} {part_no} {attempt}".encode())
        if query.dry_run:
            key = 0  # whether a count of this key was taken before does not matter to what it would change
        command = CountStock(*values, key, mark, dry_run=query.dry_run, listed=listed)
        reply = await _insist(gateway, None, command, node_id)
        if not isinstance(reply, Problem):
            if isinstance(reply, StockReply) and reply.would_change is not None:
                job.add(reply.would_change)
            job.rows_done += len(group)
            return None
        if reply.code == "unknown_sku":
            group = await _known(gateway, job, group)
            continue
        bad = {int(found[1]): e.detail for e in reply.errors if (found := _ROW_SKU.match(e.pointer))}
        if bad:
            for n, detail in bad.items():
                job.fail_row(group[n].line, "/sku", detail)
            group = [row for n, row in enumerate(group) if n not in bad]
            continue
        detail = reply.errors[0].detail if reply.errors else reply.detail
        refusal = "/node_id" if reply.code == "unknown_node" else "", f"{reply.code}: {detail}"
        for row in group:
            job.fail_row(row.line, *refusal)
        return refusal
    return None


def _without_repeats(job: Job, group: list[Row]) -> list[Row]:
    seen: set[str] = set()
    kept = []
    for row in group:
        if row.value.sku in seen:
            job.fail_row(row.line, "/sku", f"{row.value.sku} is listed twice for this node")
        else:
            seen.add(row.value.sku)
            kept.append(row)
    return kept


async def _known(gateway: Gateway, job: Job, group: list[Row]) -> list[Row]:
    """Rows whose SKU is an item; the others are noted."""
    kept: list[Row] = []
    for start in range(0, len(group), CHUNK_ROWS):
        part = group[start : start + CHUNK_ROWS]
        asked = [gateway.cluster.submit(CONTROL_SHARD, GetConfig("item", row.value.sku)) for row in part]
        for row, future in zip(part, asked, strict=True):
            reply = await future
            if not isinstance(reply, Problem):
                kept.append(row)
            elif reply.code == "not_found":
                job.fail_row(row.line, "/sku", f"no item {row.value.sku!r}")
            else:
                raise Stopped(reply)
    if len(kept) == len(group):
        # The items exist, but the shard has not heard of them yet.
        await asyncio.sleep(RETRY_WAIT_S)
    return kept
