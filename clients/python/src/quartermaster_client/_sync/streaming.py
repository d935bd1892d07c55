# Made from ../_async by clients/python/tools/unasync.py: change that, not this.
"""What happens, as it happens: the live stream, taken up again where it broke."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from quartermaster_client._sync.base import Base
from quartermaster_client._sync.over_httpx import Opened
from quartermaster_client.calling import Calling, Operation
from quartermaster_client.errors import InvalidAnswer
from quartermaster_client.events import EventReader, StreamEvent
from quartermaster_client.transport import Incoming, NotAnswered, TransportError

AGAIN_S = 0.2
"""Before a stream that ended is opened again."""
IDLE_S = 45.0
"""Three heartbeats: a connection that is silent for so long is given up."""


class Streaming(Base):
    """The one call whose answer does not end."""

    def stream(
        self,
        kinds: str | Sequence[str] = (),
        *,
        channel: str | None = None,
        node_id: str | None = None,
        after: str | None = None,
        hello: bool = False,
    ) -> Iterator[StreamEvent]:
        """Events from now on, or from `after` (an event's id, or any `token`), each once, for as long as you iterate.

        kinds: order, leg, stock, config, or types such as leg.shipped; left out, all that the key may see. A connection that breaks is
        made again and goes on behind the last event; `retry` says how patiently, and what ends that is raised. A `gap` event: what
        happened in that part is not to be had any more, so read again what you keep of it. hello: tell those of
        the stream itself as well; the id of the first one is a place in all shards, which a token is not. It ends when the client is closed, from
        another thread or task as well. Needs the transport that comes with the client.
        """
        names = [kinds] if isinstance(kinds, str) else list(kinds)
        params: list[tuple[str, str | int]] = [("kind", kind) for kind in names]
        params += [(name, value) for name, value in (("channel", channel), ("node_id", node_id)) if value]
        reader = EventReader(after or "")
        while True:
            reader = EventReader(reader.last_id)
            opened = self._open(reader.last_id, tuple(params))
            if opened is None:
                return
            try:
                for chunk in opened.chunks():
                    for event in reader.feed(chunk):
                        if hello or event.type != "hello":
                            yield event
            except NotAnswered:
                pass  # it broke, or was silent for too long: the next one goes on behind the last event
            except ValueError as error:
                raise InvalidAnswer(f"GET /v1/stream: {error}") from error
            finally:
                opened.close()
            self._rest(AGAIN_S)

    def _rest(self, seconds: float) -> None:
        """In small parts, so that `close` need not wait for it."""
        while seconds > 0 and not self._closed.is_set():
            time.sleep(min(seconds, AGAIN_S))
            seconds -= AGAIN_S

    def _open(self, last_id: str, params: tuple[tuple[str, str | int], ...]) -> Opened | None:
        """An answer that has begun; None = the client was closed."""
        open_ = getattr(self._transport, "open", None)
        if open_ is None:
            raise TypeError("this transport cannot stream: use a client without transport=")
        headers = [("accept", "text/event-stream")]
        if last_id:
            headers.append(("last-event-id", last_id))
        operation = Operation(
            name="GET /v1/stream", path="/v1/stream", read=lambda reply: None, params=params, headers=tuple(headers)
        )
        calling = Calling(operation, self._config)
        while not self._closed.is_set():
            try:
                opened: Opened = open_(calling.outgoing(), idle_s=IDLE_S)
                if self._closed.is_set():
                    opened.close()
                    return None
                if opened.status == 200:
                    calling.answered(Incoming(200, opened.headers, b""))
                    return opened
                try:
                    outcome = calling.answered(Incoming(opened.status, opened.headers, opened.body()))
                finally:
                    opened.close()
                if not isinstance(outcome, float):
                    raise InvalidAnswer(f"GET /v1/stream answered {opened.status}")
                wait_s = outcome
            except TransportError as error:
                wait_s = calling.broken(error)
            except RuntimeError:  # httpx: the client has been closed
                if not self._closed.is_set():
                    raise
                return None
            self._rest(wait_s)
        return None
