"""The domain's exceptions. Expected answers (out of stock, wrong state) are Problem values, never exceptions.

DomainError
 +-- InvariantBreach   a rule of state.py does not hold: this shard must stop answering and be rebuilt by replay
"""

from __future__ import annotations


class DomainError(Exception):
    """Base of what the domain raises."""


class InvariantBreach(DomainError):
    """A numbered invariant does not hold. Never caught inside the engine: the process stops and replays."""
