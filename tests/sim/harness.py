"""A deterministic cluster: stock cores, a control core, their journals, a network and a clock, all from one seed.

What may go wrong, each with its own rate: messages are delayed, lost, repeated and overtaken; connections break; appends are lost
before or after they landed; a process dies at any step and is started again, with or without its old copy running on; its newest
snapshots are damaged. Nothing reads a real clock, and nothing iterates over a set.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from engine.domain.catalog import Catalog
from engine.domain.commands import Command, FollowConfig, FollowView, PutConfig
from engine.domain.config import KEY_FIELD, Document, Placement
from engine.domain.decide_moves import placement_of
from engine.domain.events import Event
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, Reply
from engine.domain.state import ShardState
from engine.protocol.control_core import ControlCore
from engine.protocol.effects import Append, Effects
from engine.protocol.shard_core import ShardCore
from engine.verify.books import Books
from tests.builders import NOW_MS, a_network
from tests.sim import checker
from tests.sim.greedy_planner import CollidingPlanner
from tests.sim.journal import SimFenced, SimJournal

CLIENT = 1
"""The connection of all clients; peers have 1,000 + incarnation."""
APPEND_RETRY_MS = 50
_events = msgspec.msgpack.Decoder(list[Event])
_KIND_ORDER = ("placement", "channel", "carrier", "item", "node")


@dataclass(frozen=True)
class Faults:
    """Rates between 0 and 1."""

    loss: float = 0.0
    repeat: float = 0.0
    break_connection: float = 0.0
    append_lost: float = 0.0
    append_unanswered: float = 0.0
    crash: float = 0.0
    """Of each step of a shard."""
    zombie: float = 0.0
    """Of crashes: the old copy runs on until it is fenced."""
    damage: float = 0.0
    """Of restarts, for each part: its newest snapshot cannot be read."""
    delay_ms: int = 4
    batch_ms: int = 0
    """How long a shard may let commands gather before it polls."""
    solver_silent: float = 0.0


CALM = Faults()
ROUGH = Faults(
    loss=0.03,
    repeat=0.05,
    break_connection=0.004,
    append_lost=0.03,
    append_unanswered=0.03,
    crash=0.01,
    zombie=0.5,
    damage=0.2,
    delay_ms=12,
    batch_ms=4,
    solver_silent=0.2,
)


class Process:
    """One incarnation of a shard: its core between a journal and a network."""

    def __init__(self, world: World, shard: int) -> None:
        self.world = world
        self.shard = shard
        world.incarnations += 1
        self.incarnation = world.incarnations
        world.by_conn[self.conn] = self
        self.alive = True
        self.epoch = 0
        self.catalog = Catalog(shard)
        self.core: ShardCore | ControlCore | None = None
        self._poll_due = False
        self._wake_ms: int | None = None

    @property
    def journal(self) -> SimJournal:
        return self.world.journals[self.shard]

    @property
    def conn(self) -> int:
        """The connection number by which others know this incarnation."""
        return 1_000 + self.incarnation

    def new_core(self) -> ShardCore | ControlCore:
        if self.shard == CONTROL_SHARD:
            return ControlCore()
        return ShardCore(
            self.shard,
            self.catalog,
            self.world.make_planner,
            solver_in_flight_max=self.world.solver_in_flight_max,
            solver_deadline_ms=30,
        )

    def recover(self) -> None:
        """Take the shard over and load it: fence first, then read."""
        world, journal = self.world, self.journal
        self.epoch = journal.acquire()
        core = self.new_core()
        start = journal.first - 1
        oldest = []
        for part, kept in journal.parts.items():
            damaged = len(kept) > 1 and world.happens(world.faults.damage)
            seq, data = kept[1 if damaged else 0]
            core.load_part(part, seq, data)
            oldest.append(seq)
        for entry in journal.entries[start:]:
            core.replay(entry.seq, entry.time_ms, entry.payload)
        self._recovered(core)
        if isinstance(core, ShardCore):
            whole = self.new_core()
            assert isinstance(whole, ShardCore)
            for entry in journal.entries:
                whole.replay(entry.seq, entry.time_ms, entry.payload)
            self._recovered(whole)
            one, two = checker.digest(core.state), checker.digest(whole.state)
            for name in one:
                assert one[name] == two[name], (
                    f"I7: {name} of shard {self.shard}: snapshots {one[name]}, all {two[name]}"
                )
        self.core = core
        world.on_recovered(self.shard, core)
        self.wake()

    def _recovered(self, core: ShardCore | ControlCore) -> None:
        tail = self.journal.entries[-1] if self.journal.entries else None
        now = self.world.clock(self.shard)
        core.recovered(epoch=self.epoch, seq=self.journal.tail_seq, time_ms=tail.time_ms if tail else 0, now_ms=now)

    def wake(self) -> None:
        if not self._poll_due:
            self._poll_due = True
            self.world.after(self.world.random.randint(0, self.world.faults.batch_ms), self._turn, self)

    def _turn(self) -> None:
        self._poll_due = False
        self.poll()

    def receive(self, conn: int, corr: int, command: Command) -> None:
        if self.core is not None:
            self.core.receive(conn, corr, command, now_ms=self.world.clock(self.shard))
            self.wake()

    def poll(self) -> None:
        world, core = self.world, self.core
        if core is None or world.step(self):
            return
        effects = core.poll(now_ms=world.clock(self.shard))
        if isinstance(core, ShardCore):
            checker.check_core(core)
        self._perform(effects)

    def _perform(self, effects: Effects) -> None:
        world = self.world
        if effects.append is not None:
            append = effects.append
            world.after(world.delay(), lambda: self._append(append), self)
        for answer in effects.answers:
            world.deliver_answer(self, answer.conn, answer.corr, answer.reply)
        for send in effects.sends:
            world.deliver_command(self, send.shard, send.corr, send.command)
        for solve in effects.solves:
            if not world.happens(world.faults.solver_silent):
                answer_in = world.random.randint(1, 40)
                answer_bytes = b"better" if answer_in < 30 else None
                world.after(answer_in, lambda s=solve, a=answer_bytes: self._solved(s.component, a), self)
        if effects.wake_at_ms is not None:
            delay = max(1, effects.wake_at_ms - world.clock(self.shard))
            world.after(min(delay, 60_000), self.wake, self)

    def _solved(self, component: int, answer: bytes | None) -> None:
        assert isinstance(self.core, ShardCore)
        self.core.solved(component, answer, now_ms=self.world.clock(self.shard))
        self.wake()

    def _append(self, append: Append) -> None:
        """The runner's loop: repeat the identical append until its outcome is known."""
        world, journal = self.world, self.journal
        if world.step(self):
            return
        if world.happens(world.faults.append_lost):
            world.after(APPEND_RETRY_MS, lambda: self._append(append), self)
            return
        tail = journal.tail_seq
        try:
            journal.append(self.epoch, append.seq, append.time_ms, append.payload)
        except SimFenced:
            self._leave()
            return
        if journal.tail_seq > tail:
            world.folded(self.shard, append)
        if world.happens(world.faults.append_unanswered):
            world.after(APPEND_RETRY_MS, lambda: self._append(append), self)
        else:
            world.after(world.delay(), lambda: self._appended(append.seq), self)

    def _appended(self, seq: int) -> None:
        assert self.core is not None
        if self.world.step(self):
            return
        self.core.appended(seq)
        if self.world.happens(self.world.snapshot_rate):
            self._snapshot()
        self.wake()

    def _snapshot(self) -> None:
        """Between batches: a few dirty parts; sometimes all parts twice and a trim."""
        core, journal = self.core, self.journal
        assert core is not None
        if not core.idle:
            return
        try:
            for part in core.dirty_parts()[: self.world.random.randint(1, 4)]:
                journal.write_part(self.epoch, part, *core.pack_part(part))
            if isinstance(core, ShardCore) and self.world.happens(max(0.3, self.world.snapshot_rate)):
                parts = [f"slot:{slot}" for slot in core.state.slots]
                parts += [f"node:{n}" for n in range(len(core.catalog.nodes)) if core.catalog.owns_node(n)] + ["misc"]
                parts += [part for part in (*core.state.boxes, *core.dirty_parts()) if part not in parts]
                for part in [part for part in parts if len(journal.parts.get(part, [])) < 2 or self.world.happens(0.5)]:
                    journal.write_part(self.epoch, part, *core.pack_part(part))
                journal.trim(parts)
        except SimFenced:
            self._leave()

    def _leave(self) -> None:
        """Fenced: end without answering anything; a supervisor starts another copy if this was the current one."""
        self.alive = False
        world = self.world
        if world.processes[self.shard] is self:
            world.after(world.random.randint(0, 300), lambda: world.start(self.shard))


class World:
    """The cluster and all that happens to it. `run` until a time, `settle` to let everything come to rest."""

    def __init__(
        self,
        seed: int,
        *,
        shards: int = 2,
        documents: Sequence[Document] | None = None,
        faults: Faults = CALM,
        solver_in_flight_max: int = 2,
        snapshot_rate: float = 0.05,
        crash_at: tuple[int, ...] = (),
        make_planner: Callable[[ShardState], CollidingPlanner] = CollidingPlanner,
        begin_ms: int = NOW_MS,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.shards = shards
        self.faults = CALM
        self.solver_in_flight_max = solver_in_flight_max
        self.snapshot_rate = snapshot_rate
        self.make_planner = make_planner
        self.crash_at = crash_at
        """Steps at which the process that is about to take them dies (counted from the end of the start-up)."""
        self.steps = 0
        self.counting = False
        self.now_ms = begin_ms
        self.skew_ms = [self.random.randint(-5, 5) for _ in range(shards)]
        self.incarnations = 0
        self.by_conn: dict[int, Process] = {}
        self._events: list[tuple[int, int, Process | None, Callable[[], None]]] = []
        self._tie = 0
        every = [*range(shards), CONTROL_SHARD]
        self.journals = {shard: SimJournal() for shard in every}
        self.processes: dict[int, Process] = {}
        self._placement = (0, Placement(shard_count=shards))
        self.ended: list[int] = []
        self.folds: dict[int, checker.JournalFold] = {}
        self.transit = checker.Transit()
        self.books = {shard: Books() for shard in range(shards)}
        """What `quartermaster verify` makes of the journals."""
        self.on_answer: Callable[[int, Reply], None] = lambda corr, reply: None
        self.on_recovered: Callable[[int, ShardCore | ControlCore], None] = lambda shard, core: None
        self._channel_ms: dict[tuple[int, int], int] = {}
        self.slow_replies_ms = 0
        """How much later answers to other shards leave than what their followers are shown."""
        self.start(CONTROL_SHARD)
        self._put_config(list(documents if documents is not None else a_network(shards=shards, nodes=2 * shards)))
        for shard in range(shards):
            self.start(shard)
        self.run(200)
        assert all(self.processes[shard].core is not None for shard in range(shards)), "a shard did not start"
        for shard in range(shards):
            catalog = self.core(shard).catalog
            owned = {node for node in range(len(catalog.nodes)) if catalog.owns_node(node)}
            self.folds[shard] = checker.JournalFold(owned, self.transit)
        self.faults = faults
        self.counting = True

    @property
    def placement(self) -> Placement:
        """The map that is in force: what the control shard has made durable."""
        control = self.processes[CONTROL_SHARD].core
        if isinstance(control, ControlCore) and self._placement[0] != control.durable_version == control.state.version:
            self._placement = (control.durable_version, placement_of(control.state) or self._placement[1])
        return self._placement[1]

    # -- time -----------------------------------------------------------------------------------------------------

    def clock(self, shard: int) -> int:
        """The wall clock of a shard's machine."""
        return self.now_ms + (self.skew_ms[shard] if shard < self.shards else 0)

    def happens(self, rate: float) -> bool:
        return rate > 0 and self.random.random() < rate

    def delay(self) -> int:
        return self.random.randint(0, self.faults.delay_ms)

    def after(self, delay_ms: int, do: Callable[[], None], process: Process | None = None) -> None:
        """Do something later, unless the process it belongs to is dead by then."""
        self._tie += 1
        heapq.heappush(self._events, (self.now_ms + delay_ms, self._tie, process, do))

    def run(self, for_ms: int) -> None:
        """Let time pass."""
        until = self.now_ms + for_ms
        while self._events and self._events[0][0] <= until:
            self.now_ms, _, process, do = heapq.heappop(self._events)
            if process is None or process.alive:
                do()
        self.now_ms = until

    def step(self, process: Process) -> bool:
        """Count a step of a shard; True = it dies instead of taking it."""
        if not self.counting:
            return False
        self.steps += 1
        if self.steps in self.crash_at or self.happens(self.faults.crash):
            self.crash(process)
            return process.alive is False
        return False

    # -- processes ------------------------------------------------------------------------------------------------

    def core(self, shard: int) -> ShardCore:
        core = self.processes[shard].core
        assert isinstance(core, ShardCore)
        return core

    def cores(self) -> list[ShardCore]:
        """Of all shards that have not ended."""
        return [self.core(shard) for shard in range(self.shards) if shard not in self.ended]

    def crash(self, process: Process) -> None:
        """The process dies, or is cut off and runs on for a while; another copy takes over."""
        if self.processes.get(process.shard) is not process:
            process.alive = False  # a zombie meets its end
            return
        if not self.happens(self.faults.zombie):
            process.alive = False
        else:
            self.after(self.random.randint(10, 2_000), lambda: setattr(process, "alive", False))
        shard = process.shard
        self.after(self.random.randint(0, 300), lambda: self.start(shard))

    def add_shard(self) -> None:
        """What a supervisor does once the map has a shard more."""
        shard = self.shards
        self.shards += 1
        self.skew_ms.append(0)
        self.journals[shard], self.books[shard] = SimJournal(), Books()
        self.folds[shard] = checker.JournalFold(set(), self.transit)
        self.start(shard)

    def end_shard(self, shard: int) -> None:
        """What it does once the map says that one has ended: its journal stays, its process does not come back."""
        self.ended.append(shard)
        process = self.processes.pop(shard)
        process.alive = False
        for other in self.processes.values():
            if other.core is not None:
                other.core.disconnected(process.conn)

    def start(self, shard: int) -> None:
        if shard in self.ended:
            return  # it died just before
        old = self.processes.get(shard)
        process = self.processes[shard] = Process(self, shard)
        if old is not None:
            for other in self.processes.values():
                if other.core is not None and other is not process:
                    other.core.disconnected(old.conn)
        if shard == CONTROL_SHARD:
            process.recover()
            for follower in list(self.processes.values()):  # as a broken connection is made again
                if follower is not process:
                    self._follow_config(follower)
        else:
            self._follow_config(process)

    def _follow_config(self, process: Process) -> None:
        control = self.processes[CONTROL_SHARD]
        control.receive(process.conn, 0, FollowConfig(process.catalog.version))

    def _follow_views(self, process: Process) -> None:
        """Views of all others, and theirs of this one."""
        for other in self.processes.values():
            if other.shard not in (process.shard, CONTROL_SHARD) and other.core is not None:
                self._follow_view(process, other)
                self._follow_view(other, process)

    def _follow_view(self, follower: Process, owner: Process) -> None:
        owner.receive(follower.conn, 0, FollowView(follower.shard))

    def _put_config(self, documents: list[Document]) -> None:
        control = self.processes[CONTROL_SHARD]
        for n, kind in enumerate(_KIND_ORDER):
            chosen = [d for d in documents if _kind(d) == kind]
            if chosen:
                control.receive(CLIENT, -n - 1, PutConfig(kind, tuple(msgspec.json.encode(d) for d in chosen)))
        self.run(100)

    def put_document(self, document: Document) -> None:
        """Change the configuration while the cluster runs."""
        command = PutConfig(_kind(document), (msgspec.json.encode(document),))
        self.processes[CONTROL_SHARD].receive(CLIENT, -1, command)

    def folded(self, shard: int, append: Append) -> None:
        """An entry landed: the independent model takes it."""
        if shard in self.books:
            for _ in self.books[shard].apply(append.seq, append.time_ms, append.payload):
                pass
        if shard in self.folds:
            self.folds[shard].add(append.seq, _events.decode(append.payload))

    # -- network --------------------------------------------------------------------------------------------------

    def submit(self, shard: int, corr: int, command: Command) -> None:
        """A client's command, over a network that may lose it."""

        def arrive() -> None:
            process = self.processes.get(shard)
            if process is not None:
                process.receive(CLIENT, corr, command)

        self._lossy(arrive)

    def _lossy(self, arrive: Callable[[], None], later_ms: int = 0) -> None:
        if not self.happens(self.faults.loss):
            self.after(self.delay() + later_ms, arrive)
        if self.happens(self.faults.repeat):
            self.after(self.delay() * 3, arrive)

    def deliver_command(self, sender: Process, shard: int, corr: int, command: Command) -> None:
        def arrive() -> None:
            process = self.processes.get(shard)
            if process is not None:
                process.receive(sender.conn, corr, command)

        self._lossy(arrive)

    def deliver_answer(self, sender: Process, conn: int, corr: int, reply: Reply) -> None:
        if conn == CLIENT:
            self._lossy(lambda: self.on_answer(corr, reply))
            return
        follower = self.by_conn[conn]
        if corr:
            self._lossy(lambda: self._peer_replied(follower, sender.shard, corr, reply), self.slow_replies_ms)
            return
        if self.happens(self.faults.break_connection) and isinstance(sender.core, ShardCore):
            sender.core.disconnected(conn)
            self.after(self.delay(), lambda: self._follow_view(follower, self.processes[sender.shard]))
            return
        key = (sender.incarnation, follower.incarnation)  # what is followed arrives in order
        at = max(self.now_ms + self.delay(), self._channel_ms.get(key, 0))
        self._channel_ms[key] = at
        self.after(at - self.now_ms, lambda: self._followed(follower, sender, reply))

    def _peer_replied(self, process: Process, shard: int, corr: int, reply: Reply) -> None:
        if process.alive and isinstance(process.core, ShardCore):
            process.core.peer_replied(shard, corr, reply, now_ms=self.clock(process.shard))
            process.wake()

    def _followed(self, follower: Process, sender: Process, reply: Reply) -> None:
        if not follower.alive:
            return
        if self.processes.get(sender.shard) is not sender:
            return  # whoever follows has a connection to one copy only: the newer one
        if not isinstance(reply, ConfigReply):
            self._peer_replied(follower, sender.shard, 0, reply)
            return
        if follower.core is None:
            follower.catalog.apply(reply.documents, reply.version)
            if not reply.more:
                follower.recover()
                self._follow_views(follower)
        elif isinstance(follower.core, ShardCore):
            follower.core.configure(reply.documents, reply.version)
            follower.wake()

    # -- the end --------------------------------------------------------------------------------------------------

    def calm_down(self, *, for_ms: int) -> None:
        """Faults stop, the dead are started, and time passes; then everything must agree."""
        self.faults = replace(CALM, delay_ms=self.faults.delay_ms)
        self.counting = False
        self.run(for_ms)
        for _ in range(1_000):  # what waits is tried again now and then: look between two attempts
            if self._is_quiet():
                self.run(60)
                if self._is_quiet():
                    break
            self.run(20)
        cores = self.cores()
        for core in cores:
            checker.check_core(core)
        checker.check_agreement(cores)
        checker.check_views(cores)
        checker.check_books(cores, self.books)
        checker.check_supply(cores, self.transit)
        control = self.processes[CONTROL_SHARD].core
        assert isinstance(control, ControlCore)
        checker.check_configuration(cores, control)

    def _is_quiet(self) -> bool:
        return all(core.two_phase.pending_count == core.driver.count == 0 for core in self.cores())


def _kind(document: Document) -> str:
    from engine.domain.config import KINDS

    return next(kind for kind, cls in KINDS.items() if type(document) is cls)


assert set(_KIND_ORDER) <= set(KEY_FIELD)
