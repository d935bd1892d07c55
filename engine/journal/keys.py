"""Names of a shard's keys. They share a hash tag, so that they live in one cluster slot. engine/journal/functions.lua lists them."""

from __future__ import annotations


class Keys:
    """Keys of one shard."""

    def __init__(self, shard: int) -> None:
        base = f"qm:{{s{shard}}}:"
        self.meta = f"{base}m".encode()
        self.entries = f"{base}j".encode()
        self.decisions = f"{base}d".encode()
        self.parts = f"{base}p".encode()
        self.archive = f"{base}a".encode()
        self._base = base

    def staging(self, epoch: int, part: str, seq: int) -> bytes:
        """Where a snapshot is until it was read back: its own, because several are written at a time."""
        return f"{self._base}w:{epoch}:{part}:{seq}".encode()

    def snapshot(self, part: str, seq: int) -> bytes:
        return f"{self._base}s:{part}:{seq}".encode()
