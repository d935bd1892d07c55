"""Commit tokens: which entries of which shards an answer rests on, as text. Clients treat them as opaque."""

from __future__ import annotations

TOKEN_PARTS_MAX = 64


def make_token(points: dict[int, tuple[int, int]]) -> str:
    """Token of (epoch, seq) by shard."""
    return ";".join(f"{shard}:{epoch}:{seq}" for shard, (epoch, seq) in sorted(points.items()))


def parse_token(text: str) -> dict[int, tuple[int, int]] | None:
    """(epoch, seq) by shard, the newest where several tokens, with commas between them, name a shard; None = it is no token."""
    points: dict[int, tuple[int, int]] = {}
    parts = text.replace(",", ";").split(";")
    if len(parts) > TOKEN_PARTS_MAX:
        return None
    for part in parts:
        numbers = part.strip().split(":")
        if len(numbers) != 3 or not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
            return None
        shard, point = int(numbers[0]), (int(numbers[1]), int(numbers[2]))
        points[shard] = max(point, points.get(shard, point))
    return points
