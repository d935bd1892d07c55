"""Two machines, as the how-to sets them up: shards spread over TCP, a gateway on each, and one Ray node lost with nothing else.

Both are this machine, at two loopback addresses; the second has a host name of its own (a UTS namespace), by which engines tell that a
Unix socket is not theirs, and does not see the first one's sockets (a mount namespace). Every command comes from the page.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from engine.domain.placement import CONTROL_SHARD
from engine.journal.discovery import Found, find
from engine.journal.runtime import runtime_dir
from tests.conftest import service_missing
from tests.integration.engine_process import _descendants as descendants
from tests.integration.network_over_http import fresh, order, post, set_up_network

pytestmark = pytest.mark.timeout(1_800)
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-on-a-cluster.md"
SECRETS, JOURNAL, HEAD, WORKER, UP, GATEWAY, CHECK = re.findall(
    r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S
)
FIRST, SECOND = "127.0.0.21", "127.0.0.22"
START_S = 600.0
RAY_STARTED = "Ray runtime started"
RAY_TRIES = 4
RAY_PORTS = range(6381, 6387)
LOSS_S = 600.0
ORDERS = 20


def wait_until(check: Callable[[], object], what: str, *, within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that are free on all addresses: of the two nodes' servers, some listen on every one."""
    holders = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [int(holder.getsockname()[1]) for holder in holders]
    for holder in holders:
        holder.close()
    return ports


class Machines:
    """Runs blocks of the page on one of the two machines, and ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ray_folder = tempfile.mkdtemp(prefix="qm-ray-")
        self.running: list[subprocess.Popen[bytes]] = []
        names = ("redis", "ray", "shards", "gateway", "gateway2")
        self.port = dict(zip(names, free_ports(len(names)), strict=True))
        self.ray_ports = {
            second: dict(zip(RAY_PORTS, free_ports(len(RAY_PORTS)), strict=True)) for second in (False, True)
        }
        self.on_second: list[subprocess.Popen[bytes]] = []
        self.sockets = runtime_dir(folder / "data")
        (folder / ".venv").symlink_to(sys.prefix)

    @property
    def urls(self) -> list[str]:
        return [f"http://{FIRST}:{self.port['gateway']}", f"http://{SECOND}:{self.port['gateway2']}"]

    @property
    def redis_url(self) -> str:
        return re.findall(r"QM_REDIS_URL=(\S+)", (self.folder / "cluster.env").read_text())[0]

    def here(self, block: str) -> str:
        """The block with the addresses, ports and folders of this test."""
        second = "10.0.0.2 " in block or "QM_HOST=10.0.0.2" in block
        port = self.port
        changes = {
            "http://10.0.0.2:8080": self.urls[1],
            "10.0.0.1": FIRST,
            "10.0.0.2": SECOND,
            ":6379": f":{port['redis']}",
            "port 6379": f"port {port['redis']}",
            ":6380": f":{port['ray']}",
            "--port=6380": f"--port={port['ray']} --temp-dir={self.ray_folder}",
            "-worker-port=10": f"-worker-port={22 if second else 21}",
            **{f"={told}": f"={ours}" for told, ours in self.ray_ports[second].items()},
            "7000": str(port["shards"]),
            "8080": str(port["gateway2" if second else "gateway"]),
            "s3://example-bucket/quartermaster": str(self.folder / "archive"),
            "postgresql://quartermaster:PASSWORD@10.0.0.3/quartermaster": f"sqlite:///{self.folder}/index.db",
        }
        for told, ours in changes.items():
            block = block.replace(told, ours)
        return block

    def start(self, block: str, *, second: bool = False) -> subprocess.Popen[bytes]:
        """A block that stays."""
        shell = ["bash", "-euo", "pipefail", "-c", self.here(block)]
        if second:
            shell = [*self._on_second(), *shell]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                shell,
                cwd=self.folder,
                env=clean,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        if second:
            self.on_second.append(process)
        return process

    def _on_second(self) -> list[str]:
        """How a program comes onto the second machine: the first one there makes it."""
        user = os.geteuid() != 0
        there = [process.pid for process in self.on_second if process.poll() is None]
        if there:
            enter = ["nsenter", f"--target={there[0]}", "--uts", "--mount"]
            return [*enter, *(["--user", "--preserve-credentials"] if user else []), f"--wd={self.folder}"]
        make = ["unshare", *(["--user", "--map-root-user"] if user else []), "--uts", "--mount", "bash", "-euc"]
        return [*make, f'hostname second; mount -t tmpfs none "{self.sockets}"; exec "$@"', "bash"]

    def start_ray(self, block: str, *, second: bool = False) -> subprocess.Popen[bytes]:
        """Ray gives its own processes 15 s and no more; a machine that is busy may need another try."""
        started = self._log().count(RAY_STARTED)
        for _ in range(RAY_TRIES):
            process = self.start(block, second=second)
            wait_until(partial(self._started_or_ended, process, started), "a Ray node")
            if process.poll() is None:
                return process
            self.running.remove(process)
        raise AssertionError(self.log())

    def _started_or_ended(self, process: subprocess.Popen[bytes], started: int) -> bool:
        return self._log().count(RAY_STARTED) > started or process.poll() is not None

    def run(self, block: str) -> str:
        """A block that ends; what it printed."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
        shell = ["bash", "-euo", "pipefail", "-c", self.here(block)]
        ran = subprocess.run(
            shell, cwd=self.folder, env=clean, capture_output=True, text=True, timeout=400, check=False
        )
        assert ran.returncode == 0, f"exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}\n{self.log()}"
        return ran.stdout

    def fails(self, block: str) -> str:
        """What a block says that must end with an error."""
        with pytest.raises(AssertionError) as failed:
            self.run(block)
        return str(failed.value)

    def log(self) -> str:
        """The end of what all of them said."""
        return self._log()[-6_000:]

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def ready(self, gateway: int) -> bool:
        assert all(process.poll() is None for process in self.running), self.log()
        try:
            return httpx.get(f"{self.urls[gateway]}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def client(self, gateway: int) -> httpx.Client:
        key = (self.folder / "data" / "admin.key").read_text().strip()
        return httpx.Client(base_url=self.urls[gateway], headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def shards(self, *added: int) -> dict[int, Found]:
        return asyncio.run(find(self.redis_url, [0, 1, CONTROL_SHARD, *added]))

    def lose(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9 of a process and all that it started, together."""
        self.running.remove(process)
        for pid in [process.pid, *descendants(process.pid)]:
            kill(pid)
        process.wait(60)

    def end(self) -> None:
        """The newest first, each in order, and by force where that takes too long."""
        for process in reversed(self.running):
            if process.poll() is None:
                below = descendants(process.pid)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(240)
                except subprocess.TimeoutExpired:
                    kill(process.pid)
                    process.wait(60)
                for pid in below:
                    kill(pid)
        for folder in (self.ray_folder, self.sockets):
            shutil.rmtree(folder, ignore_errors=True)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended already


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    for program in ("redis-server", "unshare", "nsenter", "curl"):
        if shutil.which(program) is None:
            service_missing(program)
    machines = Machines(tmp_path)
    yield machines
    machines.end()


def place_of(found: Found) -> tuple[str, int]:
    """Where a shard listens for other machines."""
    (address,) = [address for address in found.addresses if address.startswith("tcp:")]
    _, host, port = address.split(":")
    return host, int(port)


class Cluster(NamedTuple):
    head: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    up: subprocess.Popen[bytes]


def start_cluster(machines: Machines) -> Cluster:
    """Ray on both machines, and the engine; until its gateway is ready."""
    head = machines.start_ray(HEAD)
    worker = machines.start_ray(WORKER, second=True)
    up = machines.start(UP)
    wait_until(lambda: machines.ready(0), "the first gateway")
    return Cluster(head, worker, up)


def start_all(machines: Machines) -> Cluster:
    """The page from its beginning to where it is checked."""
    machines.run(SECRETS)
    machines.start(JOURNAL)
    cluster = start_cluster(machines)
    machines.start(GATEWAY, second=True)
    wait_until(lambda: machines.ready(1), "the second gateway")
    assert "drift 0" in machines.run(CHECK)
    return cluster


def assert_all_there(machines: Machines, acknowledged: list[str]) -> None:
    (machines.folder / "acknowledged").write_text("".join(f"{order_id}\n" for order_id in acknowledged))
    said = machines.run(". ./cluster.env\n.venv/bin/quartermaster verify --acknowledged acknowledged")
    assert "drift 0" in said


def test_a_ray_node_is_lost_and_nothing_else(machines: Machines) -> None:
    worker = start_all(machines).worker
    alone = UP.replace("exec ", "QM_TCP=false exec ").replace("./data", "./other").replace("8080", "0")
    assert "would not find each other" in machines.fails(alone)
    for machine in ("/", f"/proc/{worker.pid}/root"):
        solver = Path(f"{machine}{machines.sockets}") / "solver.sock"
        wait_until(solver.exists, f"a solver on each machine: {solver}")

    before = machines.shards()
    hosts = {}
    for shard, found in before.items():
        hosts[shard], port = place_of(found)
        assert port == machines.port["shards"] + (0 if shard == CONTROL_SHARD else shard + 1)
    assert {hosts[0], hosts[1]} == {FIRST, SECOND}, "stock shards are on different machines"
    lost, stays = (0, 1) if hosts[0] == SECOND else (1, 0)
    acknowledged: list[str] = []
    with machines.client(0) as first, machines.client(1) as second:
        set_up_network(first, units=1_000)
        at_home = {"NYC": lost, "LAX": stays}  # each order and its units at one shard
        for near, shard in at_home.items():
            slot = {"NYC": "US100", "LAX": "US900"}[near]
            for part in (f"node:{near}", f"slot:{slot}"):
                machines.run(f". ./cluster.env\n.venv/bin/quartermaster shards move {part} --to {shard}")

        def place(client: httpx.Client, near: str) -> httpx.Response:
            body = order({"SKU-1": 1}, near=near)
            answer = post(client, "/v1/allocations", body)
            if answer.status_code == 201:
                acknowledged.append(body["order_id"])
            return answer

        for _ in range(ORDERS):
            for client in (first, second):
                for near in at_home:
                    assert place(client, near).status_code == 201
        asked, key = order({"SKU-1": 1}, near="NYC"), fresh("key")
        placed = post(first, "/v1/allocations", asked, key=key).json()

        machines.lose(worker)
        deadline = time.monotonic() + LOSS_S
        meanwhile = 0
        while machines.shards()[lost].epoch == before[lost].epoch:
            assert time.monotonic() < deadline, machines.log()
            for client in (first, second):
                answer = place(client, "LAX")
                assert answer.status_code == 201, f"the other shard answers all the while: {answer.text}"
                assert client.get("/livez").status_code == 200, "load balancers go on sending"
                meanwhile += 1
        assert meanwhile > 0
        for client in (first, second):
            wait_until(lambda client=client: place(client, "NYC").status_code == 201, "its orders", within_s=LOSS_S)
            again = post(client, "/v1/allocations", asked, key=key)
            assert again.json()["allocation_id"] == placed["allocation_id"], "the same key, the same order"
    after = machines.shards()
    assert {place_of(found)[0] for found in after.values()} == {FIRST}
    assert after[stays].epoch == before[stays].epoch, "it never stopped"
    acknowledged.append(asked["order_id"])
    assert_all_there(machines, acknowledged)


def test_the_head_is_lost_and_the_cluster_is_made_again(machines: Machines) -> None:
    """A shard that was added is there again, too: the placement map says how many there are, whatever `up --shards` says."""
    head, worker, up = start_all(machines)
    with machines.client(0) as client:
        set_up_network(client)
        assert "shard 2 serves" in machines.run(". ./cluster.env\n.venv/bin/quartermaster shards add")
        for part in ("node:LAX", "slot:US900"):
            machines.run(f". ./cluster.env\n.venv/bin/quartermaster shards move {part} --to 2")
        before = machines.shards(2)
        assert place_of(before[2])[1] == machines.port["shards"] + 3
        bodies = [order({"SKU-1": 1}, near=near) for near in ("NYC", "LAX") * 3]
        assert [post(client, "/v1/allocations", body).status_code for body in bodies] == [201] * len(bodies)
    machines.lose(head)
    for process in (worker, up):
        machines.running.remove(process)
        assert process.wait(LOSS_S) == 1, "it ends by itself"
    start_cluster(machines)
    wait_until(lambda: machines.ready(1), "the second gateway, which ran all the while")
    after = machines.shards(2)
    assert all(after[shard].epoch > before[shard].epoch for shard in before)
    with machines.client(1) as client:
        assert post(client, "/v1/allocations", order({"SKU-1": 1})).status_code == 201
    assert_all_there(machines, [body["order_id"] for body in bodies])
