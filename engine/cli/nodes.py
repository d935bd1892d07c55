"""`quartermaster nodes`: switch a node on, drain it or switch it off, and see what it has still to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from engine.cli.connect import connected, engine_settings, give_up
from engine.client.node_work import summed
from engine.domain.commands import GetConfig, GetNodeWork, PutConfig
from engine.domain.config import Node
from engine.domain.placement import CONTROL_SHARD
from engine.domain.replies import ConfigReply, NodeWork, Problem
from engine.settings import Settings

ASK_TIMEOUT_S = 30.0
_out = Console()

app = typer.Typer(
    name="nodes",
    no_args_is_help=True,
    help=(
        "Switch nodes and watch them. `drain`: takes nothing new, finishes what it has. `off`: begins nothing either; what is "
        "not released is served from elsewhere."
    ),
)
NodeId = Annotated[str, typer.Argument(help="Id of the node.")]
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the running engine.")]
RedisUrl = Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")]


@app.command()
def switch(
    node_id: NodeId,
    state: Annotated[Literal["on", "drain", "off"], typer.Argument(help="What it is to be.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
) -> None:
    """Switch a node; orders decided from now on obey.

    Example: quartermaster nodes switch STORE-17 drain
    """
    asyncio.run(_switch(engine_settings(data_dir, redis_url), node_id, state))
    _out.print(f"{node_id} is {state}", highlight=False)


@app.command()
def work(
    node_id: NodeId,
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit code 1 while it is not finished.")] = False,
) -> None:
    """Show what a node has still to do: units held and allocated, legs by state.

    Example: while quartermaster nodes work STORE-17 --check; [ $? = 1 ]; do sleep 60; done
    """
    facts = asyncio.run(_work(engine_settings(data_dir, redis_url), node_id))
    if as_json:
        typer.echo(msgspec.json.encode(facts))
    else:
        legs = ", ".join(f"{count} {state}" for state, count in sorted(facts["legs"].items())) or "none"
        _out.print(f"{node_id} is {facts['node_state']}", highlight=False)
        _out.print(f"units   {facts['units_allocated']} allocated, {facts['units_held']} held", highlight=False)
        _out.print(f"legs    {legs}{' and more' if facts['legs_more'] else ''}", highlight=False)
        _out.print("finished" if facts["finished"] else "not finished", highlight=False)
    if check and not facts["finished"]:
        raise typer.Exit(1)


def _no_node(node_id: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"there is no node {node_id!r}: its id is what `quartermaster import nodes` was given", param_hint="'NODE_ID'"
    )


async def _switch(settings: Settings, node_id: str, state: Literal["on", "drain", "off"]) -> None:
    async with connected(settings, kinds=("node",)) as found:
        stored = await found.cluster.ask(CONTROL_SHARD, GetConfig("node", node_id), timeout_s=ASK_TIMEOUT_S)
        if not isinstance(stored, ConfigReply):
            if isinstance(stored, Problem) and stored.code == "not_found":
                raise _no_node(node_id)
            give_up(f"the control shard does not answer: {getattr(stored, 'detail', stored)}", "try again")
        if not stored.documents:
            raise _no_node(node_id)
        (doc,) = stored.documents
        node = msgspec.json.decode(doc.document, type=Node)
        if node.state == state:
            return
        text = msgspec.json.encode(msgspec.structs.replace(node, state=state))
        command = PutConfig("node", (text,), if_version=doc.version)  # somebody else's change is not taken back
        reply = await found.cluster.ask(CONTROL_SHARD, command, timeout_s=ASK_TIMEOUT_S)
        if not isinstance(reply, ConfigReply):
            give_up(f"{node_id} was not switched: {getattr(reply, 'detail', reply)}", "try again")


async def _work(settings: Settings, node_id: str) -> dict[str, Any]:
    async with connected(settings, kinds=("node",)) as found:
        catalog = found.cluster.catalog
        node = catalog.node_of.get(node_id)
        document = catalog.nodes[node] if node is not None else None
        if document is None:
            raise _no_node(node_id)
        replies = await found.cluster.ask_all(GetNodeWork(node_id), timeout_s=ASK_TIMEOUT_S)
        silent = [shard for shard, reply in replies.items() if not isinstance(reply, NodeWork)]
        if silent:
            give_up(f"shard {silent[0]} does not answer", "look at: quartermaster status")
        return summed(node_id, document.state, [reply for reply in replies.values() if isinstance(reply, NodeWork)])
