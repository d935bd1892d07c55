"""Frames between processes: gateway to shard, shard to shard, over Unix sockets or TCP. Pure: bytes in, values out.

A frame is a 4-byte little-endian length and that many bytes of msgpack. The first frame each way is a Hello; a mismatch of
version, shard or token closes the connection. After it:

    asker  -> shard   [[corr, command], ...]              one frame = whatever was waiting; uses one credit
    shard  -> asker   [credits, [[corr, reply], ...]]     `credits` frames may be sent again; slow items are answered later

An asker starts with CREDITS. Items are answered one by one, by correlation id, in any order; an id may be answered many
times (FollowConfig, FollowView). Nothing is ever pickled.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.domain.commands import Command
from engine.domain.replies import Reply

PROTOCOL_VERSION = 4
CREDITS = 4
FRAME_BYTES_MAX = 64 * 1024 * 1024
FRAME_BYTES_WANTED = 4 * 1024 * 1024
"""Items that are more than this together go in several frames: the other side decodes a frame in one piece."""
_HEADER = 4


class FrameError(ValueError):
    """The peer does not speak this protocol: close the connection."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """First frame of an asker. `shard` = who it believes to talk to; `peer` = its own shard, -1 for a gateway or tool."""

    version: int
    shard: int
    token: str
    peer: int = -1


class Welcome(msgspec.Struct, array_like=True, frozen=True):
    """First frame of a shard: who it really is. `error` set = it closes."""

    version: int
    shard: int
    epoch: int
    error: str = ""


class Replies(msgspec.Struct, array_like=True, frozen=True):
    credits: int
    items: list[tuple[int, Reply]]


_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(list[tuple[int, Command]])
_replies = msgspec.msgpack.Decoder(Replies)
_hello = msgspec.msgpack.Decoder(Hello)
_welcome = msgspec.msgpack.Decoder(Welcome)


def frame(value: object) -> bytes:
    """One frame of any of the values above (a list of (corr, command) pairs, Replies, Hello, Welcome)."""
    buffer = bytearray(_HEADER)
    _encoder.encode_into(value, buffer, _HEADER)
    buffer[:_HEADER] = (len(buffer) - _HEADER).to_bytes(_HEADER, "little")
    return bytes(buffer)


def decode_commands(body: bytes) -> list[tuple[int, Command]]:
    """Raises msgspec.MsgspecError where it is not a list of commands."""
    return _commands.decode(body)


def decode_replies(body: bytes) -> Replies:
    return _replies.decode(body)


def decode_hello(body: bytes) -> Hello:
    return _hello.decode(body)


def decode_welcome(body: bytes) -> Welcome:
    return _welcome.decode(body)


class FrameReader:
    """Cuts a byte stream into frame bodies."""

    def __init__(self, *, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self.bytes_max = bytes_max

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Bodies completed by this data. Raises FrameError where a frame is larger than allowed."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER:
            size = int.from_bytes(buffer[start : start + _HEADER], "little")
            if size > self.bytes_max:
                raise FrameError(f"a frame of {size} bytes, allowed are {self.bytes_max}")
            end = start + _HEADER + size
            if end > len(buffer):
                break
            yield bytes(buffer[start + _HEADER : end])
            start = end
        if start:
            del buffer[:start]
