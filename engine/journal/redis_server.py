"""What a server must be before a journal trusts it, and getting our functions into it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from engine.journal.connection import Connection
from engine.journal.port import JournalError, Misconfigured, Unavailable

LIBRARY = "qm1"
VERSION_MIN = (7, 0)
_PROOF = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
_POLICY = "noeviction"


@cache
def library_code() -> str:
    return files("engine.journal").joinpath("functions.lua").read_text(encoding="utf-8")


async def load_library(connection: Connection) -> None:
    """Put our functions into the server unless they are there already. Raises Unavailable, Misconfigured."""
    code = library_code()
    libraries: list[Any] = await connection.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    if libraries:
        fields = libraries[0]
        held = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"library_code")
        if held == code.encode():
            return
    await connection.call("FUNCTION", "LOAD", "REPLACE", code)


async def info(connection: Connection, section: str) -> dict[str, str]:
    reply: bytes = await connection.call("INFO", section)
    pairs = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
    return {key: value for key, _, value in pairs}


async def check_version(connection: Connection) -> None:
    """Raises Misconfigured for servers without functions."""
    server = await info(connection, "server")
    version = server.get("valkey_version") or server.get("redis_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < VERSION_MIN:
        raise Misconfigured(f"the journal needs Redis 7.0 or Valkey 7.2 and newer; this server is {version}")


async def memory(connection: Connection) -> tuple[int, int]:
    """(used bytes, limit bytes or 0)."""
    facts = await info(connection, "memory")
    return int(facts["used_memory"]), int(facts.get("maxmemory", "0"))


async def durability_problems(connection: Connection) -> tuple[str, ...]:
    """What keeps `acknowledged` from meaning `on disk`, in words; empty = proven. Raises Unavailable."""
    try:
        reply = await connection.call("CONFIG", "GET", *_PROOF)
    except Unavailable:
        raise
    except JournalError as error:
        return (f"the server does not let its settings be read ({error})",)
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    settings = {key.decode(): value.decode() for key, value in pairs}
    problems = [
        f"{name} is {settings.get(name, 'unknown')}, it must be {wanted}"
        for name, wanted in _PROOF.items()
        if settings.get(name) != wanted
    ]
    facts = await info(connection, "persistence")
    if settings.get("appendonly") == "yes" and facts.get("aof_last_write_status", "ok") != "ok":
        problems.append("the last write to the append-only file failed")
    return tuple(problems)


async def check_fit(connection: Connection, *, must_be_durable: bool) -> None:
    """Raises Misconfigured, naming everything that is wrong."""
    await check_version(connection)
    problems = await durability_problems(connection) if must_be_durable else ()
    policy = (await info(connection, "memory")).get("maxmemory_policy", _POLICY)
    if policy != _POLICY:
        problems = (*problems, f"maxmemory-policy is {policy}, it must be {_POLICY}: anything else deletes journals")
    if problems:
        raise Misconfigured(
            "the server cannot be trusted with a journal: "
            + "; ".join(problems)
            + (
                ". Set QM_DURABILITY=unverified to run without the proof that acknowledged orders are on disk"
                if must_be_durable
                else ""
            )
        )
