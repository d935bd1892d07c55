"""`quartermaster demo`: the whole engine, a generated network, storefront traffic, live in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    duration: Annotated[float | None, typer.Option(help="Seconds of traffic; without it, until Ctrl-C.")] = None,
    orders: Annotated[Path | None, typer.Option(exists=True, help="Invoices to play instead.")] = None,
    nodes: Annotated[Path | None, typer.Option(exists=True, help="Store locations to ship from instead.")] = None,
    rate: Annotated[float, typer.Option(help="Orders a second.")] = 100.0,
    shards: Annotated[int, typer.Option(help="Stock shards.")] = 2,
    seed: Annotated[int, typer.Option(help="Network and traffic follow from it.")] = 1,
) -> None:
    """Start everything and play storefront traffic in real time."""
    raise typer.Exit(1)
