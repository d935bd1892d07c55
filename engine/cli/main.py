"""The `quartermaster` command."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="quartermaster",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Real-time order allocation: never oversells, provably near-cheapest, explains every decision.\n\n"
        "Start with `quartermaster demo`, or `quartermaster up` for an engine of your own."
    ),
)


def build() -> typer.Typer:
    """All commands. Imported here, not above, so that `--help` stays quick."""
    from engine.cli.demo import demo
    from engine.cli.explain import explain
    from engine.cli.imports import app as imports
    from engine.cli.keys import app as keys
    from engine.cli.nodes import app as nodes
    from engine.cli.shards import app as shards
    from engine.cli.status import status
    from engine.cli.transfer import export, restore
    from engine.cli.up import up
    from engine.cli.verify import verify

    for command in (up, demo, explain, verify, status, export, restore):
        app.command()(command)
    app.add_typer(imports, name="import")
    app.add_typer(keys, name="keys")
    app.add_typer(shards, name="shards")
    app.add_typer(nodes, name="nodes")
    return app


def main() -> None:
    """Entry point of the console script."""
    from engine.logs import warn_on_stderr

    warn_on_stderr()
    build()()
