"""What /proc says of processes: CPU seconds, memory, children, who listens on a port. Linux only."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago; whoever starts on it checks with `owns_port`."""
    with socket.socket() as holder:
        holder.bind((host, 0))
        return int(holder.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads; 0.0 where there is none."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def threads_cpu_seconds(pid: int) -> float:
    """The same in nanosecond resolution, from the scheduler: for short measurements. Falls back to `cpu_seconds`."""
    total = 0
    try:
        for task in (_PROC / str(pid) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return cpu_seconds(pid)
    return total / 1e9 if total else cpu_seconds(pid)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pid: int) -> int:
    """The same, but a page that several processes share is counted in equal parts (PSS)."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1_024 for line in lines if line.startswith("Pss:"))


def descendants(pid: int) -> list[int]:
    """All processes below one, parents first; itself not included."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = sorted(children.get(queue.pop(0), []))
        found += below
        queue += below
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def command_line(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listener_inode(port: int) -> str | None:
    """Socket inode that listens on a TCP port of this machine."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return fields[9]
    return None


def owns_port(pid: int, port: int) -> bool:
    """Whether a process (or one below it) is the one that listens on a port. A stale server once held one."""
    inode = listener_inode(port)
    if inode is None:
        return False
    for candidate in [pid, *descendants(pid)]:
        try:
            with os.scandir(_PROC / str(candidate) / "fd") as entries:
                if any(os.readlink(entry.path) == f"socket:[{inode}]" for entry in entries):
                    return True
        except OSError:
            continue
    return False


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command name: state, parent, ...; empty where there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()
