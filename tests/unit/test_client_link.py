"""One connection to one shard: what is sent again, what never is, and what a link does when the other side misbehaves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.client import link as link_module
from engine.client.link import CREDITS_KEPT, ITEMS_PER_FRAME_WANTED, ShardLink, host_id
from engine.domain.commands import (
    AdjustStock,
    Command,
    CommitHold,
    FollowConfig,
    GetOrder,
    PutConfig,
    StockMove,
    TryLegs,
)
from engine.domain.replies import ConfigReply, Done, Problem, Reply
from engine.journal.discovery import Found
from engine.protocol.wire import (
    CREDITS,
    PROTOCOL_VERSION,
    FrameReader,
    Replies,
    Welcome,
    decode_commands,
    decode_hello,
    frame,
)
from tests.conftest import eventually


class FakeShard:
    """Speaks the shard's side of the wire; a test reads `frames` and answers by hand, or sets `answers`."""

    def __init__(self, folder: Path, *, epoch: int = 7) -> None:
        self.folder = folder
        self.epoch = epoch
        self.answers = False
        self.frames: list[list[tuple[int, Command]]] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.welcomes = True
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None
        self.path = ""

    async def start(self) -> FakeShard:
        self.path = str(self.folder / f"{next(self._numbers)}.sock")
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def find(self, shard: int) -> Found:
        return Found(shard, self.epoch, (f"unix:{host_id()}:{self.path}",))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut, welcomed = FrameReader(), False
        self.connections.append(writer)
        while data := await reader.read(1 << 20):
            for body in cut.feed(data):
                if not welcomed:
                    welcomed = True
                    assert decode_hello(body).version == PROTOCOL_VERSION
                    if self.welcomes:
                        writer.write(frame(Welcome(PROTOCOL_VERSION, 0, self.epoch)))
                    continue
                items = decode_commands(body)
                self.frames.append(items)
                if self.answers:
                    self.answer([(corr, Done(1)) for corr, _ in items], writer)
        writer.close()

    def answer(
        self, items: list[tuple[int, Reply]], writer: asyncio.StreamWriter | None = None, credits: int = 1
    ) -> None:
        (writer or self.connections[-1]).write(frame(Replies(credits, items)))

    @property
    def received(self) -> list[Command]:
        return [command for items in self.frames for _, command in items]

    def hang_up(self) -> None:
        self.connections[-1].transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.connections:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def shard(tmp_path: Path) -> AsyncIterator[FakeShard]:
    shard = await FakeShard(tmp_path).start()
    yield shard
    await shard.close()


@pytest.fixture
async def link(shard: FakeShard) -> AsyncIterator[ShardLink]:
    link = ShardLink(0, shard.find, timeout_s=60.0)
    assert await link.wait_connected(60)
    yield link
    await link.close()


def read(n: int = 1) -> GetOrder:
    return GetOrder("US100", n)


# -- what is sent again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        AdjustStock("N-1", (StockMove("SKU-1", "received", 5),)),
        CommitHold("US100", 1),
        PutConfig("item", (b"{}",)),
        TryLegs(1, 1, "US100", 1, ()),
    ],
    ids=lambda command: type(command).__name__,
)
async def test_a_command_without_a_key_is_never_sent_twice(link: ShardLink, shard: FakeShard, command: Command) -> None:
    """It may have been done: its outcome is unknown, and only the caller can find out."""
    future = link.submit(command)
    await eventually(lambda: shard.frames)
    shard.hang_up()
    reply = await asyncio.wait_for(future, 30)
    assert isinstance(reply, Problem)
    assert reply.code == "unavailable"
    await eventually(lambda: len(shard.connections) == 2)
    shard.answers = True
    assert await asyncio.wait_for(link.submit(read()), 30) == Done(1)
    assert shard.received == [command, read()]


async def test_what_is_safe_to_repeat_is_sent_again_unchanged(link: ShardLink, shard: FakeShard) -> None:
    commands: list[Command] = [read(), CommitHold("US100", 1, key_hash=5, fingerprint=6)]
    futures = [link.submit(command) for command in commands]
    await eventually(lambda: shard.frames)
    first = shard.frames[0]
    shard.hang_up()
    await eventually(lambda: len(shard.frames) == 2)
    assert shard.frames[1] == first
    shard.answer([(corr, Done(n)) for n, (corr, _) in enumerate(shard.frames[1])])
    assert [await asyncio.wait_for(future, 30) for future in futures] == [Done(0), Done(1)]


async def test_what_nobody_waits_for_any_more_is_not_sent_again(link: ShardLink, shard: FakeShard) -> None:
    future = link.submit(read(1))
    await eventually(lambda: shard.frames)
    future.cancel()
    shard.hang_up()
    await eventually(lambda: len(shard.connections) == 2)
    shard.answers = True
    assert await asyncio.wait_for(link.submit(read(2)), 30) == Done(1)
    assert shard.received == [read(1), read(2)]
    assert link.pending == 0


async def test_what_was_not_sent_yet_goes_out_on_the_next_connection(link: ShardLink, shard: FakeShard) -> None:
    """Also without a key: nobody has heard of it."""
    blockers = []
    for n in range(CREDITS - CREDITS_KEPT):
        blockers.append(link.submit(read(n)))
        await eventually(lambda n=n: len(shard.frames) == n + 1)  # type: ignore[misc]
    waiting = link.submit(CommitHold("US100", 1))
    shard.answers = True
    shard.hang_up()
    assert await asyncio.wait_for(waiting, 30) == Done(1)
    for blocker in blockers:
        assert await asyncio.wait_for(blocker, 30) == Done(1)


async def test_the_first_of_a_crowd_leave_before_the_others_have_come(link: ShardLink, shard: FakeShard) -> None:
    """Full frames go at once, as long as credits last; the rest waits for a credit, not for company."""
    wanted, rest = ITEMS_PER_FRAME_WANTED, 5
    futures = [link.submit(read(n)) for n in range(2 * wanted + rest)]
    assert link.queued == rest
    await eventually(lambda: len(shard.frames) == 2)
    assert [len(items) for items in shard.frames] == [wanted, wanted]
    shard.answers = True
    shard.answer([(corr, Done(1)) for items in shard.frames for corr, _ in items], credits=2)
    await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert [len(items) for items in shard.frames] == [wanted, wanted, rest]
    assert shard.received == [read(n) for n in range(2 * wanted + rest)]


async def test_the_last_credits_are_for_full_frames(link: ShardLink, shard: FakeShard) -> None:
    lone = []
    for n in range(CREDITS - CREDITS_KEPT):
        lone.append(link.submit(read(n)))
        await eventually(lambda n=n: len(shard.frames) == n + 1)  # type: ignore[misc]
    few = [link.submit(read(n)) for n in range(ITEMS_PER_FRAME_WANTED - 1)]
    await asyncio.sleep(0.05)
    assert link.queued == len(few)
    few.append(link.submit(read(99)))
    await eventually(lambda: len(shard.frames) == len(lone) + 1)
    assert len(shard.frames[-1]) == ITEMS_PER_FRAME_WANTED
    shard.answer([(corr, Done(1)) for items in shard.frames for corr, _ in items], credits=len(shard.frames))
    await asyncio.wait_for(asyncio.gather(*lone, *few), 30)


async def test_what_is_queued_leaves_before_replies_are_dealt_with(link: ShardLink, shard: FakeShard) -> None:
    """Dealing with them takes the asker a while, in which the shard may have nothing to do."""
    queued: list[int] = []
    for n in range(CREDITS - CREDITS_KEPT):
        link.tell(read(n), lambda reply: queued.append(link.queued))
        await eventually(lambda n=n: len(shard.frames) == n + 1)  # type: ignore[misc]
    last = link.submit(read(9))
    assert link.queued == 1
    shard.answer([(corr, Done(1)) for items in shard.frames for corr, _ in items], credits=len(shard.frames))
    await eventually(lambda: len(queued) == CREDITS - CREDITS_KEPT)
    assert queued == [0] * len(queued)
    await eventually(lambda: len(shard.frames) == CREDITS - CREDITS_KEPT + 1)
    shard.answer([(corr, Done(1)) for corr, _ in shard.frames[-1]])
    assert await asyncio.wait_for(last, 30) == Done(1)


async def test_an_answer_to_nobody_is_dropped(link: ShardLink, shard: FakeShard) -> None:
    future = link.submit(read())
    await eventually(lambda: shard.frames)
    (corr, _), *_ = shard.frames[0]
    shard.answer([(corr + 1, Done(9)), (3, Done(9)), (corr, Done(1)), (corr, Done(2))])
    assert await asyncio.wait_for(future, 30) == Done(1)
    shard.answers = True
    assert await asyncio.wait_for(link.submit(read()), 30) == Done(1)


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_commands_to_a_shard_that_is_away_leave_nothing_behind(tmp_path: Path) -> None:
    """Hours without a shard must not fill the memory of its askers."""

    async def nowhere(shard: int) -> None:
        return None

    link = ShardLink(0, nowhere, timeout_s=0.05)
    for _ in range(5):
        futures = [link.submit(read(n)) for n in range(1_000)]
        replies = await asyncio.wait_for(asyncio.gather(*futures), 30)
        assert {reply.code for reply in replies if isinstance(reply, Problem)} == {"unavailable"}
    await eventually(lambda: link.queued == 0)
    assert link.pending == 0
    await link.close()


async def test_large_commands_are_spread_over_frames(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they would be more than a frame may be; each goes, in order, and no credit is used twice."""
    monkeypatch.setattr(link_module, "FRAME_BYTES_WANTED", 10_000)
    shard.answers = True
    commands = [PutConfig("item", (bytes(4_000),), key_hash=n + 1) for n in range(20)]
    replies = await asyncio.wait_for(asyncio.gather(*(link.submit(command) for command in commands)), 30)
    assert replies == [Done(1)] * 20
    assert shard.received == commands
    assert max(len(items) for items in shard.frames) <= 2
    again = await asyncio.wait_for(asyncio.gather(*(link.submit(read(n)) for n in range(20))), 30)
    assert again == [Done(1)] * 20


async def test_a_command_that_no_frame_can_hold_is_refused_alone(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "FRAME_BYTES_MAX", 20_000)
    monkeypatch.setattr(link_module, "FRAME_BYTES_WANTED", 10_000)
    shard.answers = True
    huge = link.submit(PutConfig("item", (bytes(30_000),)))
    small = link.submit(read())
    reply = await asyncio.wait_for(huge, 30)
    assert isinstance(reply, Problem)
    assert reply.code == "body_too_large"
    assert await asyncio.wait_for(small, 30) == Done(1)
    assert shard.received == [read()]


async def test_a_full_queue_refuses_at_once(link: ShardLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "QUEUE_MAX", 3)
    futures = [link.submit(read(n)) for n in range(3)]
    reply = await asyncio.wait_for(link.submit(read(4)), 30)
    assert isinstance(reply, Problem)
    assert reply.code == "overloaded"
    assert not any(future.done() for future in futures)


# -- a peer that misbehaves ------------------------------------------------------------------------------------------


async def test_a_shard_that_gives_no_sign_of_life_is_looked_up_again(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process, a cut cable: the connection stands, and says nothing."""
    monkeypatch.setattr(link_module, "STALL_S", 0.3)
    future = link.submit(read())
    await eventually(lambda: shard.frames)
    shard.answers = True
    assert await asyncio.wait_for(future, 30) == Done(1)
    assert len(shard.connections) >= 2


async def test_a_quiet_connection_is_left_alone(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "STALL_S", 0.6)
    shard.answers = True
    started = time.monotonic()
    await eventually(lambda: time.monotonic() > started + 1.5)
    assert await asyncio.wait_for(link.submit(read()), 30) == Done(1)
    assert len(shard.connections) == 1


async def test_a_copy_that_was_cut_off_is_left_for_the_newest_one(
    link: ShardLink, shard: FakeShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot reach the journal, so it never learns that it was replaced; it answers `unavailable` for ever."""
    monkeypatch.setattr(link_module, "DOUBT_S", 0.1)
    (tmp_path / "new").mkdir()
    newest = await FakeShard(tmp_path / "new", epoch=8).start()
    newest.answers = True
    link._find = newest.find
    future = link.submit(read())
    await eventually(lambda: shard.frames)
    shard.answer([(corr, link_module.unavailable()) for corr, _ in shard.frames[0]])
    assert isinstance(await future, Problem)
    await eventually(lambda: newest.connections)
    assert await asyncio.wait_for(link.submit(read()), 30) == Done(1)
    await newest.close()


async def test_unavailable_of_the_newest_copy_is_no_reason_to_leave_it(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "DOUBT_S", 0.05)
    looked_up = 0
    find = shard.find

    async def counted(number: int) -> Found:
        nonlocal looked_up
        looked_up += 1
        return await find(number)

    link._find = counted
    for n in range(10):
        future = link.submit(read(n))
        await eventually(lambda n=n: len(shard.frames) == n + 1)  # type: ignore[misc]
        shard.answer([(corr, link_module.unavailable()) for corr, _ in shard.frames[-1]])
        await future
    await eventually(lambda: looked_up)
    assert len(shard.connections) == 1


async def test_an_address_that_makes_no_sense_is_passed_over(shard: FakeShard) -> None:
    async def find(number: int) -> Found:
        return Found(number, 7, ("tcp:nowhere:port", "tcp::", "what", f"unix:{host_id()}:{shard.path}"))

    link = ShardLink(0, find)
    assert await link.wait_connected(5)
    await link.close()


async def test_an_attempt_that_ends_late_does_not_harm_the_connection_that_replaced_it(
    shard: FakeShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address takes the connection and says nothing; it is closed while the second one is in use already."""
    monkeypatch.setattr(link_module, "CONNECT_TIMEOUT_S", 0.1)
    (tmp_path / "mute").mkdir()
    mute = await FakeShard(tmp_path / "mute").start()
    mute.welcomes = False

    async def find(number: int) -> Found:
        return Found(number, 7, (f"unix:{host_id()}:{mute.path}", f"unix:{host_id()}:{shard.path}"))

    link = ShardLink(0, find, timeout_s=60.0)
    shard.answers = True
    assert await link.wait_connected(60)
    await mute.close()
    for n in range(3):
        assert await asyncio.wait_for(link.submit(read(n)), 30) == Done(1)
    await link.close()


async def test_closing_a_link_that_is_just_connecting_closes_its_socket(tmp_path: Path) -> None:
    shard = await FakeShard(tmp_path).start()
    shard.welcomes = False
    link = ShardLink(0, shard.find)
    await eventually(lambda: shard.connections)
    await link.close()
    await eventually(lambda: shard.connections[0].is_closing() or shard.connections[0].transport.is_closing())
    await shard.close()


# -- subscriptions ---------------------------------------------------------------------------------------------------


async def test_a_subscription_is_made_again_on_every_connection_with_what_is_known_by_then(
    link: ShardLink, shard: FakeShard
) -> None:
    version = 0

    def on_reply(reply: Reply) -> None:
        nonlocal version
        assert isinstance(reply, ConfigReply)
        version = reply.version

    link.subscribe(1, lambda: FollowConfig(version), on_reply)
    await eventually(lambda: shard.frames)
    shard.answer([(1, ConfigReply((), 5))])
    await eventually(lambda: version == 5)
    shard.hang_up()
    await eventually(lambda: len(shard.frames) == 2)
    assert shard.received == [FollowConfig(0), FollowConfig(5)]


async def test_a_subscription_that_is_refused_is_asked_for_less_and_less_often(
    link: ShardLink, shard: FakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "RESUBSCRIBE_MIN_S", 0.01)
    monkeypatch.setattr(link_module, "RESUBSCRIBE_MAX_S", 0.1)
    asked_s: list[float] = []

    def make() -> FollowConfig:
        asked_s.append(time.monotonic())
        return FollowConfig(0)

    link.subscribe(1, make, lambda reply: None)
    for n in range(8):
        await eventually(lambda n=n: len(shard.frames) == n + 1)  # type: ignore[misc]
        shard.answer([(1, link_module.unavailable())])
    for n, (before, after) in enumerate(itertools.pairwise(asked_s)):
        assert after - before >= 0.9 * min(0.1, 0.01 * 2**n)
