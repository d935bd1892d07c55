"""`quartermaster keys`: API keys are made and revoked here, never over HTTP."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.cli.connect import connected, engine_settings, give_up
from engine.client.cluster import Cluster
from engine.domain.api_keys import KEY_ID_BYTES, SCOPES, new_key
from engine.domain.commands import PutConfig
from engine.domain.config import ApiKey
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply
from engine.settings import Settings

ASK_TIMEOUT_S = 30.0
DAY_MS = 86_400_000
DAYS_MAX = 3_650
EVERYTHING = "*"
_out = Console()

app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help=(
        "Make, list and revoke API keys. Only a hash of a key's secret is stored: the token is shown once, when it is made.\n\n"
        f"Scopes: {', '.join(SCOPES)}, or {EVERYTHING} for all."
    ),
)
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the running engine.")]
RedisUrl = Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in the list.")],
    scope: Annotated[list[str], typer.Option(help="A scope it has; repeat for more.")],
    channel: Annotated[
        list[str] | None, typer.Option(help="Only orders of this channel; repeat for more. Left out: all channels.")
    ] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, max=DAYS_MAX, help="Days until it ends.")] = None,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the key as JSON.")] = False,
) -> None:
    """Make a key and print its token, which cannot be shown again.

    Example: quartermaster keys add "web shop" --scope allocate:write --scope allocate:read --channel web --expires-days 365
    """
    unknown = [one for one in scope if one not in (*SCOPES, EVERYTHING)]
    if unknown:
        raise typer.BadParameter(
            f"no scope {unknown[0]!r}: {', '.join(SCOPES)} or {EVERYTHING}", param_hint="'--scope'"
        )
    if not name.strip():
        raise typer.BadParameter("say what the key is for", param_hint="'NAME'")
    expires_at_ms = None if expires_days is None else time.time_ns() // 1_000_000 + expires_days * DAY_MS
    channels = sorted(set(channel)) if channel else None
    token, document = new_key(
        secrets.token_hex(KEY_ID_BYTES),
        sorted(set(scope)),
        name=name.strip(),
        channels=channels,
        expires_at_ms=expires_at_ms,
    )
    asyncio.run(_add(engine_settings(data_dir, redis_url), document))
    if as_json:
        typer.echo(msgspec.json.encode({"key_id": document.key_id, "token": token}))
        return
    _out.print(f"key id  {document.key_id}", highlight=False)
    _out.print(f"token   {token}", highlight=False, soft_wrap=True)
    _out.print("Keep the token now: only its hash is stored.", highlight=False)


@app.command("list")
def list_keys(
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """Show all keys, revoked and ended ones too. Secrets are not stored, so none can be shown."""
    keys = asyncio.run(_all(engine_settings(data_dir, redis_url)))
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        rows = [
            {
                "key_id": key.key_id,
                "name": key.name,
                "state": _state(key, now_ms),
                "scopes": key.scopes,
                "channels": key.channels,
                "expires_at": None if key.expires_at_ms is None else _time(key.expires_at_ms),
            }
            for key in keys
        ]
        typer.echo(msgspec.json.encode(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("key id", "name", "state", "scopes", "channels", "ends"):
        table.add_column(heading)
    for key in keys:
        ends = "never" if key.expires_at_ms is None else _time(key.expires_at_ms)
        channels = "all" if key.channels is None else ", ".join(key.channels)
        table.add_row(key.key_id, key.name, _state(key, now_ms), ", ".join(key.scopes), channels, ends)
    _out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as the list shows it.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """End a key at once. It cannot be brought back; requests with it are answered 401.

    Example: quartermaster keys revoke 1f2e3d4c
    """
    asyncio.run(_revoke(engine_settings(data_dir, redis_url), key_id))
    _out.print(f"{key_id} is revoked", highlight=False)


async def _add(settings: Settings, document: ApiKey) -> None:
    async with connected(settings, kinds=("key", "channel")) as found:
        for channel in document.channels or ():
            if not any(one is not None and one.channel_id == channel for one in found.cluster.catalog.channels):
                give_up(f"there is no channel {channel!r}", "keys are for channels that exist: put the channel first")
        await _put(found.cluster, document)


async def _all(settings: Settings) -> list[ApiKey]:
    async with connected(settings, kinds=("key",)) as found:
        return sorted(found.cluster.catalog.keys.values(), key=lambda key: (key.revoked, key.name, key.key_id))


async def _revoke(settings: Settings, key_id: str) -> None:
    async with connected(settings, kinds=("key",)) as found:
        key = found.cluster.catalog.keys.get(key_id)
        if key is None:
            give_up(f"there is no key {key_id!r}", "see them with: quartermaster keys list")
        if not key.revoked:
            await _put(found.cluster, msgspec.structs.replace(key, revoked=True))


async def _put(cluster: Cluster, document: ApiKey) -> None:
    reply = await cluster.ask(
        CONTROL_SHARD, PutConfig("key", (msgspec.json.encode(document),)), timeout_s=ASK_TIMEOUT_S
    )
    if not isinstance(reply, ConfigReply):
        give_up(f"the key was not stored: {getattr(reply, 'detail', reply)}", "look at: quartermaster keys list")


def _state(key: ApiKey, now_ms: int) -> str:
    if key.revoked:
        return "revoked"
    return "ended" if key.expires_at_ms is not None and now_ms >= key.expires_at_ms else "good"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
