"""Deciding a put of configuration documents: decode, check, give indexes and versions. Pure: a command in, an event out."""

from __future__ import annotations

import msgspec

from engine.domain.commands import PutConfig
from engine.domain.config import KEY_FIELD, KINDS, Document
from engine.domain.config_rules import Fault, fault_of, faults
from engine.domain.config_state import ConfigState
from engine.domain.events import ConfigPut
from engine.domain.problems import CODES
from engine.domain.replies import Problem, ProblemItem

DOCUMENTS_MAX = 2_000
BYTES_MAX = 4 * 1024 * 1024
DOCUMENT_BYTES_MAX = 1024 * 1024
FAULTS_MAX = 100
_DECODERS = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}
_encode = msgspec.json.Encoder(order="deterministic").encode


def decode_documents(command: PutConfig) -> dict[str, tuple[int, Document]] | Problem:
    """(place in the command, document) by name, or every fault that the types find."""
    decoder = _DECODERS.get(command.kind)
    if decoder is None:
        return _problem("invalid_field", [("", f"kind is one of {', '.join(KINDS)}")], 0, "")
    if not command.documents or len(command.documents) > DOCUMENTS_MAX:
        return _problem("invalid_field", [("", f"1 to {DOCUMENTS_MAX} documents")], 0, "")
    if sum(map(len, command.documents)) > BYTES_MAX or max(map(len, command.documents)) > DOCUMENT_BYTES_MAX:
        detail = f"at most {DOCUMENT_BYTES_MAX} bytes a document, {BYTES_MAX} in all"
        return _problem("body_too_large", [("", detail)], 0, "")
    key_field = KEY_FIELD[command.kind]
    found: dict[str, tuple[int, Document]] = {}
    errors: list[ProblemItem] = []
    for n, text in enumerate(command.documents):
        try:
            document = decoder.decode(text)
        except msgspec.MsgspecError as error:
            errors.append(_item(fault_of(error), n, ""))
            continue
        except RecursionError:
            errors.append(_item(("", "nested too deeply"), n, ""))
            continue
        name = str(getattr(document, key_field)) if key_field else ""
        if name in found:
            errors.append(_item((f"/{key_field}", f"{name} is listed twice"), n, name))
        found[name] = (n, document)
    return Problem("invalid_field", CODES["invalid_field"].title, tuple(errors[:FAULTS_MAX])) if errors else found


def decide_put(
    state: ConfigState, command: PutConfig, documents: dict[str, tuple[int, Document]]
) -> ConfigPut | Problem | None:
    """The event that stores what changed; None where every document is already stored exactly so."""
    kind = state.kinds[command.kind]
    if command.if_version is not None:
        if len(documents) != 1:
            return _problem("invalid_field", [("", "a version goes with a single document")], 0, "")
        name = next(iter(documents))
        stored = kind.get(name)
        version = stored.version if stored else 0
        if version != command.if_version:
            facts = {"name": name, "version": version, "expected": command.if_version}
            item = ProblemItem("", f"the document is at version {version}", facts)
            return Problem("version_mismatch", CODES["version_mismatch"].title, (item,))
    batch = {name: document for name, (_, document) in documents.items()}
    errors = [
        _item(fault, n, name)
        for name, (n, document) in documents.items()
        for fault in faults(state, command.kind, document, batch)
    ]
    if errors:
        return Problem("invalid_field", CODES["invalid_field"].title, tuple(errors[:FAULTS_MAX]))
    rows: list[tuple[int, str, int, bytes]] = []
    next_index = len(kind.docs)
    for name, (_, document) in documents.items():
        text = _encode(document)
        index = kind.index_of.get(name)
        if index is None:
            index = next_index
            next_index += 1
        else:
            stored = kind.docs[index]
            if stored is not None and stored.document == text:
                continue
        rows.append((index, name, state.version + len(rows) + 1, text))
    if not rows:
        return None
    return ConfigPut(command.kind, tuple(rows), command.key_hash, command.fingerprint)


def _item(fault: Fault, n: int, name: str) -> ProblemItem:
    """`document` = place in the command; `name` is empty where the document could not be read that far."""
    pointer, detail = fault
    return ProblemItem(pointer, detail, {"document": n, "name": name})


def _problem(code: str, found: list[Fault], n: int, name: str) -> Problem:
    return Problem(code, CODES[code].title, tuple(_item(fault, n, name) for fault in found))
