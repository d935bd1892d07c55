"""The configuration as its owner, the control shard, keeps it: documents by kind and index, in version order.

K1  An index is given at a document's first appearance and never to another one; documents are replaced, never removed.
K2  Every change of a document has a version of its own; versions ascend by one over all kinds.
K3  Applying an event to a snapshot part reads no other part. Parts: "config:item:0" (1,000 indexes of a kind) and "misc".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from engine.domain.config import KINDS, Item
from engine.domain.events import ConfigPut
from engine.domain.parts import UnknownSchema

INDEXES_PER_PART = 1_000
DEDUPE_MAX = 100_000
DEDUPE_WINDOW_MS = 24 * 3_600_000
SCHEMA = 1
_COMPACT_MIN = 1_024


class Stored(NamedTuple):
    name: str
    version: int
    document: bytes


class BucketSnapshot(msgspec.Struct, array_like=True):
    schema: int
    rows: list[tuple[int, str, int, bytes]]


class ControlMisc(msgspec.Struct, array_like=True):
    schema: int
    version: int
    dedupe: list[tuple[int, int, int]]
    """(key hash, fingerprint, journal time), oldest first."""


_encode = msgspec.msgpack.Encoder().encode
_BUCKET = msgspec.msgpack.Decoder(BucketSnapshot)
_MISC = msgspec.msgpack.Decoder(ControlMisc)
_ITEM = msgspec.json.Decoder(Item)
_KIT_MARK = b'"components"'


class KindState:
    """Documents of one kind. `log` = (version, index) of every change, oldest first; entries that were overtaken stay a while."""

    __slots__ = ("_names", "_unsorted", "docs", "index_of", "log")

    def __init__(self) -> None:
        self.docs: list[Stored | None] = []
        self.index_of: dict[str, int] = {}
        self.log: list[tuple[int, int]] = []
        self._names: list[str] = []
        self._unsorted = True

    def get(self, name: str) -> Stored | None:
        index = self.index_of.get(name)
        return self.docs[index] if index is not None else None

    def put(self, index: int, stored: Stored) -> None:
        while len(self.docs) <= index:
            self.docs.append(None)
        if self.docs[index] is None:
            self.index_of[stored.name] = index
            self._unsorted = True
        self.docs[index] = stored
        self.log.append((stored.version, index))
        if len(self.log) > _COMPACT_MIN + 2 * len(self.docs):
            self.rebuild_log()

    def rebuild_log(self) -> None:
        self.log = sorted((doc.version, index) for index, doc in enumerate(self.docs) if doc is not None)

    def changes_after(self, version: int) -> Iterator[tuple[int, int]]:
        """(version, index) of changes after a version; overtaken ones included."""
        for at in range(bisect_right(self.log, (version, 1 << 62)), len(self.log)):
            yield self.log[at]

    def names_after(self, after: str, limit: int) -> list[str]:
        """Names in order after one; '' = from the first."""
        if self._unsorted:
            self._names = sorted(self.index_of)
            self._unsorted = False
        start = bisect_right(self._names, after) if after else 0
        return self._names[start : start + limit]


class ConfigState:
    """Everything the control shard knows. Change it only through `apply`."""

    def __init__(self) -> None:
        self.kinds = {kind: KindState() for kind in KINDS}
        self.version = 0
        self.seq = 0
        self.time_ms = 0
        self.dedupe: dict[int, tuple[int, int]] = {}
        """(fingerprint, journal time) by key hash, oldest first."""
        self.kits: dict[str, tuple[str, ...]] = {}
        """Component SKUs by kit SKU. Derived."""
        self.used_in: dict[str, int] = {}
        """Number of kits that a SKU is a component of. Derived."""
        self.part_seq: dict[str, int] = {}
        self.dirty: dict[str, None] = {}

    def _put(self, kind: str, index: int, stored: Stored) -> None:
        self.kinds[kind].put(index, stored)
        if kind != "item" or (_KIT_MARK not in stored.document and stored.name not in self.kits):
            return
        for sku in self.kits.pop(stored.name, ()):
            self.used_in[sku] -= 1
        components = _ITEM.decode(stored.document).components
        if components:
            self.kits[stored.name] = tuple([c.sku for c in components])
            for c in components:
                self.used_in[c.sku] = self.used_in.get(c.sku, 0) + 1

    def apply(self, event: ConfigPut, *, seq: int, time_ms: int, replay: bool = False) -> None:
        """Make an event's effect. `replay` = skip the parts whose snapshot already contains entry `seq`."""
        for index, name, version, document in event.documents:
            part = part_of(event.kind, index)
            self.version = max(self.version, version)
            if replay and seq <= self.part_seq.get(part, 0):
                continue
            self._put(event.kind, index, Stored(name, version, document))
            self.dirty[part] = None
        if replay and seq <= self.part_seq.get("misc", 0):
            return
        if event.key_hash:
            self.dedupe[event.key_hash] = (event.fingerprint, time_ms)
            self._forget_keys(time_ms)
        self.dirty["misc"] = None

    def _forget_keys(self, time_ms: int) -> None:
        for _ in range(2):
            first = next(iter(self.dedupe))
            if len(self.dedupe) <= DEDUPE_MAX and self.dedupe[first][1] >= time_ms - DEDUPE_WINDOW_MS:
                break
            del self.dedupe[first]

    def pack_part(self, part: str) -> bytes:
        """Bytes of one part as of now."""
        if part == "misc":
            return _encode(ControlMisc(SCHEMA, self.version, [(key, *entry) for key, entry in self.dedupe.items()]))
        _, kind, bucket = part.split(":")
        first = int(bucket) * INDEXES_PER_PART
        rows = [
            (first + n, doc.name, doc.version, doc.document)
            for n, doc in enumerate(self.kinds[kind].docs[first : first + INDEXES_PER_PART])
            if doc is not None
        ]
        return _encode(BucketSnapshot(SCHEMA, rows))

    def load_part(self, part: str, seq: int, data: bytes) -> None:
        """Put a part into an empty state. Raises UnknownSchema, msgspec.MsgspecError."""
        self.part_seq[part] = seq
        if part == "misc":
            misc = _MISC.decode(data)
            _check(misc.schema)
            self.version = max(self.version, misc.version)
            self.dedupe = {key: (fingerprint, ms) for key, fingerprint, ms in misc.dedupe}
            return
        loaded = _BUCKET.decode(data)
        _check(loaded.schema)
        kind = part.split(":")[1]
        for index, name, version, document in loaded.rows:
            self._put(kind, index, Stored(name, version, document))
            self.version = max(self.version, version)

    def recovered(self) -> None:
        """All parts and entries are in: put the logs in version order and assert K1."""
        for name, kind in self.kinds.items():
            kind.rebuild_log()
            missing = [index for index, doc in enumerate(kind.docs) if doc is None]
            assert not missing, f"K1: {name} indexes {missing[:5]} are gone"
        self.part_seq.clear()


def part_of(kind: str, index: int) -> str:
    return f"config:{kind}:{index // INDEXES_PER_PART}"


def _check(schema: int) -> None:
    if schema != SCHEMA:
        raise UnknownSchema(f"snapshot schema {schema}, this version reads {SCHEMA}")
