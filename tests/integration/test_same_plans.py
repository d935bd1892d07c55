"""The layout of an engine changes no decision: a small run of `python -m loadtests.acceptance same`."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.accept_same import same
from loadtests.accepting import Acceptance

ORDERS = 100


@pytest.mark.timeout(1_800)  # two starts of a whole engine
def test_one_shard_and_two_make_the_same_plans(tmp_path: Path) -> None:
    said = io.StringIO()
    run = Acceptance(Console(file=said, width=200), tmp_path, 1, None, 0)
    asyncio.run(same(run, orders_count=ORDERS, layouts=((1, 1), (2, 1))))
    assert f"2 shards, 1 gateway: all {ORDERS} plans and costs the same" in said.getvalue()
    assert " 0 split" not in said.getvalue(), "orders that one node serves prove nothing about shards"
