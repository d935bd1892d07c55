"""`python -m gateway --port N`: one gateway process. SIGTERM: unready, finish what is in flight, exit."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from types import FrameType

import structlog
import uvicorn

from engine.client.cluster import Cluster
from engine.journal.discovery import Directory
from engine.large_pages import keep_making
from engine.logs import set_up_logging
from engine.ports import bind_reserved
from engine.settings import Settings
from gateway.app import create_app
from gateway.asgi import Door
from gateway.lean import lean_protocol

CONFIG_KINDS = ("node", "channel", "carrier", "key", "placement", "secret")
"""What a gateway follows of the configuration: not the items, of which there may be millions."""
CONFIG_WAIT_S = 30.0
BACKLOG = 2_048
KEEP_ALIVE_S = 75
GC_THRESHOLD = 50_000
"""Requests make no cycles: looking for them every 700 objects is a twentieth of the CPU."""
FILES_RESERVED = 256
"""Open files that are no clients' connections: links to shards, uploads, logs."""
log = structlog.get_logger(__name__)


class GatewayServer(uvicorn.Server):
    """uvicorn, but unready from the first signal on, and an orderly stop is exit code 0 (uvicorn raises the signal again)."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door = door

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._door.gateway.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._door.gateway.live.stop()  # uvicorn waits for what is under way, and streams are for ever
        await super().shutdown(sockets)


def server_config(door: Door, settings: Settings, *, port: int) -> uvicorn.Config:
    """How uvicorn is run: its fast parts, no access log, bounded drain."""
    return uvicorn.Config(
        door,
        host=settings.host,
        port=port,
        loop="uvloop",
        http=lean_protocol(door),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.request_timeout_ms // 1_000 + 2,
    )


def room_for_connections(wanted: int) -> int:
    """How many connections the limit on open files leaves room for, having raised that as far as it goes; `wanted` at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + FILES_RESERVED
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= files:
        return wanted
    room = max(1, soft - FILES_RESERVED)
    log.warning(
        "the limit on open files allows fewer connections than QM_CONNECTIONS_MAX", connections=room, files=soft
    )
    return room


async def serve(settings: Settings, port: int, *, is_reserved: bool = False) -> None:
    """Connect to the cluster and serve until told to stop. `is_reserved`: the port is kept for this process by another."""
    if settings.redis_url is None:
        raise SystemExit("QM_REDIS_URL is not set: a gateway finds the shards through the journal's server")
    directory = Directory(settings.redis_url.get_secret_value())
    cluster = Cluster(
        directory.find,
        kinds=CONFIG_KINDS,
        token=settings.cluster_token.get_secret_value() if settings.cluster_token else "",
        timeout_s=settings.request_timeout_ms / 1_000,
    )
    await cluster.start()
    try:
        if not await cluster.wait_configured(CONFIG_WAIT_S):
            log.warning("no configuration yet; serving all the same, unready", waited_s=CONFIG_WAIT_S)
        door = create_app(cluster, settings)
        door.gateway.connections.limit = room_for_connections(settings.connections_max)
        server = GatewayServer(server_config(door, settings, port=port), door)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        keep_making(wanted=settings.large_pages)
        sockets = [_reserved(settings.host, port)] if is_reserved else None
        log.info("gateway serving", host=settings.host, port=port)
        await server.serve(sockets=sockets)
        await door.gateway.live.close()
        await door.gateway.stock.close()
        await door.gateway.jobs.close()
        door.gateway.history.close()
    finally:
        await cluster.close()
        await directory.close()


def _reserved(host: str, port: int) -> socket.socket:
    try:
        return bind_reserved(host, port)
    except OSError as error:
        raise SystemExit(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway", description="One gateway process of Quartermaster.")
    parser.add_argument("--port", type=int, default=None, help="port to listen on (default: QM_PORT)")
    parser.add_argument(
        "--reserved", action="store_true", help="share the port with the process that reserved it for this one"
    )
    arguments = parser.parse_args()
    settings = Settings()
    set_up_logging(settings)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING))  # uvicorn's own words
    with asyncio.Runner(loop_factory=_uvloop) as runner:
        port = arguments.port if arguments.port is not None else settings.port
        runner.run(serve(settings, port, is_reserved=arguments.reserved))


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
