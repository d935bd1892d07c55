"""`quartermaster explain`: why an order went where it went."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from engine.cli.connect import Connected, connected, engine_settings, give_up
from engine.domain import explanation
from engine.domain.commands import ExplainNode, GetDecision, GetOrder
from engine.domain.decisions import DecisionRecord, UnknownSchema, decode
from engine.domain.explanation import Explanation, money
from engine.domain.ids import OrderRef, parse_public_id
from engine.domain.replies import DecisionReply, OrderView, Problem, Reply
from engine.journal.port import JournalError
from engine.settings import Settings

ASK_TIMEOUT_S = 10.0
_GONE = {"not_found", "wrong_state"}
"""Answers after which the archive is asked: the entry was trimmed, or the order has left its shard."""
_out = Console()
_err = Console(stderr=True)


def explain(
    decision_id: Annotated[str, typer.Argument(help="A decision_id (dec_...) from an answer of the API.")],
    node: Annotated[str | None, typer.Option(help="Say why this node was chosen or not.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the running engine.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")] = None,
) -> None:
    """Show why an order went where it went: the choice, the runner-up, each candidate with its reason and numbers.

    Begins with one plain sentence. Money is shown apart: cash (what shipping costs), service (what lateness and days in transit
    are worth), policy (what rules say) and scarce stock. Decisions of
    orders that have left memory are read from the archive.

    Exit code: 0 = explained, 1 = no such decision, 2 = not a decision id, 3 = no engine to ask.

    Example: quartermaster explain dec_US100_0f3k2m9qz1a2b_0 --node STORE-17
    """
    parsed = parse_public_id(decision_id, "dec", has_suffix=True)
    if parsed is None:
        _err.print(f"[red]{decision_id} is not a decision id[/]", highlight=False, soft_wrap=True)
        _err.print("it looks like dec_US100_0f3k2m9qz1a2b_0: the field decision_id of an answer", highlight=False)
        raise typer.Exit(2)
    settings = engine_settings(data_dir, redis_url)

    async def run() -> int:
        async with connected(settings) as engine:
            return await _explain(engine, settings, decision_id, *parsed, node)

    raise typer.Exit(asyncio.run(run()))


async def _explain(
    engine: Connected, settings: Settings, decision_id: str, ref: OrderRef, number: int, node: str | None
) -> int:
    order = await _ask(engine, ref, GetOrder(ref.slot, ref.order_no))
    reply = await engine.cluster.ask_decision(GetDecision(*ref, number), timeout_s=ASK_TIMEOUT_S)
    if settings.archives and {_code(order), _code(reply)} & _GONE:
        order, reply = _from_past(engine, settings, ref, number, order, reply)
    if not isinstance(order, OrderView) or not isinstance(reply, DecisionReply):
        detail = next((one.detail for one in (order, reply) if isinstance(one, Problem)), "")
        _err.print(f"[red]there is no decision {decision_id}[/] ({detail or 'unexpected answer'})", highlight=False)
        return 1
    try:
        record = decode(reply.record)
    except (UnknownSchema, msgspec.DecodeError) as error:
        give_up(f"the record of {decision_id} cannot be read: {error}", "it was written by another version")
    catalog = engine.cluster.catalog
    if node is not None:
        return await _explain_node(engine, ref, record, order, node)
    lines, unfilled = explanation.lines_of(order)
    show(
        explanation.explain(
            record, catalog, lines=lines, unfilled=unfilled, currency=order.currency, entry=reply.entry
        ),
        decision_id,
        order,
    )
    return 0


async def _ask(engine: Connected, ref: OrderRef, command: GetOrder | ExplainNode) -> Reply:
    cluster = engine.cluster
    return await cluster.ask_owner(lambda: cluster.shard_of_slot(ref.slot), command, timeout_s=ASK_TIMEOUT_S)


def _code(reply: Reply) -> str:
    return reply.code if isinstance(reply, Problem) else ""


def _from_past(
    engine: Connected, settings: Settings, ref: OrderRef, number: int, order: Reply, reply: Reply
) -> tuple[Reply, Reply]:
    """What the shard no longer has, out of the archive; as it was where that has it neither."""
    from engine.archive.past import Past  # SQLAlchemy takes a third of a second to load, and is seldom needed

    past = Past(settings, lambda: engine.cluster.catalog)
    try:
        if _code(order) in _GONE:
            order = past.order(*ref) or order
        if _code(reply) in _GONE:
            reply = past.decision(ref.order_no, number) or reply
    except JournalError as error:
        _err.print(f"[yellow]the archive cannot be read: {error}[/]", highlight=False, soft_wrap=True)
    finally:
        past.close()
    return order, reply


# -- one node -----------------------------------------------------------------------------------------------------


async def _explain_node(
    engine: Connected, ref: OrderRef, record: DecisionRecord, order: OrderView, node_id: str
) -> int:
    """Why one node was chosen or not: from the record, else planned again as things are now."""
    catalog = engine.cluster.catalog
    index = catalog.node_of.get(node_id)
    if index is None:
        _err.print(f"[red]there is no node {node_id}[/]", highlight=False)
        return 1
    said = explanation.why_not(record, catalog, index, order.currency)
    if said is not None:
        _out.print(said, highlight=False, soft_wrap=True)
        return 0
    reply = await _ask(engine, ref, ExplainNode(ref.slot, ref.order_no, node_id))
    _out.print(explanation.why_now(reply, order, catalog, order.currency), highlight=False, soft_wrap=True)
    return 0


# -- the whole ----------------------------------------------------------------------------------------------------


def show(found: Explanation, decision_id: str, order: OrderView) -> None:
    """The decision for a person."""
    _out.print(f"[bold]{found.sentence}[/]", highlight=False, soft_wrap=True)
    when = found.decided_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    about = f"{decision_id}, order {order.order_id} ({order.state}), decided {when}"
    _out.print(f"[dim]{about}[/]", highlight=False, soft_wrap=True)
    _out.print()
    _out.print(_legs(found))
    cash, service, policy, opportunity = found.money_minor
    cur = found.currency
    _out.print(
        f"cash {money(cash, cur)} + service {money(service, cur)} + policy {money(policy, cur)} + scarce stock "
        f"{money(opportunity, cur)} = score {money(cash + service + policy + opportunity, cur)}",
        highlight=False,
        soft_wrap=True,
    )
    if found.runner_up is not None:
        nodes, parts = found.runner_up
        kinds = ("cash", "service", "policy", "scarce stock")
        told = ", ".join(
            f"{kind} {money(part, cur, signed=True)}" for kind, part in zip(kinds, parts, strict=True) if part
        )
        _out.print(f"runner-up: {nodes} ({told or 'the same money'})", highlight=False, soft_wrap=True)
    if found.candidates:
        _out.print()
        _out.print(_candidates(found))
    counted = "; ".join(f"{label}: {count:,}" for label, count in found.looked_at)
    _out.print()
    _out.print(f"rung {found.rung}, within {found.scope}", highlight=False, soft_wrap=True)
    for label, value in found.gap:
        _out.print(f"  {label}: {value}", highlight=False)
    if counted:
        _out.print(counted, highlight=False, soft_wrap=True)
    _out.print("[dim]" + ", ".join(f"{name} {value}" for name, value in found.versions) + "[/]", highlight=False)


def _table(*columns: tuple[str, str]) -> Table:
    """Columns that are figures or dates stay whole in a narrow terminal; texts wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, kind in columns:
        table.add_column(heading, justify="right" if kind == "figure" else "left", no_wrap=kind != "text")
    return table


def _legs(found: Explanation) -> Table:
    """Kinds of cash that no leg has are left out."""
    kinds = ("postage", "per line", "per unit", "node fee")
    shown = [n for n in range(len(kinds)) if n == 0 or any(leg.cash_minor[n] for leg in found.legs)]
    split = any(leg.lines for leg in found.legs)
    table = _table(
        ("leg from", "text"),
        *((("lines", "text"),) if split else ()),
        ("by", "text"),
        ("ships", "date"),
        ("days", "figure"),
        ("parcels", "figure"),
        *((kinds[n], "figure") for n in shown),
        ("service", "figure"),
    )
    for leg in found.legs:
        cash = [money(leg.cash_minor[n], found.currency) for n in shown]
        service = money(leg.service_minor, found.currency)
        lines = (", ".join(map(str, leg.lines)) or "-",) if split else ()
        table.add_row(leg.node, *lines, leg.carrier, leg.ships_on, str(leg.days), str(leg.parcels), *cash, service)
    return table


def _candidates(found: Explanation) -> Table:
    table = _table(("candidate", "text"), ("km", "figure"), ("verdict", "text"), ("why", "text"))
    for one in found.candidates:
        style = "green" if one.verdict == "chosen" else ""
        table.add_row(one.node, f"{one.km:,}", one.verdict, one.reason, style=style)
    return table
