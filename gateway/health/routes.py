"""/livez, /readyz, /version, /metrics, and the pages that problem types point at."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from engine.domain.placement import CONTROL_SHARD
from engine.domain.problems import CODES
from engine.domain.replies import Problem
from gateway.call import PUBLIC, Answer, Call, Route
from gateway.errors import problem
from gateway.health.gateway_metrics import gateway_families
from gateway.health.schemas import Live, ProblemPage, Ready, ShardHealth, Version
from gateway.health.shard_metrics import shard_families
from gateway.problem_pages import PAGES

_VERSION = Version(version("quartermaster"), "v1", platform.python_version())


def livez(call: Call) -> Answer:
    return Answer(Live("ok"))


def get_version(call: Call) -> Answer:
    return Answer(_VERSION)


async def readyz(call: Call) -> Answer:
    """503 while being stopped, and while any shard or the configuration is out of reach."""
    gateway = call.gateway
    shards = []
    reason = "stopping" if gateway.draining else None
    for shard, facts in (await gateway.statuses.all()).items():
        name = "control" if shard == CONTROL_SHARD else str(shard)
        if isinstance(facts, Problem):
            shards.append(ShardHealth(name, facts.code, None, None, facts.detail))
            reason = reason or f"shard {name}: {facts.code}"
        else:
            state = "journal_full" if facts.get("journal_full") else "serving"
            shards.append(ShardHealth(name, state, facts.get("epoch"), facts.get("durable_seq"), None))
    config_version = gateway.cluster.catalog.version
    if not config_version:
        reason = reason or "no configuration yet"
    status = "not_ready" if reason else "ready"
    ready = Ready(status, reason, gateway.settings.durability, config_version, shards)
    return Answer(ready, 503 if reason else 200)


async def metrics(call: Call) -> Answer:
    gateway = call.gateway
    facts = await gateway.statuses.all()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    text = generate_latest(registry)
    now = CollectorRegistry()
    now.register(_Families(gateway.metrics.collect()))
    now.register(_Families(gateway_families(gateway)))
    now.register(_Families(shard_families(facts)))
    return Answer(text + generate_latest(now), media_type=CONTENT_TYPE_PLAIN_0_0_4.encode())


class _Families:
    """A collector of families that were made just now."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def problem_page(call: Call) -> Answer | Problem:
    """What a problem's `type` points at."""
    code = call.params[0]
    known, page = CODES.get(code), PAGES.get(code)
    if known is None or page is None:
        return problem("not_found", f"no problem code {code!r}")
    return Answer(ProblemPage(code, known.status, known.title, page.cause, page.cure))


def openapi(call: Call) -> Answer | Problem:
    from gateway.openapi import document_bytes

    if not call.gateway.settings.docs_enabled:
        return problem("not_found", "documentation is not served here")
    return Answer(document_bytes(), media_type=b"application/json")


def docs(call: Call) -> Answer | Problem:
    from gateway.health.docs_page import CONTENT_SECURITY_POLICY, page

    if not call.gateway.settings.docs_enabled:
        return problem("not_found", "documentation is not served here")
    policy = (b"content-security-policy", CONTENT_SECURITY_POLICY)
    return Answer(page(), headers=(policy,), media_type=b"text/html; charset=utf-8")


ROUTES = [
    Route("GET", "/livez", PUBLIC, livez, "Whether the process runs", "health", answer=Live),
    Route(
        "GET",
        "/readyz",
        PUBLIC,
        readyz,
        "Whether requests can be served",
        "health",
        "200 when every shard answers and the configuration is there; 503 with the same body when not.",
        answer=Ready,
        also={503: Ready},
    ),
    Route("GET", "/version", PUBLIC, get_version, "Version of the software and of the API", "health", answer=Version),
    Route(
        "GET",
        "/metrics",
        "metrics:read",
        metrics,
        "Measurements in Prometheus' text format",
        "health",
        "Of this gateway process and of all shards.",
        answer=str,
        answer_type="text/plain",
    ),
    Route(
        "GET",
        "/problems/{code}",
        PUBLIC,
        problem_page,
        "What a problem code means",
        "health",
        "The `type` of every problem points here.",
        answer=ProblemPage,
    ),
    Route(
        "GET",
        "/openapi.json",
        PUBLIC,
        openapi,
        "This document",
        "health",
        "`404` where QM_DOCS_ENABLED is off.",
        answer=dict,
        answer_type="application/json",
        problems=("not_found",),
    ),
    Route(
        "GET",
        "/docs",
        PUBLIC,
        docs,
        "This document as a page",
        "health",
        "`404` where QM_DOCS_ENABLED is off.",
        answer=str,
        answer_type="text/html",
        problems=("not_found",),
    ),
]
