"""A network into a running engine for load tests that hold a plain `Client`."""

from __future__ import annotations

from loadtests.client import Client
from loadtests.filling import fill
from loadtests.network import Network


async def load_network(client: Client, network: Network, *, source: str = "loader") -> None:
    """Put everything that orders need. Raises FillError, or the public client's errors with the first refusal."""
    await fill(client.public(), network, source=source)
