"""Writes docs/reference/metrics.md from the families that /metrics is made of. Run: .venv/bin/python -m docs.tools.metrics"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric

from gateway.health.gateway_metrics import empty_families
from gateway.health.shard_metrics import empty_family, facts_documented, up_family
from gateway.metrics import Metrics

PAGE = Path(__file__).parents[1] / "reference" / "metrics.md"
HEAD = """# Metrics

Each gateway answers `GET /metrics` in Prometheus' text format, to a key with the scope `metrics:read`: its own families, and those of all
shards, which it asks at most four times a second. Every gateway shows the same shards, so scrape all gateways and take the shards' families
from any one of them. Counters begin at 0 when their process starts. Labels are bounded: routes, statuses, codes and shards, never an order or a SKU.

[alert-rules.yml](alert-rules.yml) has rules to begin with. This page is made from the code by `docs/tools/metrics.py`; a test keeps the two equal.
"""
SCRAPE = """
## Scrape it

```yaml
scrape_configs:
  - job_name: quartermaster
    authorization: {credentials: "qm_..."}
    static_configs: [{targets: ["gateway-1:8080", "gateway-2:8080"]}]
rule_files: [alert-rules.yml]
```

A key for it: `quartermaster keys add prometheus --scope metrics:read`.
"""


def exposed_name(family: Metric) -> str:
    """As it stands in the text of /metrics."""
    return family.name + "_total" if family.type == "counter" else family.name


def gateway_families() -> list[Metric]:
    return [*Metrics().collect(), *empty_families().values()]


def shard_families() -> list[Metric]:
    return [up_family(), *(empty_family(fact) for fact in facts_documented())]


def labels(family: Metric) -> tuple[str, ...]:
    return tuple(getattr(family, "_labelnames", ()))


def _table(families: Iterable[Metric], *, with_labels: bool) -> str:
    head = (
        "| Family | Type | Labels | Meaning |\n| --- | --- | --- | --- |"
        if with_labels
        else "| Family | Type | Meaning |\n| --- | --- | --- |"
    )
    rows = []
    for family in families:
        cells = [f"`{exposed_name(family)}`", family.type]
        if with_labels:
            cells.append(", ".join(f"`{label}`" for label in labels(family)))
        rows.append("| " + " | ".join([*cells, family.documentation]) + " |")
    return "\n".join([head, *rows])


def page() -> str:
    """The whole page."""
    return (
        f"{HEAD}{SCRAPE}\n## Of a gateway\n\nBeside these, the process's own: `process_cpu_seconds_total`, `process_resident_memory_bytes`, "
        f"`process_open_fds` and so on.\n\n{_table(gateway_families(), with_labels=True)}\n\n"
        "## Of the shards\n\nLabel `shard`: a number, or `control` for the shard of the configuration, which states fewer facts.\n\n"
        f"{_table(shard_families(), with_labels=False)}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
