"""Quote ids: what a quote promised, sealed, so that nobody has to remember it (docs/adr/0013).

quo_SLOT_BODY: BODY is base64url of a packed Sealed and 16 bytes of BLAKE2b over it and the slot, keyed with a secret of the
deployment. A gateway that has the secret can read the id of any other; an id that was changed, or made up, is none of ours.

What is sealed of the order is a hash of each thing that the promise hangs on: its lines (SKU, quantity, method, store, group),
its destination and its channel. Lines that are collected at a store are other lines: an option of a store has a hash of its own.
What may change between quote and order does not count: order id, prices, customer, tags.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest

import msgspec
from msgspec import Struct

from engine.domain.catalog import Catalog
from engine.domain.commands import Quoted
from engine.domain.config import QUOTE_SECRET
from engine.domain.orders import OrderRequest
from engine.domain.replies import Problem, ProblemItem
from gateway.errors import problem, refuse
from gateway.orders.schemas import SERVICE_DEFAULT, Order

PREFIX = "quo"
SCHEMA = 1
MAC_BYTES = 16
HASH_BYTES = 8
UNSEALABLE = "no secret to seal quotes with is configured yet"


class SealedOption(Struct, array_like=True, frozen=True):
    option_id: str
    service: str
    ship_by_ms: int
    deliver_by_ms: int
    cost_minor: int
    unfilled_units: int
    lines: bytes = b""
    """Hash of the lines of an order that takes it up; empty = they are those that the quote was asked for."""


class Sealed(Struct, array_like=True, frozen=True):
    schema: int
    made_at_ms: int
    valid_until_ms: int
    channel: bytes
    ship_to: bytes
    lines: bytes
    best: int
    """Place of the best option of the lines that the quote was asked for."""
    options: tuple[SealedOption, ...]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Sealed).decode


def sealed_order(secret: bytes, order: OrderRequest) -> tuple[bytes, bytes, bytes]:
    """Hashes of an order's (channel, destination, lines)."""
    ship_to = order.ship_to
    place: object = None
    if ship_to is not None:
        postal_code = ship_to.postal_code.replace(" ", "").replace("-", "").upper()
        place = (ship_to.country, postal_code, ship_to.residential, ship_to.lat, ship_to.lon)
    return (
        _hash(secret, b"channel", (order.channel, order.currency)),
        _hash(secret, b"ship_to", place),
        sealed_lines(secret, order),
    )


def sealed_lines(secret: bytes, order: OrderRequest) -> bytes:
    """Hash of an order's lines."""
    lines = [
        (x.sku, x.quantity, int(x.method), x.pickup_node_id or "", x.group or "", x.splittable, sorted(x.tags))
        for x in order.lines
    ]
    return _hash(secret, b"lines", sorted(lines))


def seal(secret: bytes, slot: str, sealed: Sealed) -> str:
    """The id of a quote."""
    body = _pack(sealed)
    return f"{PREFIX}_{slot}_{urlsafe_b64encode(body + _mac(secret, slot, body)).decode().rstrip('=')}"


def unseal(secret: bytes, quote_id: str) -> Sealed | None:
    """What an id promised; None = it is none of ours."""
    prefix, _, rest = quote_id.partition("_")
    slot, _, text = rest.partition("_")
    if prefix != PREFIX or not text or not text.isascii():
        return None
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if not compare_digest(mac, _mac(secret, slot, body)):
        return None
    try:
        sealed = _unpack(body)
    except msgspec.MsgspecError:  # sealed by another version
        return None
    return sealed if sealed.schema == SCHEMA else None


def take_up(catalog: Catalog, order: Order, request: OrderRequest) -> tuple[str, Quoted] | Problem:
    """(service, terms) of the quoted option that an order asks for, or why it is none of this quote's.

    Whether the quote still stands is for the order's home to say: a repeat of its key gets the first answer before that.
    """
    assert order.quote_id is not None
    secret = catalog.secrets.get(QUOTE_SECRET)
    if secret is None:
        return problem("unavailable", UNSEALABLE)
    sealed = unseal(secret, order.quote_id)
    if sealed is None:
        return refuse("invalid_quote", "/quote_id", "no gateway of this deployment made this quote")
    channel, ship_to, lines = sealed_order(secret, request)
    errors = []
    if channel != sealed.channel:
        errors.append(ProblemItem("/channel", "the quote is for another channel or currency"))
    if ship_to != sealed.ship_to:
        errors.append(ProblemItem("/ship_to", "the quote is for another destination"))
    if order.quote_option is not None:
        named = [x for x in sealed.options if x.option_id == order.quote_option]
        if not named:
            errors.append(_no_option("/quote_option", order.quote_option, sealed))
    elif order.service != SERVICE_DEFAULT:
        named = [x for x in sealed.options if x.service == order.service]
        if not named:
            errors.append(_no_option("/service", order.service, sealed))
    else:
        named = [sealed.options[sealed.best], *sealed.options]
    option = next((x for x in named or sealed.options if (x.lines or sealed.lines) == lines), None)
    if option is None:
        errors.append(_other_lines(named))
    elif named and order.quote_option is not None and order.service not in (SERVICE_DEFAULT, option.service):
        detail = f"option {option.option_id} is for service {option.service}: leave `service` out"
        errors.append(ProblemItem("/service", detail, {"service": option.service}))
    if errors or option is None:
        return Problem("quote_mismatch", "", tuple(errors))
    terms = Quoted(
        option.option_id,
        sealed.made_at_ms,
        sealed.valid_until_ms,
        option.ship_by_ms,
        option.deliver_by_ms,
        option.cost_minor,
        option.unfilled_units,
    )
    return option.service, terms


def _other_lines(named: Sequence[SealedOption]) -> ProblemItem:
    if len(named) == 1 and named[0].lines:
        node_id = named[0].option_id
        detail = f"option {node_id} is for what was quoted, collected there: method pickup, pickup_node_id {node_id}"
        return ProblemItem("/lines", detail, {"pickup_node_id": node_id})
    return ProblemItem("/lines", "the quote is for other lines: SKUs, quantities, methods, stores or groups differ")


def _no_option(pointer: str, name: str, sealed: Sealed) -> ProblemItem:
    known = [x.option_id for x in sealed.options]
    return ProblemItem(pointer, f"the quote has no option {name!r}", {"options": known})


def _hash(secret: bytes, what: bytes, value: object) -> bytes:
    return blake2b(_pack(value), digest_size=HASH_BYTES, key=secret, person=what).digest()


def _mac(secret: bytes, slot: str, body: bytes) -> bytes:
    return blake2b(slot.encode() + b"\0" + body, digest_size=MAC_BYTES, key=secret, person=b"quote").digest()
