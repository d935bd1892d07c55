"""Jobs of this gateway process: long work that a request starts and others watch. Bounded in number, kept for an hour.

J1  A job belongs to the API key that started it; no other key sees it.
J2  Its file is removed when it ends, however it ends.
J3  What it has put is put: a job that failed or was cut short (the process stops) is started again by the caller, with the same key.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import IO, Any

import structlog
from msgspec import structs

from engine.domain.replies import Problem, WouldChange
from gateway.errors import problem, problem_value

RUNNING_MAX = 2
WAITING_MAX = 8
KEPT_MAX = 500
KEPT_S = 3_600.0
ERRORS_MAX = 1_000
log = structlog.get_logger(__name__)


@dataclass
class RowError:
    line: int
    pointer: str
    detail: str


@dataclass
class Job:
    """One import. state: waiting, running, done (perhaps with failed rows) or failed (`problem` says why)."""

    job_id: str
    kind: str
    key_id: str
    key_hash: int
    body_hash: int
    file: IO[bytes]
    bytes_total: int
    rows_total: int
    created_ms: int
    state: str = "waiting"
    rows_done: int = 0
    """Rows dealt with, failed ones included."""
    rows_failed: int = 0
    errors: list[RowError] = field(default_factory=list)
    """The first of them."""
    problem: Problem | None = None
    finished_ms: int = 0
    finished_s: float = 0.0
    would_change: WouldChange | None = None
    """Of a dry run, so far."""

    def fail_row(self, line: int, pointer: str, detail: str) -> None:
        self.rows_failed += 1
        self.rows_done += 1
        if len(self.errors) < ERRORS_MAX:
            self.errors.append(RowError(line, pointer, detail))

    def add(self, change: WouldChange) -> None:
        """What one more count of a dry run would change."""
        so_far = structs.astuple(self.would_change or WouldChange(0, 0, 0, 0))
        self.would_change = WouldChange(*map(sum, zip(so_far, structs.astuple(change), strict=True)))

    def problem_value(self) -> Any:
        return problem_value(self.problem, self.job_id) if self.problem is not None else None


Work = Callable[[Job], Awaitable[None]]


class JobStore:
    """Starts jobs, a few at a time, and remembers them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = asyncio.Semaphore(RUNNING_MAX)
        self._receiving = 0

    def refusal(self) -> Problem | None:
        """Why no job can be started now."""
        if len(self._tasks) + self._receiving >= RUNNING_MAX + WAITING_MAX:
            return problem("overloaded", "too many imports are running and waiting", retry_after_ms=10_000)
        return None

    def receiving(self, by: int) -> None:
        """Count an upload that may become a job."""
        self._receiving += by

    def find(self, job_id: str, key_id: str) -> Job | None:
        """J1."""
        self._forget()
        job = self._jobs.get(job_id)
        return job if job is not None and job.key_id == key_id else None

    def with_key(self, key_id: str, key_hash: int) -> Job | None:
        """The newest job that an idempotency key started."""
        if not key_hash:
            return None
        newest_first = reversed(self._jobs.values())
        return next((j for j in newest_first if j.key_hash == key_hash and j.key_id == key_id), None)

    def start(self, job: Job, work: Work) -> None:
        self._forget()
        self._jobs[job.job_id] = job
        self._tasks[job.job_id] = asyncio.create_task(self._run(job, work), name=job.job_id)

    async def _run(self, job: Job, work: Work) -> None:
        try:
            async with self._running:
                job.state = "running"
                await work(job)
            job.state = "failed" if job.problem is not None else "done"
        except asyncio.CancelledError:
            job.state, job.problem = "failed", problem("unavailable", "the gateway stopped")
            raise
        except Exception as error:
            log.error("job failed", job=job.job_id, exc_info=error)
            job.state, job.problem = "failed", problem("internal")
        finally:
            job.file.close()
            job.finished_ms = time.time_ns() // 1_000_000
            job.finished_s = time.monotonic()
            self._tasks.pop(job.job_id, None)

    def _forget(self) -> None:
        before_s = time.monotonic() - KEPT_S
        for job_id, job in list(self._jobs.items()):
            if job_id in self._tasks:
                continue
            if job.finished_s < before_s or len(self._jobs) >= KEPT_MAX:
                del self._jobs[job_id]

    async def close(self) -> None:
        """Cut short what is running (J3)."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def new_job_id() -> str:
    return f"job_{secrets.token_hex(10)}"
