"""Runs a core (stock or control) on an event loop: sockets in, journal out, answers back. The only place with a clock.

R1  Exactly one append is outstanding; it is repeated, unchanged, until its outcome is known.
R2  A copy that is fenced, or that finds another tail than its own, leaves the process without answering anything.
R3  A copy that has not proved its epoch for the length of the lease answers nothing but `unavailable`.
R4  An invariant that breaks stops the process: the journal, not this memory, is the truth.
R5  A part is packed between batches, a few milliseconds at a time, and counts only after it was read back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from engine.actors.collector import quiet_collector
from engine.actors.server import ShardServer
from engine.actors.snapshots import Snapshotter
from engine.client.cluster import Cluster
from engine.domain.commands import FINISHING, READS, Command, FollowConfig, FollowView, GetStatus
from engine.domain.errors import InvariantBreach
from engine.domain.problems import CODES
from engine.domain.replies import DecisionReply, Problem, Reply
from engine.journal.port import Acquired, Behind, Conflict, Corrupt, Fenced, Journal, Tail, Unavailable
from engine.protocol.effects import Append, Core, Effects, Fetch, Send, Solve
from engine.settings import Settings

APPEND_RETRY_S = 0.05
LEASE_CHECKS_PER_LEASE = 4
MEMORY_CHECK_S = 1.0
MEMORY_FULL = 0.9
EXIT_FENCED = 70
EXIT_BROKEN = 71
_ALWAYS = (FollowConfig, FollowView, GetStatus)
log = structlog.get_logger(__name__)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def leave(code: int, why: str, **facts: object) -> None:
    """End this process at once; whoever takes the shard over reads the journal."""
    log.error("leaving", why=why, **facts)
    os._exit(code)


class Runner:
    """One core with its journal, sockets and peers. `start` recovers and serves; it is called once."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        server: ShardServer,
        settings: Settings,
        *,
        cluster: Cluster | None,
        solve: Callable[[Solve], asyncio.Future[bytes | None]] | None = None,
    ) -> None:
        self.core: Any = core
        self.journal = journal
        self.server = server
        self.settings = settings
        self.cluster = cluster
        self.frozen = ""
        """Why no write is taken any more; empty = all is well."""
        self._solve = solve
        self._loop = asyncio.get_running_loop()
        self._run_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._append_event = asyncio.Event()
        self._to_append: Append | None = None
        self._appending = False
        self._tail: Tail | None = None
        self._lease_until = 0.0
        self.memory_share = 0.0
        """Of the server's memory, in use."""
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[int] = set()
        self._local: dict[int, asyncio.Future[Reply]] = {}
        self._local_corr = 0
        self._append_ms: list[float] = []
        self._append_count = 0
        self._append_bytes = 0
        self._decision_bytes = 0
        self._batch_items = 0
        self.snapshots = Snapshotter(self)

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self, acquired: Acquired) -> None:
        """Recover from the newest good parts and the entries after them, then serve."""
        started = self._loop.time()
        try:
            replayed = await self.snapshots.load(acquired)
        except Corrupt as error:
            self.freeze(f"the journal does not verify: {error}")
            return
        self._tail = acquired.tail
        self._renew_lease()
        self.core.recovered(epoch=acquired.epoch, seq=acquired.tail.seq, time_ms=acquired.tail.time_ms, now_ms=now_ms())
        self.server.epoch = acquired.epoch
        quiet_collector()
        self._started = True
        self._spawn(self._append_forever(), "append")
        self._spawn(self._lease_forever(), "lease")
        self._spawn(self._memory_forever(), "memory")
        self._spawn(self.snapshots.run(), "snapshots")
        self.wake()
        log.info(
            "serving",
            shard=self.server.shard,
            epoch=acquired.epoch,
            seq=acquired.tail.seq,
            replayed=replayed,
            seconds=round(self._loop.time() - started, 3),
        )

    def freeze(self, why: str) -> None:
        """Refuse writes and say so until a person has looked."""
        self.frozen = why
        self._started = True
        log.error("frozen", shard=self.server.shard, why=why)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A task whose failure ends the process: nothing here may die unseen."""
        task = self._loop.create_task(work, name=f"{name}-{self.server.shard}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                log.error("task failed", task=task.get_name(), exc_info=task.exception())
                leave(EXIT_BROKEN, f"{name} failed")

        task.add_done_callback(ended)

    async def close(self) -> None:
        """Stop serving; what was acknowledged is in the journal."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.server.close()
        await self.journal.close()

    # -- commands in ----------------------------------------------------------------------------------------------

    def on_commands(self, conn: int, items: list[tuple[int, Command]]) -> None:
        """A frame arrived."""
        if not self._may_work():
            self._refuse(conn, items)
            return
        core, now = self.core, now_ms()
        if self.memory_share >= MEMORY_FULL:
            items = self._shed_new(conn, items)
        for corr, command in items:
            core.receive(conn, corr, command, now_ms=now)
        self.wake()

    def _may_work(self) -> bool:
        return self._started and not self.frozen and self._loop.time() < self._lease_until

    def _refuse(self, conn: int, items: list[tuple[int, Command]]) -> None:
        if self.frozen:
            problem = Problem("frozen", f"{CODES['frozen'].title}: {self.frozen}", (), retry_after_ms=5_000)
        else:
            problem = Problem("unavailable", CODES["unavailable"].title, (), retry_after_ms=500)
        connection = self.server.connections.get(conn)
        if connection is not None:
            connection.out += [(corr, problem) for corr, _ in items]
            connection.flush()
        for corr, _ in items:
            if conn == -2:
                self._answer_local(corr, problem)

    def _shed_new(self, conn: int, items: list[tuple[int, Command]]) -> list[tuple[int, Command]]:
        """The server's memory is nearly full: new work waits, what finishes and frees goes on."""
        kept: list[tuple[int, Command]] = [
            (corr, c) for corr, c in items if isinstance(c, (*FINISHING, *READS, *_ALWAYS))
        ]
        connection = self.server.connections.get(conn)
        if connection is not None and len(kept) < len(items):
            problem = Problem("journal_full", CODES["journal_full"].title, (), retry_after_ms=5_000)
            taken = {corr for corr, _ in kept}
            connection.out += [(corr, problem) for corr, _ in items if corr not in taken]
        return kept

    def on_left(self, conn: int) -> None:
        self.core.disconnected(conn)

    def ask(self, command: Command) -> asyncio.Future[Reply]:
        """The same commands without a socket: the Ray calls of the actor and its own needs."""
        self._local_corr += 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._local[self._local_corr] = future
        self.on_commands(-2, [(self._local_corr, command)])
        return future

    def _answer_local(self, corr: int, reply: Reply) -> None:
        future = self._local.pop(corr, None)
        if future is not None and not future.done():
            future.set_result(reply)

    # -- the turn -------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Poll the core in the next turn of the loop, once however often it is asked for."""
        if not self._run_due:
            self._run_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._run_due = False
        if not self.snapshots.holds_batches:
            self._poll()

    def drain(self) -> None:
        """Turn what was decided into an append, although no new batch may begin: the core is coming to rest."""
        if not self._appending and self._to_append is None:
            self._poll()

    def _poll(self) -> None:
        if self.frozen or not self._started:
            return
        try:
            effects: Effects = self.core.poll(now_ms=now_ms())
        except InvariantBreach as breach:
            leave(EXIT_BROKEN, str(breach), shard=self.server.shard)
            return
        self._perform(effects)

    def _perform(self, effects: Effects) -> None:
        if effects.append is not None:
            assert self._to_append is None and not self._appending, "R1: one append at a time"
            self._to_append = effects.append
            self._append_event.set()
        if effects.answers:
            self._deliver(effects)
        for send in effects.sends:
            self._send(send)
        for fetch in effects.fetches:
            self._spawn(self._fetch(fetch), "fetch")
        for solve in effects.solves:
            self._submit_solve(solve)
        if not self._appending and self._to_append is None:
            self.server.flush()  # nothing is outstanding: every frame taken so far is dealt with
        self._set_timer(effects.wake_at_ms)

    def _deliver(self, effects: Effects) -> None:
        connections = self.server.connections
        valid = self._loop.time() < self._lease_until
        touched = set()
        for answer in effects.answers:
            reply = answer.reply
            if not valid:  # R3
                reply = Problem("unavailable", CODES["unavailable"].title, (), retry_after_ms=500)
            if answer.conn == -2:
                self._answer_local(answer.corr, reply)
                continue
            connection = connections.get(answer.conn)
            if connection is not None:
                connection.out.append((answer.corr, reply))
                touched.add(connection)
        for connection in touched:
            connection.flush()

    def _set_timer(self, wake_at_ms: int | None) -> None:
        if wake_at_ms is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if self._timer is not None:
            if self._timer_ms <= wake_at_ms and not self._timer.cancelled():
                return
            self._timer.cancel()
        delay_s = (wake_at_ms - now_ms()) / 1_000
        if delay_s <= 0:
            self._timer = None
            if not self._appending and self._to_append is None:
                self.wake()
                return
            delay_s = 0.001
        self._timer_ms = wake_at_ms
        self._timer = self._loop.call_later(min(delay_s, 60.0), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.wake()

    # -- effects --------------------------------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        """To a peer; a broken connection answers `unavailable`, the core repeats what must arrive."""
        assert self.cluster is not None
        self._follow(send.shard)
        future = self.cluster.link(send.shard).submit(send.command, retry=False)
        future.add_done_callback(lambda done: self._peer_replied(send.shard, send.corr, done.result()))

    def _peer_replied(self, shard: int, corr: int, reply: Reply) -> None:
        self.core.peer_replied(shard, corr, reply, now_ms=now_ms())
        self.wake()

    def follow_peers(self) -> None:
        """Follow the views of every other stock shard of the map."""
        if self.cluster is not None:
            for shard in self.cluster.shards:
                self._follow(shard)

    def _follow(self, shard: int) -> None:
        if self.cluster is None or shard in self._followed or shard == self.server.shard:
            return
        self._followed.add(shard)
        corr = self.core.views.corr
        self.cluster.link(shard).subscribe(
            corr,
            lambda: FollowView(self.server.shard),
            lambda reply: self._peer_replied(shard, corr, reply),
        )

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            record = await self.journal.read_decision(fetch.epoch, fetch.seq, fetch.place)
        except Unavailable:
            reply: Reply = Problem("unavailable", CODES["unavailable"].title, (), retry_after_ms=500)
        else:
            reply = (
                DecisionReply(record)
                if record is not None
                else Problem("not_found", "the decision is older than what the journal keeps")
            )
        if fetch.conn == -2:
            self._answer_local(fetch.corr, reply)
            return
        connection = self.server.connections.get(fetch.conn)
        if connection is not None:
            connection.out.append((fetch.corr, reply))
            connection.flush()

    def _submit_solve(self, solve: Solve) -> None:
        if self._solve is None:
            self._loop.call_soon(self._solved, solve.component, None)
            return
        future = self._solve(solve)
        future.add_done_callback(lambda done: self._solved(solve.component, done.result()))

    def _solved(self, component: int, answer: bytes | None) -> None:
        self.core.solved(component, answer, now_ms=now_ms())
        self.wake()

    # -- the journal ----------------------------------------------------------------------------------------------

    async def _append_forever(self) -> None:
        while True:
            await self._append_event.wait()
            self._append_event.clear()
            append, self._to_append = self._to_append, None
            assert append is not None
            self._appending = True
            started = self._loop.time()
            if not await self._append(append):
                return
            self._appending = False
            self._note_append(append, self._loop.time() - started)
            self.core.appended(append.seq)
            self.snapshots.between_batches()
            self._turn()
            self.server.flush()  # frames taken so far are dealt with: their credits go back

    async def _append(self, append: Append) -> bool:
        """Until the entry is durable (R1). False = the shard froze."""
        assert self._tail is not None
        while True:
            try:
                appended = await self.journal.append(
                    self._tail,
                    time_ms=append.time_ms,
                    payload=append.payload,
                    decisions=append.decisions,
                    finishing=True,
                )
            except (Fenced, Conflict) as error:
                leave(EXIT_FENCED, str(error), shard=self.server.shard)
            except Behind as error:
                self.freeze(f"the journal lost its tail: {error}")
                return False
            except Unavailable as error:
                log.warning("append unanswered", shard=self.server.shard, seq=append.seq, error=str(error))
                await asyncio.sleep(APPEND_RETRY_S)
                continue
            self._tail = appended.tail
            self._renew_lease()
            return True

    def _renew_lease(self) -> None:
        self._lease_until = self._loop.time() + self.settings.lease_s

    async def _lease_forever(self) -> None:
        """Prove the epoch even when nothing is written (R3)."""
        while True:
            await asyncio.sleep(self.settings.lease_s / LEASE_CHECKS_PER_LEASE)
            started = self._loop.time()
            try:
                if not await self.journal.check_epoch():
                    leave(EXIT_FENCED, "another copy owns this shard", shard=self.server.shard)
            except Unavailable as error:
                log.warning("epoch unproven", shard=self.server.shard, error=str(error))
            except Behind as error:
                self.freeze(f"the journal lost what it acknowledged: {error}")
                return
            else:
                self._lease_until = max(self._lease_until, started + self.settings.lease_s)
                self.wake()

    async def _memory_forever(self) -> None:
        while True:
            try:
                used, limit = await self.journal.memory()
            except Unavailable:
                used, limit = 0, 0
            self.memory_share = used / limit if limit else 0.0
            self._tell_core(used, limit)
            await asyncio.sleep(MEMORY_CHECK_S)

    def _note_append(self, append: Append, seconds: float) -> None:
        self._append_count += 1
        self._append_bytes += len(append.payload)
        self._decision_bytes += sum(len(record) for record in append.decisions)
        self._batch_items += len(append.decisions)
        self._append_ms.append(seconds * 1_000)
        if len(self._append_ms) > 2_000:
            del self._append_ms[:1_000]

    def _tell_core(self, used: int, limit: int) -> None:
        latencies = sorted(self._append_ms)
        last = len(latencies) - 1
        self.core.note_shell(
            {
                "appends": self._append_count,
                "append_bytes": self._append_bytes,
                "decision_bytes": self._decision_bytes,
                "batch_size_mean": round(self._batch_items / self._append_count, 2) if self._append_count else 0,
                "append_p50_ms": round(latencies[last // 2], 3) if latencies else 0,
                "append_p99_ms": round(latencies[last * 99 // 100], 3) if latencies else 0,
                "redis_used_bytes": used,
                "redis_limit_bytes": limit,
                "journal_full": self.memory_share >= MEMORY_FULL,
                "lease_left_ms": round(max(0.0, self._lease_until - self._loop.time()) * 1_000),
                "connections": len(self.server.connections),
                "pid": os.getpid(),
                "cpu_s": round(time.process_time(), 3),
                **self.snapshots.facts(),
            }
        )
