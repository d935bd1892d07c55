"""When to send again, and when not: full jitter, Retry-After, a deadline for the call, and a budget for the process.

R1  Only what is safe: reads, and changes that carry an idempotency key (or are idempotent by themselves).
R2  Only what may end differently: no answer, 429, 502 to 504, or "a request with this key is still running", which is our own
    earlier attempt. A refusal is an answer.
R3  Never sooner than the engine asked for (Retry-After), never past the call's deadline.
R4  Retries of all calls together stay below a share of all calls: when an engine is down, clients that all retry keep it down.
"""

from __future__ import annotations

import random
import threading
from typing import NamedTuple

RETRY_STATUS = frozenset((429, 502, 503, 504))
RETRY_CODES = frozenset(("key_in_use",))


class RetryPolicy(NamedTuple):
    """How patient one call is. `attempts` counts the first one; times are seconds."""

    attempts: int = 5
    base_s: float = 0.1
    cap_s: float = 5.0
    deadline_s: float = 30.0

    def wait_s(self, attempt: int, retry_after_s: float | None, *, rng: random.Random) -> float:
        """Before the attempt after `attempt` (1 = the first): anywhere up to the exponential bound, on top of Retry-After."""
        bound_s = min(self.cap_s, self.base_s * 2.0 ** (attempt - 1))
        return (retry_after_s or 0.0) + rng.uniform(0.0, bound_s)


NO_RETRIES = RetryPolicy(attempts=1)


class RetryBudget:
    """A token bucket that all calls of a client share: each call puts `ratio` of a token in, each retry takes one out.

    At most `capacity` retries in a row while nothing succeeds, and in the long run `ratio` of the calls. Threads may share it.
    """

    def __init__(self, *, capacity: float = 20.0, ratio: float = 0.1) -> None:
        if capacity < 0 or ratio < 0:
            raise ValueError("capacity and ratio are not negative")
        self._capacity = capacity
        self._ratio = ratio
        self._tokens = capacity
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        return self._tokens

    def call(self) -> None:
        """A call begins."""
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be sent."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True
