"""Admission: connections, requests in flight, and a token bucket for each API key. Refusals are early, cheap and say when to come back."""

from __future__ import annotations

from engine.domain.replies import Problem
from gateway.errors import problem

BUCKETS_MAX = 100_000
FINISHING_SHARE = 2
"""Work that frees stock is shed only at this many times the limit of new work."""

TURNED_AWAY_MAX = 64
"""Connections beyond the limit that are told so at once; more are just closed."""


class Connections:
    """Counts open connections: those served, and those beyond the limit that are being told to come later."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0
        self.leaving = 0
        self.refused = 0

    def enter(self) -> bool:
        """Whether a new connection is served."""
        if self.now < self.limit:
            self.now += 1
            return True
        self.refused += 1
        return False


class InFlight:
    """Counts requests being worked on. New work is shed first, what finishes goes on much longer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0
        self.shed = 0

    def refusal(self, *, finishing: bool) -> Problem | None:
        if self.now < self.limit or (finishing and self.now < self.limit * FINISHING_SHARE):
            return None
        self.shed += 1
        return problem("overloaded", f"{self.now} requests are being worked on", retry_after_ms=1_000)


class Buckets:
    """A token bucket for each key: `rate` requests a second, bursts of one second's worth."""

    def __init__(self, rate_per_s: int) -> None:
        self.rate = rate_per_s
        self._buckets: dict[str, tuple[float, float]] = {}
        """(tokens, monotonic seconds they were counted at) by key id."""

    def take(self, key_id: str, *, now_s: float) -> tuple[bool, int, int]:
        """(allowed, requests left, seconds until one more is allowed)."""
        rate = self.rate
        tokens, counted_s = self._buckets.get(key_id, (float(rate), now_s))
        tokens = min(float(rate), tokens + (now_s - counted_s) * rate)
        allowed = tokens >= 1.0
        if allowed:
            tokens -= 1.0
        if len(self._buckets) >= BUCKETS_MAX and key_id not in self._buckets:
            self._buckets.clear()
        self._buckets[key_id] = (tokens, now_s)
        return allowed, int(tokens), 0 if tokens >= 1.0 else max(1, round((1.0 - tokens) / rate))

    def headers(self, left: int, reset_s: int) -> list[tuple[bytes, bytes]]:
        """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers)."""
        return [
            (b"ratelimit-policy", b'"key";q=%d;w=1' % self.rate),
            (b"ratelimit", b'"key";r=%d;t=%d' % (left, reset_s)),
        ]
