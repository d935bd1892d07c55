"""How commands reach a running engine: the server that its data folder or the settings name, and through it the shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import typer
from rich.console import Console

from engine.client.cluster import Cluster
from engine.journal.discovery import Directory
from engine.journal.embedded import running_url
from engine.journal.port import JournalError
from engine.settings import Settings

CONNECT_TIMEOUT_S = 10.0
errors = Console(stderr=True)


class Connected(NamedTuple):
    cluster: Cluster
    redis_url: str
    directory: Directory


def engine_settings(data_dir: Path | None, redis_url: str | None) -> Settings:
    """Settings of the environment with what the command line says."""
    from engine.cli.up import settings_from

    return settings_from(data_dir=data_dir, redis_url=redis_url)


@asynccontextmanager
async def connected(settings: Settings, *, kinds: tuple[str, ...] | None = None) -> AsyncIterator[Connected]:
    """The cluster, with its configuration known (`kinds` limits which documents). Exits 3 with a sentence where there is none."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else running_url(settings.data_dir)
    if url is None:
        give_up(
            f"no engine is running on {settings.data_dir.resolve()}",
            f"start one with: quartermaster up --data-dir {settings.data_dir}",
        )
    try:
        directory = Directory(url)
    except ValueError as error:
        give_up(f"the address of the server makes no sense: {error}", "see --redis-url and QM_REDIS_URL")
    token = settings.cluster_token.get_secret_value() if settings.cluster_token else ""
    cluster: Cluster | None = None
    try:
        cluster = Cluster(directory.find, kinds=kinds, token=token, timeout_s=30.0)
        await cluster.start()
        if not await cluster.wait_configured(CONNECT_TIMEOUT_S):
            give_up(
                "the engine's control shard does not answer", "is `quartermaster up` still running? see its log for why"
            )
        yield Connected(cluster, url, directory)
    except JournalError as error:
        give_up(f"the journal cannot be read: {error}", "check that its server is up and try again")
    finally:
        if cluster is not None:
            await cluster.close()
        await directory.close()


def give_up(what: str, cure: str) -> NoReturn:
    """Say what is wrong and what helps, and end with exit code 3."""
    errors.print(f"[red]{what}[/]\n{cure}", soft_wrap=True, highlight=False)
    raise typer.Exit(3)
