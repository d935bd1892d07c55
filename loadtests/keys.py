"""The budgets of DESIGN section 10: what each key means, its floor, its goal, and which way is better."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    what: str
    floor: float
    goal: float
    lower_is_better: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value keeps the floor."""
        return value <= self.floor if self.lower_is_better else value >= self.floor

    def reaches(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        return value <= self.goal if self.lower_is_better else value >= self.goal


KEYS: dict[str, Key] = {
    "single_vs_fastapi_echo": Key("single orders/s, durable, c=64 / FastAPI + pydantic echo", 1.8, 3.5),
    "single_vs_fastapi_redis_lua": Key("same / FastAPI + scoring + one Redis Lua an order", 3.5, 7),
    "single_vs_batched_redis_lua": Key("same / Redis Lua in pipelined batches behind our own HTTP path", 1.0, 1.5),
    "fsync_vs_everysec": Key("durable before the answer / once a second", 0.65, 0.85),
    "batch_vs_fastapi_echo": Key("orders/s in batches of 100 / FastAPI echo", 6, 15),
    "availability_vs_fastapi_echo": Key("reads/s of /v1/availability, c=64 / FastAPI echo", 3, 5),
    "p50_vs_redis_write": Key("p50 of a lone allocation / one redis-py Lua write", 5, 2.5, True),
    "solver_vs_cpsat": Key("full CP-SAT, building counted / ours, normal stock", 8, 20),
    "solver_vs_cpsat_tight": Key("CP-SAT on the same components / ours, tight stock", 1, 3),
    "single_contended": Key("answers/s on a 20-SKU hot set with 30 % refusals / normal stock", 0.5, 0.8),
    "gap_tight_pct": Key("cost over the proven optimum of our candidates, %", 2, 0.5, True),
    "decide_vs_decode": Key("CPU of deciding an order / msgspec decode of it", 40, 12, True),
    "cpu_by_shards": Key("CPU an order with 4 shards / with 1, 10 % across shards", 1.6, 1.25, True),
    "cpu_by_catalogue": Key("CPU an order, 1,000,000 x 2,000 / 10,000 x 100", 2, 1.3, True),
    "bytes_per_position": Key("resident bytes a stocked position", 96, 48, True),
    "bytes_per_open_hold": Key("resident bytes an open 3-line hold, dedupe included", 600, 350, True),
    "wal_bytes_per_order": Key("journal + decision bytes a 3-line order", 600, 350, True),
    "archive_vs_decide": Key("CPU of archiving and indexing an order / of deciding it", 2, 0.5, True),
    "restart_s": Key("kill -9 of a shard to serving, seconds", 6, 3, True),
}

HTTP_KEYS = (
    "single_vs_fastapi_echo",
    "single_vs_fastapi_redis_lua",
    "single_vs_batched_redis_lua",
    "fsync_vs_everysec",
    "batch_vs_fastapi_echo",
    "availability_vs_fastapi_echo",
    "p50_vs_redis_write",
    "single_contended",
    "wal_bytes_per_order",
)
SOLVER_KEYS = ("solver_vs_cpsat", "solver_vs_cpsat_tight", "gap_tight_pct")
CORE_KEYS = ("decide_vs_decode", "cpu_by_catalogue", "bytes_per_position", "bytes_per_open_hold")
SHARD_KEYS = ("cpu_by_shards",)
ARCHIVE_KEYS = ("archive_vs_decide",)
RESTART_KEYS = ("restart_s",)
