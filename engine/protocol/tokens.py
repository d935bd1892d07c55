"""Commit tokens: which entries of which shards an answer rests on, as text. Clients treat them as opaque."""

from __future__ import annotations

TOKEN_PARTS_MAX = 64


def make_token(points: dict[int, tuple[int, int]]) -> str:
    """Token of (epoch, seq) by shard."""
    return ";".join(f"{shard}:{epoch}:{seq}" for shard, (epoch, seq) in sorted(points.items()))


def parse_token(text: str) -> dict[int, tuple[int, int]] | None:
    """(epoch, seq) by shard; None where the text is not a token."""
    points: dict[int, tuple[int, int]] = {}
    parts = text.split(";")
    if len(parts) > TOKEN_PARTS_MAX:
        return None
    for part in parts:
        numbers = part.split(":")
        if len(numbers) != 3 or not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
            return None
        points[int(numbers[0])] = (int(numbers[1]), int(numbers[2]))
    return points
