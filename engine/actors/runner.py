"""Runs a core (stock or control) on an event loop: sockets in, journal out, answers back. The only place with a clock.

R1  Exactly one append is outstanding; it is repeated, unchanged, until its outcome is known.
R2  A copy that is fenced, or that finds another tail than its own, leaves the process without answering anything.
R3  A copy that has not proved its epoch for the length of the lease answers nothing but `unavailable`. The lease counts from
    when the proof was asked for, not from when the answer came: a process may be stopped in between.
R4  An invariant that breaks, and anything else that the core raises, stops the process: the journal, not this memory, is the
    truth. A shard whose journal is damaged or lost its end freezes instead: it stays, refuses everything and says why.
R5  A part is packed between batches, a few milliseconds at a time, and counts only after it was read back.
R6  What other shards say about orders across shards may wait for company (company.py): to the core it was longer on its way.

One file: each of these rules is about a turn, an append and a lease that all parts of it share; what stands alone has its own
(snapshots, company, clock, measures, server).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NoReturn

import structlog

from engine.actors.clock import Clock
from engine.actors.collector import quiet_collector
from engine.actors.company import VIEW_WAIT_S, Company, patience_s, reply_patience_s
from engine.actors.measures import Complaint, Measures
from engine.actors.server import ShardServer
from engine.actors.snapshots import Snapshotter
from engine.client.cluster import Cluster
from engine.domain.commands import FINISHING, READS, Command, FollowConfig, FollowView
from engine.domain.problems import CODES
from engine.domain.replies import ConfigDoc, DecisionReply, Problem, Reply
from engine.journal.port import (
    Acquired,
    ArchiveCursor,
    Behind,
    Conflict,
    Corrupt,
    Fenced,
    Journal,
    JournalError,
    Misconfigured,
    Tail,
    Unavailable,
)
from engine.protocol.effects import Append, Core, Effects, Fetch, Send, Solve
from engine.settings import Settings

APPEND_RETRY_S = 0.05
LEASE_CHECKS_PER_LEASE = 4
MEMORY_CHECK_S = 1.0
DURABILITY_CHECK_S = 5.0
MEMORY_FULL = 0.9
EXIT_FENCED = 70
EXIT_BROKEN = 71
LOCAL = -2
"""Connection number of commands that came without a socket."""
_TAKEN_WHEN_FULL = (*FINISHING, *READS, FollowConfig, FollowView)
log = structlog.get_logger(__name__)


def leave(code: int, why: str, **facts: object) -> NoReturn:
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
        solve: Callable[[Solve, int], asyncio.Future[bytes | None]] | None = None,
        clock: Clock | None = None,
        archived: bool = False,
    ) -> None:
        """solve: takes a component and its budget in ms, and answers None where there is no answer in time.

        archived: an archiver follows this journal, so nothing that it has not kept is trimmed.
        """
        self.core: Any = core
        self.journal = journal
        self.server = server
        self.settings = settings
        self.cluster = cluster
        self.frozen = ""
        """Why nothing is taken any more; empty = all is well."""
        self.unfit = ""
        """Why the server keeps no promises at the moment, somebody changed its settings; empty = it does."""
        self.clock = clock if clock is not None else Clock(pace=settings.pace)
        self._solve = solve
        self._loop = asyncio.get_running_loop()
        self._run_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._company = Company(self.wake, self.clock.pace)
        self._append_event = asyncio.Event()
        self._to_append: Append | None = None
        self._appending = False
        self._tail: Tail | None = None
        self._lease_until = 0.0
        self.memory_share = 0.0
        """Of the server's memory, in use."""
        self.memory_limit_bytes = 0
        self.archive: ArchiveCursor | None = ArchiveCursor(0, 0, 0, 0) if archived else None
        """How far the archive is, as last read; None = this journal is not archived."""
        self._started = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[int] = set()
        self._local: dict[int, asyncio.Future[Reply]] = {}
        self._local_corr = 0
        self._held_replies: list[tuple[int, int, Reply]] = []
        """Answers of peers that came while the core was brought to rest."""
        self.measures = Measures()
        self._append_complaint, self._lease_complaint = Complaint(), Complaint()
        self.snapshots = Snapshotter(self)

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self, acquired: Acquired) -> None:
        """Recover from the newest good parts and the entries after them, then serve, or freeze where that cannot be."""
        started = self._loop.time()
        self.server.epoch = acquired.epoch
        self.clock.start(acquired.server_time_ms)
        try:
            replayed = await self.snapshots.load(acquired)
        except (Corrupt, Misconfigured) as error:  # Misconfigured: entries of a newer version
            self.freeze(f"the journal does not verify: {error}")
        else:
            self._tail = acquired.tail
            quiet_collector()
            await self._prove_epoch()  # recovery may have taken long: another copy may be the owner by now
            self._started = True
            self._spawn(self._append_forever(), "append")
            self._spawn(self._memory_forever(), "memory")
            self._spawn(self._durability_forever(), "durability")
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
        self._spawn(self._lease_forever(), "lease")

    def freeze(self, why: str) -> None:
        """Refuse everything and say why, until a person has looked. Who waits for an answer connects again, and is told."""
        if self.frozen:
            return
        self.frozen = why
        self._started = True
        log.error("frozen", shard=self.server.shard, why=why)
        for connection in list(self.server.connections.values()):
            connection.abort()
        for corr in list(self._local):
            self._answer_local(corr, self._refusal())

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

    def _broken(self, error: Exception) -> NoReturn:
        """R4: what the core holds now is not to be trusted."""
        log.error("the core broke", shard=self.server.shard, exc_info=error)
        leave(EXIT_BROKEN, repr(error), shard=self.server.shard)

    async def close(self) -> None:
        """Stop serving; what was acknowledged is in the journal."""
        self._closed = True
        self._company.close()
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.server.close()
        await self.journal.close()

    # -- commands in ----------------------------------------------------------------------------------------------

    def on_commands(self, conn: int, items: list[tuple[int, Command]]) -> None:
        """A frame arrived."""
        if not self._started or self.frozen or self.unfit or not self._lease_valid():
            self._refuse(conn, items, self._refusal())
            return
        if self.memory_share >= MEMORY_FULL:
            items = self._shed_new(conn, items)
        wait_s = patience_s(items)
        if wait_s:
            self._company.put(lambda: self._receive(conn, items), wait_s)
            return
        self._company.come_in(len(items))
        self._receive(conn, items)
        self.wake()

    def _receive(self, conn: int, items: list[tuple[int, Command]]) -> None:
        receive, now_ms = self.core.receive, self.clock.now_ms()
        try:
            for corr, command in items:
                receive(conn, corr, command, now_ms=now_ms)
        except Exception as error:
            self._broken(error)

    def _refusal(self) -> Problem:
        if self.frozen:
            return Problem("frozen", f"{CODES['frozen'].title}: {self.frozen}", (), retry_after_ms=5_000)
        return Problem("unavailable", self.unfit or CODES["unavailable"].title, (), retry_after_ms=500)

    def _refuse(self, conn: int, items: list[tuple[int, Command]], problem: Problem) -> None:
        """Answer all with a problem at once, and give the frame's credit back with it."""
        if conn == LOCAL:
            for corr, _ in items:
                self._answer_local(corr, problem)
        connection = self.server.connections.get(conn)
        if connection is not None:
            connection.out += [(corr, problem) for corr, _ in items]
            connection.flush()

    def _shed_new(self, conn: int, items: list[tuple[int, Command]]) -> list[tuple[int, Command]]:
        """The server's memory is nearly full: new work is refused, what finishes and frees goes on."""
        kept = [item for item in items if isinstance(item[1], _TAKEN_WHEN_FULL)]
        if len(kept) < len(items):
            shed = [item for item in items if not isinstance(item[1], _TAKEN_WHEN_FULL)]
            problem = Problem("journal_full", CODES["journal_full"].title, (), retry_after_ms=5_000)
            self._refuse(conn, shed, problem)
        return kept

    def on_left(self, conn: int) -> None:
        try:
            self.core.disconnected(conn)
        except Exception as error:
            self._broken(error)

    def configure(self, docs: Iterable[ConfigDoc], version: int) -> None:
        """A push of the control shard."""
        try:
            self.core.configure(docs, version)
        except Exception as error:
            self._broken(error)
        self.follow_peers()
        self.wake()

    def ask(self, command: Command) -> asyncio.Future[Reply]:
        """The same commands without a socket: the Ray calls of the actor and its own needs."""
        self._local_corr += 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._local[self._local_corr] = future
        self.on_commands(LOCAL, [(self._local_corr, command)])
        return future

    def _answer_local(self, corr: int, reply: Reply) -> None:
        future = self._local.pop(corr, None)
        if future is not None and not future.done():
            future.set_result(reply)

    # -- the turn -------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Poll the core in the next turn of the loop, once however often it is asked for.

        While an append is under way, in the turn after that: its reply may have come together with what woke us, and one poll
        decides what came and lets the answers go that are durable.
        """
        if not self._run_due:
            self._run_due = True
            self._loop.call_soon(self._give_way if self._appending else self._turn)

    def _give_way(self) -> None:
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._run_due = False
        if self.snapshots.holds_batches:
            return
        if self._held_replies:
            held, self._held_replies = self._held_replies, []
            for shard, corr, reply in held:
                self._peer_says(shard, corr, reply)
        self._poll()

    def drain(self) -> None:
        """Turn what was decided into an append, although no new batch may begin: the core is coming to rest."""
        if not self._appending and self._to_append is None:
            self._poll()

    def _poll(self) -> None:
        if self.frozen or not self._started or self._closed:
            return
        try:
            self._perform(self.core.poll(now_ms=self.clock.now_ms()))
        except Exception as error:
            self._broken(error)

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
        valid = self._lease_valid()
        touched = set()
        for answer in effects.answers:
            reply = answer.reply
            if not valid:  # R3
                reply = self._refusal()
            if answer.conn == LOCAL:
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
        delay_s = self.clock.seconds_until(wake_at_ms)
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
        wait_s = reply_patience_s(send.command)
        self.cluster.link(send.shard).tell(
            send.command, lambda reply: self._peer_replied(send.shard, send.corr, reply, wait_s), retry=False
        )

    def _peer_replied(self, shard: int, corr: int, reply: Reply, wait_s: float) -> None:
        if wait_s:
            self._company.put(lambda: self._take_reply(shard, corr, reply), wait_s)
            return
        self._company.come_in()
        self._take_reply(shard, corr, reply)
        self.wake()

    def _take_reply(self, shard: int, corr: int, reply: Reply) -> None:
        if self.snapshots.holds_batches or self._held_replies:
            self._held_replies.append((shard, corr, reply))  # it may put an event: the core would never come to rest
        else:
            self._peer_says(shard, corr, reply)

    def _view_came(self, shard: int, reply: Reply) -> None:
        """It puts no event, and is told to the core at once: what is planned next sees it. Who waits for it gets a turn."""
        self._peer_says(shard, self.core.views.corr, reply)
        if self.core.waits_for_views:
            self.wake()
        else:
            self._company.look_in(VIEW_WAIT_S)

    def _peer_says(self, shard: int, corr: int, reply: Reply) -> None:
        try:
            self.core.peer_replied(shard, corr, reply, now_ms=self.clock.now_ms())
        except Exception as error:
            self._broken(error)

    def follow_peers(self) -> None:
        """Follow the views of every other stock shard of the map; again when the map has changed."""
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
            lambda reply: self._view_came(shard, reply),
        )

    async def _fetch(self, fetch: Fetch) -> None:
        """Read a decision for who asked. No fault of a record is a reason to stop: nothing but people reads them."""
        try:
            record = await self.journal.read_decision(fetch.epoch, fetch.seq, fetch.place)
        except Unavailable:
            reply: Reply = Problem("unavailable", CODES["unavailable"].title, (), retry_after_ms=500)
        except JournalError as error:
            log.error("decision not readable", shard=self.server.shard, seq=fetch.seq, error=str(error))
            reply = Problem("internal", "the record of this decision is damaged")
        else:
            reply = (
                DecisionReply(record, (self.server.shard, fetch.epoch, fetch.seq))
                if record is not None
                else Problem("not_found", "the decision is older than what the journal keeps")
            )
        if fetch.conn == LOCAL:
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
        future = self._solve(solve, round(self.clock.seconds_until(solve.deadline_ms) * 1_000))
        future.add_done_callback(lambda done: self._solved(solve.component, done.result()))

    def _solved(self, component: int, answer: bytes | None) -> None:
        try:
            self.core.solved(component, answer, now_ms=self.clock.now_ms())
        except Exception as error:
            self._broken(error)
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
            self.measures.appended(append, self._loop.time() - started)
            self.core.appended(append.seq)
            self.snapshots.between_batches()
            self._turn()
            self.server.flush()  # frames taken so far are dealt with: their credits go back

    async def _append(self, append: Append) -> bool:
        """Until the entry is durable (R1). False = the shard froze."""
        assert self._tail is not None
        while not self.frozen:
            asked = time.monotonic()
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
            except Unavailable as error:
                if self._append_complaint.due():
                    log.warning("append unanswered", shard=self.server.shard, seq=append.seq, error=str(error))
                await asyncio.sleep(APPEND_RETRY_S)
            else:
                self._tail = appended.tail
                self._lease_until = max(self._lease_until, asked + self.settings.lease_s)
                self.clock.heard(appended.server_time_ms)
                return True
        return False

    def _lease_valid(self) -> bool:
        # Not the loop's time: that stands still within a turn, and a process may be stopped there and go on much later.
        return time.monotonic() < self._lease_until

    async def _lease_forever(self) -> None:
        """Prove the epoch even when nothing is written (R3)."""
        while True:
            await asyncio.sleep(self.settings.lease_s / LEASE_CHECKS_PER_LEASE)
            await self._prove_epoch()

    async def _prove_epoch(self) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.lease_s):
                mine = await self.journal.check_epoch()
        except (Unavailable, TimeoutError) as error:
            if self._lease_complaint.due():
                log.warning("epoch unproven", shard=self.server.shard, error=str(error) or "no answer")
            if not self._lease_valid():
                # What was taken waits for the journal; who asks more from now on is refused at once, and needs credit to ask.
                self.server.flush()
        except Behind as error:
            self.freeze(f"the journal lost what it acknowledged: {error}")
        else:
            if not mine:
                leave(EXIT_FENCED, "another copy owns this shard", shard=self.server.shard)
            self._lease_until = max(self._lease_until, asked + self.settings.lease_s)
            self.wake()

    async def _durability_forever(self) -> None:
        """Nothing new is taken while an acknowledgement would not mean `on disk`, and again once it does."""
        while self.settings.durability == "always":
            await asyncio.sleep(DURABILITY_CHECK_S)
            try:
                problems = await self.journal.check_durability()
            except Unavailable:
                continue  # without a server nothing is acknowledged
            unfit = f"the journal's server is not durable any more: {'; '.join(problems)}" if problems else ""
            if unfit != self.unfit:
                self.unfit = unfit
                log.error("server unfit" if unfit else "server fit again", shard=self.server.shard, why=unfit)

    async def _look_at_archive(self) -> None:
        if self.archive is None:
            return
        try:
            cursor = await self.journal.archive_cursor()
        except Unavailable:
            return
        if cursor is not None:
            self.archive = cursor
            self.core.archived(cursor.indexed_seq, cursor.indexed_ms, index_is_whole=cursor.index_is_whole)
            self.wake()  # orders may be waiting to leave

    def _archive_facts(self) -> dict[str, int]:
        archive = self.archive
        if archive is None:
            return {}
        seq = self.core.durable_seq
        return {
            "archived_seq": archive.archived_seq,
            "indexed_seq": archive.indexed_seq,
            "archive_lag_entries": max(0, seq - archive.archived_seq),
            "index_lag_entries": max(0, seq - archive.indexed_seq),
            "archive_silence_ms": max(0, self.clock.now_ms() - archive.heard_ms) if archive.heard_ms else 0,
        }

    async def _memory_forever(self) -> None:
        while True:
            try:
                used, limit = await self.journal.memory()
            except Unavailable:
                used, limit = 0, 0
            self.memory_share = used / limit if limit else 0.0
            self.memory_limit_bytes = limit
            await self._look_at_archive()
            self.core.note_shell(
                {
                    **self.measures.facts(),
                    **self.snapshots.facts(),
                    **self._archive_facts(),
                    "redis_used_bytes": used,
                    "redis_limit_bytes": limit,
                    "journal_full": self.memory_share >= MEMORY_FULL,
                    "lease_left_ms": round(max(0.0, self._lease_until - time.monotonic()) * 1_000),
                    "connections": len(self.server.connections),
                    "clock_skew_ms": self.clock.skew_ms,
                    "clock_stepped": self.clock.stepped,
                }
            )
            await asyncio.sleep(MEMORY_CHECK_S)
