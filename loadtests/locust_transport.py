"""The Python client over a locust user's session (geventhttpclient): every attempt is in locust's statistics, under its route."""

from __future__ import annotations

from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, FastHttpSession

import quartermaster_client as qm


class LocustTransport:
    """A locust user's session (`FastHttpUser.client`); timeouts are the user's own (`network_timeout`, `connection_timeout`).

    A refusal with 409 is an answer; no answer, and what is told "later", are failures in locust's statistics.
    """

    def __init__(self, session: FastHttpSession) -> None:
        self._session = session

    def send(self, outgoing: qm.Outgoing) -> qm.Incoming:
        with self._session.request(
            outgoing.method,
            outgoing.url,
            name=outgoing.operation.partition(" ")[2],
            data=outgoing.body or None,
            headers={**outgoing.headers, "accept-encoding": "identity"},
            allow_redirects=False,
            catch_response=True,
        ) as got:
            if got.status_code == 409:
                got.success()
            broken = got.request_meta["exception"] if got.status_code == 0 else None
            try:
                body = got.content or b""
            except FAILURE_EXCEPTIONS as error:
                broken, body = error, b""
                got.failure(error)
            headers = {name.lower(): value for name, value in (got.headers or {}).items()}
            status = got.status_code
        if broken is not None:
            kind = qm.NotSent if isinstance(broken, ConnectionRefusedError) else qm.NotAnswered
            raise kind(repr(broken)) from broken
        return qm.Incoming(status, headers, body)

    def close(self) -> None:
        """The session is the user's."""
