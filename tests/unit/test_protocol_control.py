"""The control shard: puts, rules, versions, followers, recovery."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.domain.commands import Command, FollowConfig, GetConfig, GetStatus, ListConfig, PutConfig, ReleaseHold
from engine.domain.config import Document, NodeCapacity, Placement, RateCard
from engine.domain.replies import ConfigReply, Problem, Reply, StatusReply
from engine.protocol.control_core import PAGE_DOCUMENTS, ControlCore
from tests.builders import NOW_MS, a_carrier, a_channel, a_node, a_service, an_item


class Control:
    """A control core on a list for a journal."""

    def __init__(self) -> None:
        self.core = ControlCore()
        self.core.recovered(epoch=1, seq=0, time_ms=0, now_ms=NOW_MS)
        self.entries: list[tuple[int, int, bytes]] = []
        self.replies: dict[tuple[int, int], list[Reply]] = {}
        self.corr = 0

    def poll(self, *, durable: bool = True) -> None:
        wake: int | None = NOW_MS
        while wake is not None and wake <= NOW_MS:
            effects = self.core.poll(now_ms=NOW_MS)
            for answer in effects.answers:
                self.replies.setdefault((answer.conn, answer.corr), []).append(answer.reply)
            wake = effects.wake_at_ms
            if effects.append is not None:
                self.entries.append((effects.append.seq, effects.append.time_ms, effects.append.payload))
                if not durable:
                    return
                self.core.appended(effects.append.seq)
                wake = NOW_MS

    def ask(self, command: Command) -> Any:
        self.corr += 1
        self.core.receive(1, self.corr, command, now_ms=NOW_MS)
        self.poll()
        return self.replies[(1, self.corr)][-1]

    def put(self, kind: str, *documents: Document | dict[str, Any], **fields: Any) -> Any:
        return self.ask(PutConfig(kind, tuple(msgspec.json.encode(d) for d in documents), **fields))


@pytest.fixture
def control() -> Control:
    return Control()


def fault(reply: Reply, n: int = 0) -> tuple[str, str, str]:
    assert isinstance(reply, Problem), reply
    return reply.code, reply.errors[n].pointer, reply.errors[n].detail


def test_a_document_keeps_its_index_and_gets_a_version_with_every_change(control: Control) -> None:
    first = control.put("item", an_item("A"), an_item("B"))
    assert [(d.name, d.index, d.version) for d in first.documents] == [("A", 0, 1), ("B", 1, 2)]
    again = control.put("item", an_item("A", weight_g=5))
    assert [(d.name, d.index, d.version) for d in again.documents] == [("A", 0, 3)]
    assert control.ask(GetConfig("item", "A")) == again


def test_an_unchanged_document_is_not_journaled_again(control: Control) -> None:
    control.put("item", an_item("A"))
    reply = control.put("item", an_item("A"), an_item("B"))
    assert [(d.name, d.version) for d in reply.documents] == [("A", 1), ("B", 2)]
    assert len(control.entries) == 2
    assert control.put("item", an_item("A")).documents[0].version == 1
    assert len(control.entries) == 2


def test_a_version_that_was_overtaken_is_refused_with_the_version_there_is(control: Control) -> None:
    control.put("channel", a_channel())
    assert control.put("channel", a_channel(name="Web"), if_version=1).version == 2
    reply = control.put("channel", a_channel(name="Shop"), if_version=1)
    assert reply.code == "version_mismatch"
    assert reply.errors[0].facts["version"] == 2
    assert control.put("channel", a_channel("b"), if_version=7).code == "version_mismatch"
    assert control.put("channel", a_channel("b"), if_version=0).version == 3


def test_a_repeated_key_gets_the_documents_again_and_another_body_is_refused(control: Control) -> None:
    first = control.put("item", an_item("A"), key_hash=9, fingerprint=1)
    assert control.put("item", an_item("A"), key_hash=9, fingerprint=1) == first
    assert control.put("item", an_item("A", weight_g=1), key_hash=9, fingerprint=2).code == "key_reused"
    assert len(control.entries) == 1


@pytest.mark.parametrize(
    ("kind", "document", "pointer"),
    [
        ("item", {"sku": "A", "weight_g": -1}, "/weight_g"),
        ("item", {"sku": "A", "wheight_g": 1}, "/wheight_g"),
        ("item", {"name": "A"}, "/sku"),
        ("item", {"sku": "A\0"}, "/sku"),
        ("item", {"sku": "A\n"}, "/sku"),
        ("item", {"sku": "A", "tags": ["ok", "not ok"]}, "/tags/1"),
        ("item", {"sku": "A", "components": [{"sku": "B", "quantity": 1}]}, "/components/0/sku"),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 91, "lon": 0}, "/lat"),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "time_zone": "Mars/Olympus"}, "/time_zone"),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "time_zone": "../etc"}, "/time_zone"),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "holidays": ["2026-02-30"]}, "/holidays/0"),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "channels": ["x"]}, "/channels/0"),
        (
            "node",
            {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "acceptance_deadline_s": 0},
            "/acceptance_deadline_s",
        ),
        (
            "node",
            {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "safety_by_method": {"drone": 1}},
            "/safety_by_method/drone",
        ),
        ("node", {"node_id": "N", "postal_code": "1", "lat": 1, "lon": 0, "capacity": {}}, "/capacity/per_day"),
        ("placement", {"shard_count": 2, "nodes": {"N": 0}}, "/nodes/N"),
        ("placement", {"shard_count": 2, "slots": {"US100": 2}}, "/slots/US100"),
        ("placement", {"shard_count": 0}, "/shard_count"),
    ],
)
def test_a_fault_is_pointed_at(control: Control, kind: str, document: dict[str, Any], pointer: str) -> None:
    code, found, detail = fault(control.put(kind, document))
    assert (code, found) == ("invalid_field", pointer), detail
    assert not control.entries


def test_text_that_is_not_json_is_a_problem(control: Control) -> None:
    assert control.ask(PutConfig("item", (b"{",))).code == "invalid_field"
    assert control.ask(PutConfig("item", (b"\xff",))).code == "invalid_field"
    assert control.ask(PutConfig("nodes", (b"{}",))).code == "invalid_field"
    assert control.ask(PutConfig("item", ())).code == "invalid_field"
    assert control.ask(PutConfig("item", (b" " * 2_000_000,))).code == "body_too_large"


def test_all_or_none_of_a_command_is_stored_and_every_fault_is_listed(control: Control) -> None:
    reply = control.put("item", an_item("A"), {"sku": ""}, an_item("B"), {"sku": "C", "weight_g": "x"})
    assert [(e.facts["document"], e.pointer) for e in reply.errors] == [(1, "/sku"), (3, "/weight_g")]
    assert control.ask(GetConfig("item", "A")).code == "not_found"


def test_a_kit_holds_items_but_no_kits(control: Control) -> None:
    control.put("item", an_item("A"), an_item("B"))
    assert control.put("item", an_item("KIT", components={"A": 1, "B": 2})).documents
    assert fault(control.put("item", an_item("K2", components={"KIT": 1})))[1] == "/components/0/sku"
    assert fault(control.put("item", an_item("A", components={"B": 1})))[1] == "/components"
    assert fault(control.put("item", an_item("X", components={"Y": 1}), an_item("Y", components={"A": 1})))[0]
    assert control.put("item", an_item("K3", components={"NEW": 1}), an_item("NEW")).documents
    control.put("item", an_item("KIT"))  # no longer a kit
    control.put("item", an_item("K3"))
    assert control.put("item", an_item("B", components={"A": 1})).documents


def test_a_carrier_s_bands_prices_and_places_must_fit(control: Control) -> None:
    card = RateCard(break_g=[1, 2], price_minor=[[1, 2]])
    assert (
        fault(control.put("carrier", a_carrier(services=[a_service(cards=[card])])))[1]
        == "/services/0/cards/0/price_minor"
    )
    card = RateCard(break_g=[1, 2], price_minor=[[1, 2], [1]])
    reply = control.put("carrier", a_carrier(services=[a_service(cards=[card])]))
    assert fault(reply)[1] == "/services/0/cards/0/price_minor/1"
    assert (
        fault(control.put("carrier", a_carrier(services=[a_service(transit_days=[1])])))[1]
        == "/services/0/transit_days"
    )
    assert fault(control.put("carrier", a_carrier(services=[a_service(band_km=[9, 9])])))[1] == "/services/0/band_km"
    control.put("carrier", a_carrier(services=[a_service("ground"), a_service("air")]))
    assert fault(control.put("carrier", a_carrier(services=[a_service("air"), a_service("ground")])))[1] == "/services"
    assert control.put(
        "carrier", a_carrier(services=[a_service("ground"), a_service("air"), a_service("sea")])
    ).documents


def test_an_edit_never_moves_a_node_to_another_shard(control: Control) -> None:
    control.put("node", a_node("N", postal_code="10001"))
    assert control.put("placement", Placement(shard_count=2)).documents
    assert fault(control.put("node", a_node("N", postal_code="90001")))[1] == "/postal_code"
    assert control.put("node", a_node("N", postal_code="10999")).documents
    assert fault(control.put("placement", Placement(shard_count=3)))[1] == "/shard_count"
    assert fault(control.put("placement", Placement(shard_count=2, nodes={"N": 1})))[1] == "/nodes/N"
    assert fault(control.put("placement", Placement(shard_count=2, slots={"US100": 1})))[1] == "/slots/US100"
    assert control.put("placement", Placement(shard_count=2, nodes={"N": 0})).documents
    assert control.put("node", a_node("N", postal_code="90001", capacity=NodeCapacity(per_day=5))).documents


def test_a_list_is_in_name_order_and_in_pages(control: Control) -> None:
    control.put("item", *[an_item(f"S{n:03d}") for n in (5, 1, 3, 2, 4)])
    page = control.ask(ListConfig("item", limit=2))
    assert [d.name for d in page.documents] == ["S001", "S002"]
    assert page.more
    page = control.ask(ListConfig("item", after=page.cursor, limit=9))
    assert [d.name for d in page.documents] == ["S003", "S004", "S005"]
    assert not page.more
    control.put("placement", Placement(shard_count=1))
    assert [d.name for d in control.ask(ListConfig("placement")).documents] == [""]


def test_a_follower_gets_what_it_missed_in_pages_and_then_every_durable_change(control: Control) -> None:
    control.put("item", *[an_item(f"S{n}") for n in range(1_500)])
    control.put("item", *[an_item(f"T{n}") for n in range(700)])
    control.put("channel", a_channel())
    control.core.receive(2, 1, FollowConfig(10), now_ms=NOW_MS)
    control.poll()
    pages = control.replies.pop((2, 1))
    assert all(isinstance(p, ConfigReply) and len(p.documents) <= PAGE_DOCUMENTS for p in pages)
    versions = [d.version for p in pages for d in p.documents]  # type: ignore[union-attr]
    assert versions == list(range(11, 2_202))
    assert [p.more for p in pages] == [True] * (len(pages) - 1) + [False]  # type: ignore[union-attr]

    control.core.receive(1, 99, PutConfig("channel", (msgspec.json.encode(a_channel(name="x")),)), now_ms=NOW_MS)
    control.poll(durable=False)
    assert (2, 1) not in control.replies, "a change that is not durable was shown"
    assert (1, 99) not in control.replies
    control.core.appended(control.entries[-1][0])
    control.poll()
    (page,) = control.replies[(2, 1)]
    assert isinstance(page, ConfigReply)
    assert [(d.kind, d.version) for d in page.documents] == [("channel", 2_202)]
    assert page.version == 2_202


def test_a_follower_that_starts_during_an_append_is_shown_the_durable_document(control: Control) -> None:
    control.put("channel", a_channel(name="old"))
    control.core.receive(1, 99, PutConfig("channel", (msgspec.json.encode(a_channel(name="new")),)), now_ms=NOW_MS)
    control.poll(durable=False)
    control.core.receive(2, 1, FollowConfig(0), now_ms=NOW_MS)
    control.poll()
    (page,) = control.replies[(2, 1)]
    assert isinstance(page, ConfigReply)
    assert [(d.version, b"old" in d.document) for d in page.documents] == [(1, True)]
    control.core.appended(control.entries[-1][0])
    control.poll()
    page = control.replies[(2, 1)][-1]
    assert isinstance(page, ConfigReply)
    assert [(d.version, b"new" in d.document) for d in page.documents] == [(2, True)]


def test_a_follower_of_some_kinds_still_learns_the_version(control: Control) -> None:
    control.core.receive(2, 1, FollowConfig(0, ("channel",)), now_ms=NOW_MS)
    control.poll()
    control.put("item", an_item("A"))
    last = control.replies[(2, 1)][-1]
    assert isinstance(last, ConfigReply)
    assert (last.documents, last.version) == ((), 1)
    control.core.disconnected(2)
    control.put("item", an_item("B"))
    assert len(control.replies[(2, 1)]) == 2


def test_a_follower_from_another_history_is_refused(control: Control) -> None:
    assert control.ask(FollowConfig(5)).code == "invalid_field"
    assert control.ask(FollowConfig(0, ("nodes",))).code == "invalid_field"
    assert control.ask(ReleaseHold("US100", 1)).code == "not_found"


@pytest.mark.parametrize("packed_after", [0, 1, 2, 3])
def test_parts_and_the_entries_after_them_give_the_same_state(control: Control, packed_after: int) -> None:
    parts: dict[str, tuple[int, bytes]] = {}
    steps: list[tuple[str, list[Document], int]] = [
        ("item", [an_item(f"S{n}") for n in range(1_200)], 1),
        ("channel", [a_channel()], 2),
        ("item", [an_item("S7", weight_g=7), an_item("KIT", components={"S1": 2})], 3),
    ]
    for n, (kind, documents, key) in enumerate(steps):
        if n == packed_after:
            for part in control.core.dirty_parts():
                parts[part] = control.core.pack_part(part)
        control.put(kind, *documents, key_hash=key, fingerprint=key)
    if packed_after == 3:
        for part in control.core.dirty_parts()[1:]:
            parts[part] = control.core.pack_part(part)
    other = ControlCore()
    for part, (seq, data) in parts.items():
        other.load_part(part, seq, data)
    for seq, time_ms, payload in control.entries:
        other.replay(seq, time_ms, payload)
    other.recovered(epoch=2, seq=3, time_ms=NOW_MS, now_ms=NOW_MS)
    one, two = control.core.state, other.state
    assert two.version == one.version == 1_203
    assert {k: v.docs for k, v in one.kinds.items()} == {k: v.docs for k, v in two.kinds.items()}
    assert (one.dedupe, one.kits, one.used_in) == (two.dedupe, two.kits, two.used_in)
    other.receive(1, 1, FollowConfig(1_200), now_ms=NOW_MS)
    page = other.poll(now_ms=NOW_MS).answers[0].reply
    assert isinstance(page, ConfigReply)
    assert [d.name for d in page.documents] == ["web", "S7", "KIT"]


def test_status_says_where_it_stands(control: Control) -> None:
    control.put("item", an_item("A"))
    reply = control.ask(GetStatus())
    assert isinstance(reply, StatusReply)
    assert (reply.facts["config_version"], reply.facts["documents_item"], reply.facts["seq"]) == (1, 1, 1)
