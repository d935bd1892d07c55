"""Requests prepared before a run: HTTP bytes with holes for ids, shared by every server that a round compares.

A pool file is msgpack of `Pool`. `single`: one order a request. `batch`: `tails[i]` are the orders of one request. `keyed`:
a path and a body, to which only an idempotency key is added. `plain`: the same without a key (reads). The ids that a driver
fills in have a fixed width, so lengths are known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from loadtests.network import Network
from loadtests.traffic import ORDER_HEAD, Order, Renderer

ID_DIGITS = 9
BATCH_HEAD = b'{"orders":['
BATCH_END = b"]}"


class Pool(msgspec.Struct, frozen=True):
    """`tails`: what follows the order id, one entry a request (a list of them for `batch`)."""

    kind: Literal["single", "batch", "keyed", "plain"]
    path: str
    tails: list[list[bytes]]
    headers: dict[str, str] = {}
    method: str = "POST"
    lines: int = 0
    """Order lines in all of its requests, for averages."""


def make_pool(
    network: Network,
    orders: Sequence[Order],
    *,
    path: str,
    headers: dict[str, str],
    batch: int = 1,
    on_short: str = "refuse",
    extra: bytes = b"",
) -> Pool:
    """A pool of single orders, or of batches of `batch`; orders that do not fill the last batch are left out."""
    renderer = Renderer(network, on_short=on_short)
    tails = [renderer.tail(order, extra) for order in orders]
    grouped = [[tail] for tail in tails] if batch == 1 else [tails[i : i + batch] for i in range(0, len(tails), batch)]
    return Pool(
        "single" if batch == 1 else "batch",
        path,
        [group for group in grouped if len(group) == batch],
        headers,
        lines=sum(len(order.lines) for order in orders),
    )


def fixed_pool(requests: Sequence[tuple[str, bytes]], *, method: str, headers: dict[str, str], keyed: bool) -> Pool:
    """Requests without order ids: (path with its query, body); `keyed` = each gets an idempotency key of its own."""
    tails = [[path.encode(), body] for path, body in requests]
    return Pool("keyed" if keyed else "plain", "", tails, headers, method)


def save_pool(pool: Pool, path: Path) -> Path:
    path.write_bytes(msgspec.msgpack.encode(pool))
    return path


def load_pool(path: Path) -> Pool:
    return msgspec.msgpack.decode(path.read_bytes(), type=Pool)


class Requests:
    """Builds request bytes from a pool: `build(i, first_id)`; a few byte joins each."""

    def __init__(self, pool: Pool, *, host: str, id_prefix: str) -> None:
        self._prefix = id_prefix.encode()
        self.kind = pool.kind
        self.orders_each = len(pool.tails[0]) if pool.kind == "batch" else 1
        fixed = "".join(f"{name}: {value}\r\n" for name, value in pool.headers.items())
        self._start = f"{pool.method} {pool.path} HTTP/1.1\r\nhost: {host}\r\n{fixed}"
        id_bytes = len(id_prefix) + ID_DIGITS
        heads: dict[int, bytes] = {}
        self.parts: list[tuple[bytes, list[bytes]]] = []
        """(head up to the idempotency key's value, tails) by request."""
        for tails in pool.tails:
            if pool.kind in ("plain", "keyed"):
                path, body = tails
                head = f"{pool.method} {path.decode()} HTTP/1.1\r\nhost: {host}\r\n{fixed}"
                if body:
                    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                if pool.kind == "keyed":
                    self.parts.append((head.encode() + b"idempotency-key: ", [body]))
                else:
                    self.parts.append((head.encode() + b"\r\n" + body, []))
                continue
            length = sum(len(ORDER_HEAD) + id_bytes + len(tail) for tail in tails)
            if pool.kind == "batch":
                length += len(BATCH_HEAD) + len(BATCH_END) + len(tails) - 1
                length += len(tails) * (len(b'"idempotency_key":"",') + id_bytes)
            cached = heads.get(length)
            if cached is None:
                head = f"{self._start}content-type: application/json\r\ncontent-length: {length}\r\nidempotency-key: "
                cached = heads[length] = head.encode()
            self.parts.append((cached, tails))

    def __len__(self) -> int:
        return len(self.parts)

    def build(self, i: int, first_id: int) -> bytes:
        """Request `i` (modulo the pool) with ids from `first_id` on; the first one is the idempotency key as well."""
        head, tails = self.parts[i % len(self.parts)]
        if not tails:
            return head
        prefix = self._prefix
        key = b"%s%09d" % (prefix, first_id)
        if self.kind == "single":
            return b"".join((head, key, b'\r\n\r\n{"order_id":"', key, tails[0]))
        if self.kind == "keyed":
            return b"".join((head, key, b"\r\n\r\n", tails[0]))
        pieces = [head, key, b"\r\n\r\n", BATCH_HEAD]
        for n, tail in enumerate(tails):
            key = b"%s%09d" % (prefix, first_id + n)
            pieces.append(b'%s{"idempotency_key":"%s","order_id":"%s' % (b"," if n else b"", key, key))
            pieces.append(tail)
        pieces.append(BATCH_END)
        return b"".join(pieces)
