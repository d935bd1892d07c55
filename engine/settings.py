"""Settings of all processes, read once from the environment by the entry points and passed down. Prefix QM_."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.pace import Pace

PORT_MAX = 65_535


class Settings(BaseSettings):
    """Everything that can be set. Every queue, retry and batch has its limit here or beside the code that it bounds."""

    model_config = SettingsConfigDict(env_prefix="QM_", frozen=True, extra="forbid")

    data_dir: Path = Path("data")
    """Where the embedded server keeps its files, and the runtime folder's lock."""
    runtime_dir: Path | None = None
    """Short 0700 folder for sockets; None = one under the system's temporary folder, by user and data folder."""
    redis_url: SecretStr | None = None
    """A server of your own (redis://, rediss://, unix://); None = the embedded one."""
    durability: Literal["always", "unverified"] = "always"
    """`unverified` starts although the server's `appendfsync always` cannot be proven; shown in /readyz."""
    shards: int = Field(2, ge=1, le=64)
    """Stock shards of a new data folder. An older one has its own, also those that were added since; a number above all that it ever had adds some."""
    gateways: int = Field(1, ge=1, le=64)
    """HTTP gateways: processes, one port each."""
    host: str = "127.0.0.1"
    """Address that gateways listen on."""
    port: int = Field(8080, ge=0, le=PORT_MAX)
    """The first gateway's port; the next ones follow. 0 = any free one. `up` keeps them for its gateways as long as it runs (Linux, Ray's processes its own)."""
    ray_address: str | None = None
    """A running cluster to join; None = a local one."""
    shard_host: str = "127.0.0.1"
    """Where shards listen for TCP (between machines); `node` = the address by which Ray knows the machine that a shard is on."""
    shard_port: int = Field(0, ge=0, le=65_000)
    """TCP port of the control shard; stock shard N listens on the one N + 1 above it. 0 = any free one."""
    tcp: bool = False
    """Serve shards over TCP besides Unix sockets."""
    cluster_token: SecretStr | None = None
    """Shared secret of TCP connections between machines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important messages that are logged."""

    max_lines: int = Field(1_000, ge=1, le=10_000)
    """Lines of one order."""
    body_bytes_max: int = Field(8 * 1024 * 1024, ge=1_024)
    """Bytes of one request body, imports aside."""
    import_bytes_max: int = Field(512 * 1024 * 1024, ge=1_024)
    """Bytes of one bulk import."""
    connections_max: int = Field(10_000, ge=1)
    """Connections a gateway serves at once; more are answered 503 and closed."""
    in_flight_max: int = Field(4_096, ge=1)
    """Requests a gateway works on at once; more are answered 503 at once."""
    request_timeout_ms: int = Field(10_000, ge=100)
    """After this a request is answered 503: its outcome is unknown, the same key tells it."""
    availability_age_max_ms: int = Field(5_000, ge=0)
    """Availability is answered from the gateway's own view while that is at most so old, else by the owners; 0 = always by them."""
    streams_max: int = Field(200, ge=0)
    """Live streams (`GET /v1/stream`) that a gateway serves at once; more are answered 503."""
    rate_per_key_per_s: int = Field(0, ge=0)
    """Requests a second for each API key; 0 = no limit."""
    docs_enabled: bool = True
    """Serve the API's own documentation at /docs and /openapi.json, without a key."""

    dedupe_max: int = Field(5_000_000, ge=1_000)
    """Idempotency keys remembered by a shard for 24 hours; beyond it for less, never under one hour."""
    hold_ttl_max_s: int = Field(86_400, ge=1, le=86_400)
    """Longest time to live that a reservation may ask for; none is held longer than 24 hours."""
    hold_units_per_key: int = Field(0, ge=0)
    """Units that the open reservations of one API key may hold, counted by home shard; 0 = no cap."""
    hold_units_per_customer: int = Field(0, ge=0)
    """Units that the open reservations of one customer may hold, counted by home shard; 0 = no cap."""
    hold_position_share_bp: int = Field(10_000, ge=1, le=10_000)
    """How much of the units on a node's shelf reservations may hold, in basis points; 10000 = all."""
    quote_ttl_s: int = Field(900, ge=1, le=604_800)
    """How long a quote of delivery options is valid; a request may ask for less."""
    quote_options_max: int = Field(8, ge=1, le=32)
    """Service levels that one quote plans; the order's own is always among them."""
    solver_deadline_ms: int = Field(40, ge=1)
    """How long colliding orders wait for the solver before their greedy plan is taken."""
    solver_in_flight_max: int = Field(4, ge=0)
    """Components at the solver at once, per shard; more keep their greedy plan. 0 = no solver process."""
    solver_rest_s: float = Field(900.0, ge=0)
    """Without orders for so long, the solver gives the memory of its library (140 MB) back, and the next order has it loaded again; until then colliding orders keep their greedy plan. 0 = loaded from the start, and kept."""
    reach_km: int = Field(0, ge=0)
    """How far from a destination nodes are considered; 0 = all."""
    candidates: int = Field(24, ge=1, le=64)
    """Nearest capable nodes that the kernel looks at for one order."""
    large_pages: bool = True
    """Keep the memory of shards, gateways and the archiver in pages of 2 MiB where Linux makes them (6.1 and newer)."""
    snapshot_interval_s: float = Field(5.0, gt=0)
    """How often changed parts are written as snapshots."""
    journal_retained_entries: int = Field(20_000, ge=1_000)
    """Entries kept before the older snapshot, so that `explain` can look back."""
    archive_url: str | None = None
    """Where the journals' past is kept: a folder or an fsspec URL (s3://bucket/folder); None = `archive` in the data folder; `off` = nowhere."""
    archive_seal_s: float = Field(300.0, gt=0)
    """A segment of the archive is written at the latest after this long, or when it has 8 MiB."""
    archive_lag_s: float = Field(30.0, ge=0)
    """While the machine is busy, archive and lists may be so many seconds behind: orders go first. 0 = never on purpose."""
    archive_retention_days: int = Field(0, ge=0)
    """Segments older than this are removed; 0 = never."""
    index_url: SecretStr | None = None
    """Database of lists and searches: sqlite:///FILE or postgresql://user:password@host/database; None = `index.db` in the data folder."""
    index_movements_days: int = Field(400, ge=0)
    """Movements older than this leave the index (orders and balances stay); 0 = never."""
    close_after_s: int = Field(3_600, ge=0)
    """An order whose legs are all at their end leaves the shard's memory after this long; the index keeps it. Never before it is there."""
    assume_delivered_after_days: int = Field(30, ge=0)
    """Shipped legs that nobody reports as delivered are taken to have arrived so many days after they left, or should have arrived; 0 = never."""
    lease_s: float = Field(2.0, gt=0.1)
    """A shard that cannot renew its epoch for so long stops answering reads and refusals."""

    clock_speed: int = Field(1, ge=1, le=1_000)
    """For long tests only: so many times as fast as the machine's does the engine's time run. Holds end, orders close and days pass by it."""
    clock_since_ms: int = Field(0, ge=0)
    """When a faster clock began (milliseconds since 1970); the same for every start of a data folder. Needed with QM_CLOCK_SPEED."""

    @property
    def pace(self) -> Pace:
        """The engine's time against the machine's."""
        return Pace(self.clock_speed, self.clock_since_ms)

    @property
    def serves_other_machines(self) -> bool:
        """Whether shards listen where other machines can reach them."""
        return self.tcp and self.shard_host not in ("127.0.0.1", "::1", "localhost")

    @property
    def reserves_ports(self) -> bool:
        """Whether the command keeps the gateways' ports: on Linux, with Ray processes of its own, which run as the same user."""
        return sys.platform == "linux" and self.ray_address is None

    @property
    def archives(self) -> bool:
        """Whether journals are archived and indexed."""
        return self.archive_url != "off"

    @model_validator(mode="after")
    def _a_faster_clock_has_a_beginning(self) -> Self:
        if self.clock_speed > 1 and not self.clock_since_ms:
            raise ValueError("QM_CLOCK_SINCE_MS must be set with QM_CLOCK_SPEED: restarted processes would disagree")
        return self

    @model_validator(mode="after")
    def _each_gateway_has_a_port(self) -> Self:
        if self.port and self.port + self.gateways - 1 > PORT_MAX:
            raise ValueError(
                f"QM_PORT {self.port} leaves no ports for {self.gateways} gateways: {PORT_MAX} is the last one"
            )
        return self

    @model_validator(mode="after")
    def _tcp_needs_a_token(self) -> Self:
        token = self.cluster_token.get_secret_value() if self.cluster_token is not None else ""
        if self.serves_other_machines and not token:
            raise ValueError("QM_CLUSTER_TOKEN must be set where shards listen beyond this machine")
        return self
