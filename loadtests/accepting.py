"""What the acceptance runs share: where they print and keep files, how they fail, and engines that end with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests.client import Client
from loadtests.loader import load_network
from loadtests.network import Network
from loadtests.servers import Engine


class Failed(RuntimeError):
    """A promise that did not hold; the message says which, with the numbers."""


@dataclass
class Acceptance:
    out: Console
    folder: Path
    seed: int
    orders: Path | None
    count: int

    def say(self, text: str) -> None:
        self.out.print(f"  {text}", highlight=False, markup=False)

    @asynccontextmanager
    async def engine(
        self, name: str, network: Network | None, *, shards: int = 1, gateways: int = 1, **env: str
    ) -> AsyncIterator[Engine]:
        """A running engine with the network loaded; stopped at the end."""
        engine = Engine(name, self.folder / name, shards=shards, gateways=gateways, env=env)
        try:
            await asyncio.to_thread(engine.start)
            if network is not None:
                async with Client(engine.url, engine.key) as client:
                    await load_network(client, network)
            yield engine
        finally:
            await asyncio.to_thread(engine.stop)


def need(condition: bool, what: str, *facts: Any) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(" ".join([what, *(str(fact) for fact in facts)]))
