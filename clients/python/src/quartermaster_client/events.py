"""Events of `GET /v1/stream`, and the reader of their format (Server-Sent Events), without I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

EVENT_BYTES_MAX = 16 * 1024 * 1024


class StreamEvent(NamedTuple):
    """Something that happened. `type` is `order.allocated`, `leg.shipped`, `stock.changed`, ..., or `gap`.

    id: the place behind it in all journals. Keep it with what you did about the event: `stream(after=id)` goes on from there.
    data: as docs/reference/stream.md lists it by type.
    """

    type: str
    id: str
    data: dict[str, Any]


class EventReader:
    """Bytes in, events out. `last_id` = where to go on; heartbeats move it too."""

    def __init__(self, last_id: str) -> None:
        self.last_id = self._id = last_id
        self._left = b""
        self._type = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Raises ValueError where what comes is no such stream."""
        lines = (self._left + chunk).split(b"\n")
        self._left = lines.pop()
        if len(self._left) > EVENT_BYTES_MAX:
            raise ValueError(f"a line of more than {EVENT_BYTES_MAX} bytes")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line:
                self._field(line)
                continue
            self.last_id = self._id  # only now: of an event that was cut off in the middle, nothing has been seen
            if self._data:
                events.append(StreamEvent(self._type or "message", self.last_id, _decoded(b"\n".join(self._data))))
            self._type, self._data = "", []
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"id":
            self._id = value.decode()
        elif name == b"event":
            self._type = value.decode()
        elif name == b"data":
            self._data.append(value)


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(f"not the data of an event: {error}") from error
