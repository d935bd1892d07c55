"""Sending rows to a gateway: configuration and stock as import jobs, orders as batches; who was refused, by line of the file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import httpx
import msgspec

from engine.cli.formats.own import DocumentRow, OrderRow, StockRow
from engine.cli.formats.table import BadRow

PART_ROWS = 20_000
"""Rows in one import job: the file is cut, so that any size can be sent in bounded memory."""
BATCH_ORDERS = 100
BATCH_LINES_MAX = 4_000
ERRORS_KEPT = 1_000
JOB_POLL_MIN_S = 0.005
JOB_POLL_MAX_S = 0.1
"""Between looks at a job: a small one is over at once, and a file of many instants is many small ones."""
JOB_WAIT_S = 600.0
RETRIES = 6
WAIT_S = 0.2
RETRY_STATUS = (429, 503)
T = TypeVar("T")


class UploadError(RuntimeError):
    """The import cannot go on: the gateway is not there, refuses the key, or a job failed as a whole."""


class RowError(msgspec.Struct, frozen=True):
    line: int
    detail: str


@dataclass
class Outcome:
    """What became of the rows so far."""

    taken: int = 0
    refused: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    """How often each reason occurred."""
    errors: list[RowError] = field(default_factory=list)
    """The first thousand."""
    sink: Callable[[int, str, str], None] | None = None
    """Gets every one of them: line, code, detail."""

    def refuse(self, line: int, code: str, detail: str) -> None:
        self.refused += 1
        if self.sink is not None:
            self.sink(line, code, detail)
        self.codes[code] = self.codes.get(code, 0) + 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(RowError(line, detail))


@dataclass
class Changes:
    """What a run did to positions, or would do."""

    changed: int = 0
    unchanged: int = 0
    left_out: int = 0
    """Of the changed ones: not in the file, which says that it is everything."""
    units_added: int = 0
    units_taken: int = 0

    def note(self, units: int) -> None:
        """A position by so many units; negative = taken."""
        self.changed += units != 0
        self.unchanged += units == 0
        self.units_added += max(0, units)
        self.units_taken += max(0, -units)

    def note_job(self, would: Mapping[str, int], rows: int) -> None:
        """What a dry run of so many good rows says."""
        self.changed += would["position_count"]
        self.unchanged += rows - (would["position_count"] - would["left_out_count"])
        self.left_out += would["left_out_count"]
        self.units_added += would["units_added"]
        self.units_taken += would["units_taken"]


Advance = Callable[[Outcome], None]


class Feed(NamedTuple):
    """How counts are meant; see POST /v1/inventory/counts. Without `as_of` they are of the moment of the upload."""

    scope: str = "delta"
    source: str | None = None
    source_seq: int | None = None
    as_of: datetime | None = None


class Uploader:
    """One import against one gateway. Every method calls `advance` as rows are settled. Raises UploadError."""

    def __init__(self, url: str, key: str, *, advance: Advance = lambda _: None) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/"), headers={"authorization": f"Bearer {key}"}, timeout=httpx.Timeout(120.0)
        )
        self._advance = advance
        self.outcome = Outcome()
        self.changes = Changes()

    def close(self) -> None:
        self._client.close()

    # -- jobs -----------------------------------------------------------------------------------------------------

    def documents(self, path: str, rows: Iterable[DocumentRow | BadRow]) -> Outcome:
        """Items or nodes, by import jobs on `path`."""
        encode = msgspec.json.Encoder().encode
        return self._by_jobs(path, _cut(self.good(rows), PART_ROWS), lambda row: encode(row.document))

    def stock(self, rows: Iterable[StockRow | BadRow], feed: Feed = Feed(), *, dry_run: bool = False) -> Outcome:
        """Absolute counts, then the safety units of rows that state them. A job is of one instant, older ones go first.

        A scope other than delta says something about whole nodes, and a count of a source is taken once a node: the rows of a node
        then stay in one job, wherever the file has them. `dry_run` leaves all as it is: `changes` says what counts would do.
        """

        def instant(row: StockRow) -> datetime | None:
            return row.as_of or feed.as_of

        def order(row: StockRow) -> tuple[float, str]:
            as_of = instant(row)
            return as_of.timestamp() if as_of is not None else math.inf, row.node_id if whole else ""

        encode = msgspec.json.Encoder().encode
        safety: dict[str, list[tuple[StockRow, int]]] = {}

        def line(row: StockRow) -> bytes:
            if row.safety is not None and not dry_run:
                safety.setdefault(row.node_id, []).append((row, row.safety))
            return encode({"node_id": row.node_id, "sku": row.sku, "quantity": row.quantity})

        whole = feed.scope != "delta" or feed.source is not None
        good = list(self.good(rows)) if whole else self.good(rows)
        if feed.scope != "delta":
            good = self._of_one_instant(self._if_all_was_read(list(good), feed.scope), instant, feed.scope)
        cut = _cut_between_nodes if whole else _cut
        for some in [good] if whole else _cut(good, PART_ROWS):
            for as_of, same in groupby(sorted(some, key=order), key=instant):
                self._by_jobs("/v1/inventory/import", cut(same, PART_ROWS), line, _params(feed, as_of, dry_run=dry_run))
        for node_id, settings in safety.items():
            for part in _cut(settings, 5_000):
                self._set_safety(node_id, part)
        return self.outcome

    def _if_all_was_read(self, rows: list[StockRow], scope: str) -> list[StockRow]:
        """None of them where one could not be read: it may be of any node, and a whole count takes the units of what it does not list."""
        if not self.outcome.refused:
            return rows
        for row in rows:
            self.outcome.refuse(
                row.line, "incomplete", f"a count of scope {scope} needs every row, and one cannot be read"
            )
        return []

    def _of_one_instant(
        self, rows: list[StockRow], instant: Callable[[StockRow], datetime | None], scope: str
    ) -> list[StockRow]:
        """Rows of nodes that were counted at one instant. The count of another would take the units of SKUs that it does not list."""
        instants: dict[str, set[datetime | None]] = {}
        for row in rows:
            instants.setdefault(row.node_id, set()).add(instant(row))
        good = []
        for row in rows:
            if len(instants[row.node_id]) == 1:
                good.append(row)
            else:
                detail = f"rows of {row.node_id} are of several instants (as_of): a count of scope {scope} is of one"
                self.outcome.refuse(row.line, "several_instants", detail)
        return good

    def _by_jobs(
        self,
        path: str,
        parts: Iterable[list[T]],
        encode: Callable[[T], bytes],
        params: Sequence[tuple[str, str | int]] = (),
    ) -> Outcome:
        for part in parts:
            lines = [row.line for row in part]  # type: ignore[attr-defined]
            body = b"\n".join(encode(row) for row in part) + b"\n"
            before = self.outcome.taken
            response = self.send("POST", path, body, "application/x-ndjson", params=params)
            if response.status_code != 202:
                raise UploadError(refusal_of(response))
            job = self._watch(response.json()["job_id"], before)
            for error in job["errors"]:
                at = error["line"]
                where = f"{error['pointer'].lstrip('/')}: " if error["pointer"] else ""
                self.outcome.refuse(lines[at - 1] if 0 < at <= len(lines) else 0, "refused", where + error["detail"])
            unnamed = job["rows_failed"] - len(job["errors"])
            if unnamed > 0:
                self.outcome.refused += unnamed
                self.outcome.codes["refused"] = self.outcome.codes.get("refused", 0) + unnamed
            good = job["rows_done"] - job["rows_failed"]
            self.outcome.taken = before + good
            if job.get("would_change") is not None:
                self.changes.note_job(job["would_change"], good)
            self._advance(self.outcome)
            if job["state"] == "failed":
                problem = job["problem"] or {}
                raise UploadError(f"the import stopped: {problem.get('detail', job)}")
        return self.outcome

    def _watch(self, job_id: str, before: int) -> dict[str, Any]:
        deadline = time.monotonic() + JOB_WAIT_S
        wait_s = JOB_POLL_MIN_S
        while True:
            response = self.send("GET", f"/v1/jobs/{job_id}", None, "")
            if response.status_code != 200:
                raise UploadError(refusal_of(response))
            job: dict[str, Any] = response.json()
            if job["state"] in ("done", "failed"):
                return job
            if time.monotonic() > deadline:
                raise UploadError(f"job {job_id} has not ended after {JOB_WAIT_S:.0f} s: {job['rows_done']} rows done")
            self.outcome.taken = before + job["rows_done"] - job["rows_failed"]
            self._advance(self.outcome)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, JOB_POLL_MAX_S)

    def _set_safety(self, node_id: str, part: list[tuple[StockRow, int]]) -> None:
        kept = {"supply": None, "trust_bp": None, "daily_cap_units": None}  # the file says nothing about them
        positions = [{"sku": row.sku, "safety_units": units, **kept} for row, units in part]
        body = msgspec.json.encode({"node_id": node_id, "positions": positions})
        response = self.send("PUT", "/v1/inventory/positions", body, "application/json")
        if response.status_code != 200:
            for row, _ in part:
                self.outcome.refuse(row.line, "safety", f"safety units: {refusal_of(response)}")

    # -- orders ---------------------------------------------------------------------------------------------------

    def orders(self, rows: Iterable[OrderRow | BadRow], *, key_prefix: str = "import") -> Outcome:
        """Orders in batches. The key of each follows from its id: sending a file again takes nothing twice."""
        batch: list[OrderRow] = []
        lines = 0
        for row in self.good(rows):
            batch.append(row)
            lines += len(row.body["lines"])
            if len(batch) >= BATCH_ORDERS or lines >= BATCH_LINES_MAX:
                self._send_batch(batch, key_prefix)
                batch, lines = [], 0
        if batch:
            self._send_batch(batch, key_prefix)
        return self.outcome

    def _send_batch(self, batch: list[OrderRow], key_prefix: str) -> None:
        """Orders that a shard answers "later" go again under their keys, together: the others were decided."""
        for wait_s in (*_waits_s(), None):
            orders = [{"idempotency_key": f"{key_prefix}-{row.order_id}", **row.body} for row in batch]
            response = self.send(
                "POST", "/v1/allocations/batch", msgspec.json.encode({"orders": orders}), "application/json"
            )
            if response.status_code != 200:
                raise UploadError(refusal_of(response))
            later: list[OrderRow] = []
            for row, result in zip(batch, response.json()["results"], strict=True):
                if result["status"] in RETRY_STATUS and wait_s is not None:
                    later.append(row)
                else:
                    self._settle(row, result)
            self._advance(self.outcome)
            if wait_s is None or not later:
                return
            batch = later
            time.sleep(wait_s)

    def _settle(self, row: OrderRow, result: dict[str, Any]) -> None:
        if 200 <= result["status"] < 300:
            self.outcome.taken += 1
            return
        problem = result["problem"]
        first = (problem.get("errors") or [{}])[0]
        detail = f"{problem['code']}: order {row.order_id} {first.get('pointer', '')} {first.get('detail', '')}"
        self.outcome.refuse(row.line, problem["code"], detail.rstrip())

    def advance(self) -> None:
        """Show how far it is."""
        self._advance(self.outcome)

    # -- both -----------------------------------------------------------------------------------------------------

    def good(self, rows: Iterable[T | BadRow]) -> Iterator[T]:
        """Rows that could be read; the others are noted."""
        for row in rows:
            if isinstance(row, BadRow):
                self.outcome.refuse(row.line, "unreadable", row.detail)
            else:
                yield row

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        content_type: str,
        *,
        params: Sequence[tuple[str, str | int]] = (),
    ) -> httpx.Response:
        """One request, repeated under the same key while the gateway says "later" or is away."""
        headers = {"idempotency-key": f"import-{time.time_ns():x}"} if method != "GET" else {}
        if content_type:
            headers["content-type"] = content_type
        for wait_s in (*_waits_s(), None):
            try:
                response = self._client.request(method, path, content=body, headers=headers, params=list(params))
            except httpx.HTTPError as error:
                if wait_s is None:
                    raise UploadError(f"no answer from {self._client.base_url}: {error}") from error
            else:
                if response.status_code in (401, 403):
                    raise UploadError(refusal_of(response))
                if response.status_code not in RETRY_STATUS or wait_s is None:
                    return response
            if wait_s is not None:
                time.sleep(wait_s)
        raise AssertionError("the loop above returns or raises")


def _waits_s() -> Iterator[float]:
    """Between one try and the next of all RETRIES."""
    return (min(5.0, WAIT_S * 2**n) for n in range(RETRIES - 1))


def refusal_of(response: httpx.Response) -> str:
    """What the gateway said, in a sentence."""
    try:
        problem = response.json()
        first = (problem.get("errors") or [{}])[0]
        parts = [problem.get("detail", ""), first.get("pointer", ""), first.get("detail", "")]
        return f"{response.status_code} {problem.get('code', '')}: {' '.join(part for part in parts if part)}"
    except (ValueError, AttributeError):
        return f"{response.status_code}: {response.text[:300]}"


def _cut(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    part: list[T] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _cut_between_nodes(rows: Iterable[StockRow], size: int) -> Iterator[list[StockRow]]:
    """Parts of about `size` rows; the rows of a node stay together."""
    part: list[StockRow] = []
    for row in rows:
        if len(part) >= size and row.node_id != part[-1].node_id:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _params(feed: Feed, as_of: datetime | None, *, dry_run: bool) -> list[tuple[str, str | int]]:
    """Query of an import job. A source that does not number its counts is numbered by their instants."""
    params: list[tuple[str, str | int]] = [("scope", feed.scope)] if feed.scope != "delta" else []
    if dry_run:
        params.append(("dry_run", "true"))
    if as_of is not None:
        params.append(("as_of", as_of.isoformat()))
    if feed.source is not None:
        number = feed.source_seq
        if number is None:
            number = int(as_of.timestamp() * 1_000) if as_of is not None else time.time_ns() // 1_000_000
        params += [("source", feed.source), ("source_seq", number)]
    return params
