"""The databases that the index is tested on: SQLite, and a private PostgreSQL cluster on a Unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from tests.conftest import service_missing

_names = count()


def _binary(name: str) -> str | None:
    found = shutil.which(name)
    if found is None:
        installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(installed[-1]) if installed else None
    return found


def _run(*arguments: str) -> None:
    """As a user that PostgreSQL takes: it refuses to run as root."""
    if os.getuid() == 0:
        arguments = ("runuser", "-u", "postgres", "--", *arguments)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"


@contextmanager
def postgresql_cluster() -> Iterator[str]:
    """A running cluster of its own; yields its socket's folder. Skips, in CI fails, where PostgreSQL is missing."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        service_missing("PostgreSQL")
    assert initdb is not None and pg_ctl is not None
    folder = Path(tempfile.mkdtemp(prefix="qmpg", dir="/tmp"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    data, log = str(folder / "data"), str(folder / "log")
    try:
        _run(initdb, "-D", data, "-U", "qm", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        _run(pg_ctl, "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield str(folder)
        finally:
            _run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(socket_folder: str) -> str:
    """The URL of a fresh, empty database of the cluster."""
    name = f"t{next(_names)}"
    with psycopg.connect(host=socket_folder, user="qm", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://qm@/{name}?host={socket_folder}"
