"""Imports and their jobs as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, structs

from gateway.inventory.schemas import Units
from gateway.jobs.store import Job, RowError
from gateway.schemas import INT_MAX, Body, Id, ProblemShown, Shown
from gateway.times import iso


class NoQuery(Body, kw_only=True):
    """No parameters."""


class CountLine(Body, kw_only=True):
    """One row of a stock import."""

    node_id: Id
    sku: Id
    quantity: Units


class CountImportQuery(Body, kw_only=True):
    """How the counts are meant. Without `as_of` they are of the moment of the upload; with a `source` and `source_seq` they
    take part in that feed's order."""

    scope: Literal["full", "nonzero", "delta"] = "delta"
    source: Id | None = None
    source_seq: Annotated[int, Meta(ge=0, le=INT_MAX)] | None = None
    as_of: Annotated[datetime, Meta(tz=True)] | None = None
    dry_run: bool = False


class JobError(Shown):
    """A row that was not taken: its line in the file (the header of a CSV is line 1), and what is wrong with it."""

    line: int
    pointer: str
    detail: str


class CountChange(Shown):
    """What counts would do to positions, movements since their instant netted. `left_out_count` of the `position_count` are not
    in the file: a count of scope full or nonzero takes what they hold."""

    position_count: int
    left_out_count: int
    units_added: int
    units_taken: int


class JobShown(Shown):
    """An import. `state`: waiting, running, done (perhaps with failed rows), failed (`problem` says why; what was put stays
    put). `rows_total` is an estimate until it is done. `errors` are the first 1,000, by line. `would_change` is of a dry run."""

    job_id: str
    kind: str
    state: str
    rows_total: int
    rows_done: int
    rows_failed: int
    bytes_total: int
    errors: list[JobError]
    problem: ProblemShown | None
    created_at: str | None
    finished_at: str | None
    would_change: CountChange | None


def _line(error: RowError) -> int:
    return error.line


def job_shown(job: Job) -> JobShown:
    return JobShown(
        job.job_id,
        job.kind,
        job.state,
        max(job.rows_total, job.rows_done),
        job.rows_done,
        job.rows_failed,
        job.bytes_total,
        [JobError(e.line, e.pointer, e.detail) for e in sorted(job.errors, key=_line)],
        job.problem_value(),
        iso(job.created_ms),
        iso(job.finished_ms),
        CountChange(*structs.astuple(job.would_change)) if job.would_change is not None else None,
    )
