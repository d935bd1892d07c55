"""Import jobs: bounded in number and memory, private to their key; files read row by row."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from engine.domain import decide_stock
from engine.domain.commands import AdjustStock, CountStock
from engine.domain.config import Item, Node
from engine.domain.replies import Done, Problem, Reply, StockReply
from gateway.jobs import imports, store
from gateway.jobs.imports import CHUNK_ROWS, import_counts
from gateway.jobs.reader import (
    CSV,
    LINE_BYTES_MAX,
    NDJSON,
    FileFault,
    Row,
    item_fields,
    node_fields,
    plain_fields,
    rows_of,
)
from gateway.jobs.schemas import CountImportQuery, CountLine, job_shown
from gateway.jobs.store import Job, JobStore, new_job_id
from tests.builders import an_item
from tests.conftest import eventually
from tests.sim.lone_core import LoneCore
from tests.unit.test_domain_orders import a_shop, free


def a_job(key_id: str = "k", key_hash: int = 0) -> Job:
    return Job(new_job_id(), "items", key_id, key_hash, 1, io.BytesIO(), 10, 2, 1_790_000_000_000)


async def until_ended(*jobs: Job) -> None:
    await eventually(lambda: all(job.state in ("done", "failed") for job in jobs), every_s=0)


async def test_a_few_run_some_wait_and_the_rest_are_refused() -> None:
    jobs = JobStore()
    go = asyncio.Event()

    async def work(job: Job) -> None:
        await go.wait()

    started = [a_job() for _ in range(store.RUNNING_MAX + store.WAITING_MAX)]
    for job in started:
        assert jobs.refusal() is None
        jobs.start(job, work)
    await asyncio.sleep(0)
    assert [job.state for job in started].count("running") == store.RUNNING_MAX
    refused = jobs.refusal()
    assert refused is not None
    assert refused.code == "overloaded"
    go.set()
    await until_ended(*started)
    assert {job.state for job in started} == {"done"}
    assert all(job.file.closed for job in started)
    assert jobs.refusal() is None


async def test_a_job_is_seen_by_its_key_alone_and_found_by_its_idempotency_key() -> None:
    jobs = JobStore()

    async def work(job: Job) -> None:
        return

    job = a_job("mine", 7)
    jobs.start(job, work)
    await until_ended(job)
    assert jobs.find(job.job_id, "mine") is job
    assert jobs.find(job.job_id, "other") is None
    assert jobs.with_key("mine", 7) is job
    assert jobs.with_key("other", 7) is None
    assert jobs.with_key("mine", 0) is None


async def test_old_jobs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_MAX", 3)
    jobs = JobStore()

    async def work(job: Job) -> None:
        return

    made = [a_job() for _ in range(5)]
    for job in made:
        jobs.start(job, work)
        await until_ended(job)
        await asyncio.sleep(0)
    assert jobs.find(made[-1].job_id, "k") is made[-1]
    assert jobs.find(made[0].job_id, "k") is None
    made[-1].finished_s -= store.KEPT_S + 1
    assert jobs.find(made[-1].job_id, "k") is None


async def test_a_job_that_breaks_or_is_cut_short_says_so() -> None:
    jobs = JobStore()

    async def broken(job: Job) -> None:
        raise ValueError("no")

    async def endless(job: Job) -> None:
        await asyncio.Event().wait()

    first, second = a_job(), a_job()
    jobs.start(first, broken)
    jobs.start(second, endless)
    await until_ended(first)
    await jobs.close()
    assert job_shown(first).problem["code"] == "internal"  # type: ignore[index]
    assert job_shown(second).problem["code"] == "unavailable"  # type: ignore[index]
    assert first.file.closed
    assert second.file.closed


@pytest.mark.parametrize("code", ["unavailable", "overloaded", "journal_full", "dedupe_full", "moved"])
async def test_an_import_waits_for_what_is_there_later(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Any] = [Problem(code, ""), Done(1)]

    class Later:
        async def ask_node(self, node_id: str, command: Any) -> Any:
            return replies.pop(0)

    monkeypatch.setattr(imports, "RETRY_WAIT_S", 0.0)
    gateway: Any = Later()
    assert await imports._insist(gateway, None, AdjustStock("N-0", ()), "N-0") == Done(1)


async def test_only_the_first_errors_are_kept() -> None:
    job = a_job()
    for n in range(store.ERRORS_MAX + 5):
        job.fail_row(n, "", "bad")
    assert (job.rows_failed, len(job.errors)) == (store.ERRORS_MAX + 5, store.ERRORS_MAX)


def rows(text: str | bytes, media: str, kind: type, prepare: Any = plain_fields) -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return list(rows_of(io.BytesIO(data), media, kind, prepare))


def test_json_lines_know_their_numbers_and_skip_blanks() -> None:
    found = rows('{"sku": "A"}\n\n{"sku": ""}\n{"sku": "B", "weight_g": 5}', NDJSON, Item)
    assert [(row.line, row.pointer) for row in found] == [(1, ""), (3, "/sku"), (4, "")]
    assert found[2].value == Item(sku="B", weight_g=5)


def test_csv_columns_become_fields() -> None:
    text = 'sku,weight_g,ship_alone,tags,components\n"A, b",5,true,cold|oversize,\nK,,,,SKU:2|X:Y:1\n'
    found = rows(text, CSV, Item, item_fields)
    assert found[0].value == Item(sku="A, b", weight_g=5, ship_alone=True, tags=["cold", "oversize"])
    assert [(c.sku, c.quantity) for c in found[1].value.components] == [("SKU", 2), ("X:Y", 1)]
    text = "node_id,postal_code,lat,lon,working_days,capacity_per_day,capacity_unit\nN,10001,1.5,-2,0|6,7,units\n"
    node = rows(text, CSV, Node, node_fields)[0].value
    assert (node.working_days, node.capacity.per_day, node.capacity.unit) == ((0, 6), 7, "units")


@pytest.mark.parametrize(
    ("line", "pointer"),
    [
        ("N,S,-1", "/quantity"),
        ("N,S,x", "/quantity"),
        ("N,S,", "/quantity"),
        ("N,S", ""),
        ("N,S,1,2", ""),
        ("N,\x01,1", "/sku"),
    ],
)
def test_bad_csv_rows_are_named(line: str, pointer: str) -> None:
    [row] = rows(f"node_id,sku,quantity\n{line}\n", CSV, CountLine)
    assert row.value is None
    assert (row.line, row.pointer) == (2, pointer)
    assert row.detail


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (b"", CSV),
        (b"a,a\n", CSV),
        (b"sku\n\xff\n", CSV),
        (b'sku\n"open', CSV),
        (b"sku\n" + b"x" * LINE_BYTES_MAX * 2, CSV),
        (b"x" * (LINE_BYTES_MAX + 1), NDJSON),
        (("," * 300 + "\n").encode(), CSV),
    ],
)
def test_files_that_cannot_be_read_are_faults(data: bytes, media: str) -> None:
    with pytest.raises(FileFault):
        rows(data, media, Item)


class _Owners:
    """A gateway whose shards answer only once several of them have been asked."""

    def __init__(self, together: int) -> None:
        self.asked: list[CountStock] = []
        self._together = asyncio.Barrier(together)

    async def ask_node(self, node_id: str, command: CountStock) -> Reply:
        self.asked.append(command)
        await self._together.wait()
        return StockReply((), 0, 1, 1)


class _Shard:
    def __init__(self, shop: LoneCore) -> None:
        self.shop = shop

    async def ask_node(self, node_id: str, command: CountStock) -> Reply:
        return self.shop.ask(command)


@pytest.mark.parametrize("source_seq", [None, 7])
async def test_a_count_of_a_node_that_is_too_long_for_a_command_is_put_in_parts(
    monkeypatch: pytest.MonkeyPatch, source_seq: int | None
) -> None:
    items = [*[an_item(f"SKU-{n}") for n in range(5)], an_item("SET", components={"SKU-0": 1})]
    shop = a_shop({"N-0": {f"SKU-{n}": 9 for n in range(5)}}, items=items)
    monkeypatch.setattr(imports, "ROWS_MAX", 2)
    monkeypatch.setattr(decide_stock, "ROWS_MAX", 2)
    query = CountImportQuery(scope="full", source="wms" if source_seq else None, source_seq=source_seq)

    async def put(units: int) -> Job:
        skus = ("SKU-0", "SKU-1", "SKU-2", "SKU-3", "SET")
        rows = [Row(n, CountLine(node_id="N-0", sku=sku, quantity=units)) for n, sku in enumerate(skus, 1)]
        job = a_job(key_hash=units)
        await import_counts(_Shard(shop), job, query, shop.now_ms, iter(rows))  # type: ignore[arg-type]
        return job

    job = await put(4)
    assert (job.rows_done, job.problem, [error.line for error in job.errors]) == (5, None, [5])
    assert [free(shop, f"SKU-{n}", "N-0") for n in range(5)] == [4, 4, 4, 4, 0], "the last part had a bad row alone"
    if source_seq:
        again = await put(3)
        assert (again.rows_failed, free(shop, "SKU-3", "N-0")) == (5, 4), "an old count went on with itself"


@pytest.mark.parametrize(("scope", "left"), [("full", [9, 9, 9, 9, 4, 0]), ("delta", [4, 9, 9, 4, 4, 9])])
async def test_a_node_with_a_row_that_cannot_be_read_is_not_counted_as_a_whole(scope: Any, left: list[int]) -> None:
    """Its SKU would be taken as one that the count does not list. The row may be of the node before it or of the next one."""
    shop = a_shop({f"N-{node}": {"SKU-0": 9, "SKU-1": 9} for node in range(3)}, nodes=3)
    found: list[Row] = []
    for node, sku in ((0, 0), (1, 1), (2, 0)):
        found.append(Row(len(found) + 1, CountLine(node_id=f"N-{node}", sku=f"SKU-{sku}", quantity=4)))
    found.insert(1, Row(9, None, "/quantity", "Expected `int`"))
    job = a_job()
    query = CountImportQuery(scope=scope)
    await import_counts(_Shard(shop), job, query, shop.now_ms, iter(found))  # type: ignore[arg-type]
    assert [free(shop, f"SKU-{sku}", f"N-{node}") for node in range(3) for sku in range(2)] == left
    assert sorted(error.line for error in job.errors) == ([1, 2, 9] if scope == "full" else [9])


async def test_a_node_that_is_refused_stops_no_other_one() -> None:
    shop = a_shop({"N-0": {"SKU-0": 9}})
    found = [Row(n, CountLine(node_id=node, sku="SKU-0", quantity=4)) for n, node in enumerate(("nope", "N-0"), 1)]
    job = a_job()
    await import_counts(_Shard(shop), job, CountImportQuery(), shop.now_ms, iter(found))  # type: ignore[arg-type]
    assert (job.problem, [(error.line, error.pointer) for error in job.errors]) == (None, [(1, "/node_id")])
    assert free(shop, "SKU-0", "N-0") == 4


async def test_counts_of_several_nodes_go_out_together_and_keep_their_order_within_a_node() -> None:
    """Files are often sorted by SKU: one row of each store after the other."""
    owners = _Owners(4)
    job = a_job()
    found = [Row(n + 2, CountLine(node_id=f"N-{n % 4}", sku=f"S-{n}", quantity=n)) for n in range(CHUNK_ROWS * 2)]
    await asyncio.wait_for(import_counts(owners, job, CountImportQuery(), 0, iter(found)), 60.0)  # type: ignore[arg-type]
    assert (job.rows_done, job.rows_failed, job.problem) == (len(found), 0, None)
    for node in range(4):
        commands = [command for command in owners.asked if command.node_id == f"N-{node}"]
        assert len(commands) == 2
        assert commands[0].source_seq < commands[1].source_seq
        assert [int(sku[2:]) for command in commands for sku, _ in command.rows] == list(range(node, len(found), 4))
