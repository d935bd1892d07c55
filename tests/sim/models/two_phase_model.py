"""Every interleaving of one cross-shard order: home record, no leg TTL, drives by version, questions, crashes on both sides.

Home (durable): epoch, record = (state, txn, version, driving). Home (memory): the pending transaction.
Participant (durable): leg = (txn, state, version), version 0 = home has not spoken about it. Participant (memory): tombstones.
An order is held, allocated, perhaps cut down to less (part of it is cancelled), ended.
Network: the set of all messages ever sent; each may arrive at any time, any number of times, in any order, or never.

What is checked: while home's record lives, its leg is held under the same transaction (nothing promised is ever free again), and
once home has its acknowledgement, as home decided. Wherever faults stop, the two come to agree, although every message was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.sim.models.explore import Result, explore

NONE, HELD, ALLOCATED, LESS, ENDED = "none", "held", "allocated", "less", "ended"
_LIVE = (HELD, ALLOCATED, LESS)
EPOCHS_MAX = 2
TXNS_MAX = 2
PARTICIPANT_CRASHES_MAX = 1

Message = tuple[str, int, str, int]
"""(kind, transaction, target or verdict, version)"""


class Leg(NamedTuple):
    txn: int
    state: str
    version: int


class State(NamedTuple):
    epoch: int = 1
    counter: int = 0
    pending: int = 0
    record: str = NONE
    record_txn: int = 0
    version: int = 0
    driving: bool = False
    leg: Leg | None = None
    tombs: frozenset[int] = frozenset()
    crashes: int = 0
    sent: frozenset[Message] = frozenset()

    def send(self, *messages: Message) -> State:
        return self._replace(sent=self.sent | set(messages))


class Rules(NamedTuple):
    """What the mutants switch off or on."""

    versions: bool = True
    resolve_drives_again: bool = True
    asks_about_all: bool = True
    tombstones: bool = True
    leg_ttl: bool = False
    pending_means_aborted: bool = False
    drive_before_durable: bool = False
    driving_survives_crash: bool = True


def steps(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    yield from _home(state, rules)
    yield from _participant(state, rules)
    for message in sorted(state.sent):
        yield from _arrives(state, message, rules)


def _home(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if s.record == NONE and not s.pending and s.counter < TXNS_MAX:
        txn = s.epoch * 10 + s.counter + 1
        yield f"home tries {txn}", s._replace(counter=s.counter + 1, pending=txn).send(("try", txn, "", 0))
    if s.pending:
        yield "home gives up", s._replace(pending=0).send(("drive", s.pending, ENDED, 0))
    if s.record == HELD:
        after = s._replace(record=ALLOCATED, version=s.version + 1, driving=True)
        yield "home commits", after
        if rules.drive_before_durable:
            yield "home drives, then forgets", s.send(("drive", s.record_txn, ALLOCATED, s.version + 1))
    if s.record == ALLOCATED:
        yield "home cuts it down", s._replace(record=LESS, version=s.version + 1, driving=True)
    if s.record in _LIVE:
        yield "home ends it", s._replace(record=ENDED, version=s.version + 1, driving=True)
    if s.driving:
        yield "home drives", s.send(("drive", s.record_txn, s.record, s.version))
    if s.epoch < EPOCHS_MAX:
        yield (
            "home crashes",
            s._replace(epoch=s.epoch + 1, pending=0, driving=s.driving and rules.driving_survives_crash),
        )


def _participant(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if s.leg is not None and (rules.asks_about_all or not s.leg.version):
        yield "participant asks", s.send(("ask", s.leg.txn, "", 0))
    if s.leg is not None and rules.leg_ttl and s.leg.state == HELD:
        yield "leg expires by itself", s._replace(leg=None)
    if s.crashes < PARTICIPANT_CRASHES_MAX:
        yield "participant crashes", s._replace(crashes=s.crashes + 1, tombs=frozenset())


def _arrives(s: State, message: Message, rules: Rules) -> Iterator[tuple[str, State]]:
    kind, txn, word, version = message
    name = f"{kind} {txn} {word} {version} arrives"
    if kind == "try":
        if txn in s.tombs:
            return
        if s.leg is None or (s.leg.txn < txn and not s.leg.version):
            yield name, s._replace(leg=Leg(txn, HELD, 0)).send(("ok", txn, "", 0))
        elif s.leg.txn == txn:
            yield name, s.send(("ok", txn, "", 0))
    elif kind == "ok" and s.pending == txn:
        yield name, s._replace(pending=0, record=HELD, record_txn=txn, version=1)
    elif kind == "drive":
        yield name, _driven(s, txn, word, version, rules)
    elif kind == "ack" and s.driving and s.record_txn == txn and s.version == version:
        yield name, s._replace(driving=False)
    elif kind == "ask":
        yield name, _asked(s, txn, rules)
    elif kind == "say" and word == "aborted" and s.leg is not None and s.leg.txn == txn and not s.leg.version:
        yield name, s._replace(leg=None, tombs=s.tombs | {txn} if rules.tombstones else s.tombs)


def _driven(s: State, txn: int, target: str, version: int, rules: Rules) -> State:
    tombs = s.tombs | {txn} if rules.tombstones and target == ENDED else s.tombs
    if s.leg is None or s.leg.txn != txn:
        return s._replace(tombs=tombs).send(("ack", txn, "", version)) if target == ENDED else s
    if s.leg.version and version <= s.leg.version and rules.versions:
        return s.send(("ack", txn, "", version))
    leg = None if target == ENDED else Leg(txn, target, version)
    return s._replace(leg=leg, tombs=tombs).send(("ack", txn, "", version))


def _asked(s: State, txn: int, rules: Rules) -> State:
    if s.record_txn == txn:
        if s.record != HELD and rules.resolve_drives_again:
            s = s.send(("drive", txn, s.record, s.version))
        return s
    if s.pending == txn and not rules.pending_means_aborted:
        return s  # "pending": the participant waits on
    return s.send(("say", txn, "aborted", 0))


def broken(s: State) -> str:
    if s.record in _LIVE and (s.leg is None or s.leg.txn != s.record_txn):
        return f"the record lives ({s.record}) but its units are not held: {s.leg}"
    if s.leg is not None and s.leg.state != HELD and (s.record in (NONE, HELD) or s.leg.txn != s.record_txn):
        return "a leg is allocated that home never committed"
    if s.record in _LIVE and not s.driving and s.leg is not None and s.leg.state != s.record:
        return f"home believes the leg is {s.record}, it is {s.leg}"
    return ""


def agree(s: State) -> bool:
    """At rest: nothing pending or driven, and the leg is as the record says."""
    if s.pending or s.driving:
        return False
    if s.record in (NONE, ENDED):
        return s.leg is None
    return s.leg is not None and (s.leg.txn, s.leg.state) == (s.record_txn, s.record)


_FREE_WILL = ("home tries", "home commits", "home cuts", "home ends", "home gives")
"""What nobody need do; giving up on a transaction is what its time limit does, so it is fair after all."""


def check(rules: Rules) -> Result:
    return explore(
        State(),
        lambda state: steps(state, rules),
        broken,
        at_rest=agree,
        fair=lambda name: "crash" not in name and not name.startswith(_FREE_WILL[:-1]) and "by itself" not in name,
        messages_lost=lambda state: state._replace(sent=frozenset()),
    )
