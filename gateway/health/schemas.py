"""What the health routes show."""

from __future__ import annotations

from gateway.schemas import Shown


class Live(Shown):
    status: str


class ShardHealth(Shown):
    """`shard` is a number or "control". `state`: serving, journal_full (only what finishes and frees is taken), or
    the code of the problem it answers, with `why`: frozen is one that found its journal damaged and takes no writes."""

    shard: str
    state: str
    epoch: int | None
    seq: int | None
    why: str | None


class Ready(Shown):
    """`status`: ready or not_ready. `durability`: always, or unverified where the operator said so."""

    status: str
    reason: str | None
    durability: str
    config_version: int
    shards: list[ShardHealth]


class Version(Shown):
    version: str
    api: str
    python: str


class ProblemPage(Shown):
    code: str
    status: int
    title: str
    cause: str
    cure: str
