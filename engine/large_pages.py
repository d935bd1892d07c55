"""Large pages for the memory of a process that decides, answers or archives orders.

A shard's state is millions of small objects all over its heap. With pages of 4 KiB nearly every step of a decision looks its page up
first, in a virtual machine twice; with pages of 2 MiB the processor has them all at hand. docs/explanation/decision.md has what it brings.

Linux 6.1 and newer make a large page of small ones where a process asks for it (madvise MADV_COLLAPSE); elsewhere nothing happens.
Asked for are only pages that are nearly all in use, so that a process grows by little, and rather few at a time: each is copied.
"""

from __future__ import annotations

import ctypes
import errno
import re
import sys
import threading

import structlog

PAGE_BYTES = 2 * 1024 * 1024
SMALL_PAGES = PAGE_BYTES // 4096
IN_USE_MIN = SMALL_PAGES * 31 // 32
PERIOD_S = 5.0
PAGES_PER_ROUND = 64
FORGET_ROUNDS = 100
"""A page that was given back and taken again is small again; nobody says so. Rounds that came to the end count."""
_NO_ROOM = (errno.ENOMEM, errno.EBUSY)
_MADV_COLLAPSE = 25
_ANONYMOUS = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(?:\[heap\])?$", re.MULTILINE)
log = structlog.get_logger(__name__)


class LargePages:
    """Makes large pages of this process's memory, a round at a time. Not for several threads."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._resident = ctypes.create_string_buffer(SMALL_PAGES)
        self._made: set[int] = set()
        self._rounds = 0
        if self._libc is not None:
            self._libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            self._libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

    def make(self, most: int = PAGES_PER_ROUND) -> int | None:
        """Make up to `most` large pages; how many were made. None = this system does not do that, ask no more.

        Stops at the first one that the system has no room for: looking for room is what would cost.
        """
        if self._libc is None:
            return None
        made = refused = 0
        starts = self._starts()
        for start in starts:
            if not self._is_in_use(self._libc, start):
                continue
            if self._libc.madvise(start, PAGE_BYTES, _MADV_COLLAPSE) == 0:
                self._made.add(start)
                made += 1
                if made == most:
                    return made
            elif (error := ctypes.get_errno()) in _NO_ROOM:
                return made
            else:
                refused += error == errno.EINVAL  # also of memory that was given back meanwhile, or must stay as it is
        if refused and not made and not self._made:
            return None  # an older kernel, or one without large pages
        self._rounds += 1
        if self._rounds % FORGET_ROUNDS == 0:
            self._made.clear()
        return made

    def _starts(self) -> list[int]:
        """Addresses of what could be a large page and was not made one before."""
        with open("/proc/self/maps", "rb") as file:
            maps = file.read()
        found = []
        for match in _ANONYMOUS.finditer(maps):
            first, end = int(match[1], 16), int(match[2], 16)
            aligned = range(-(-first // PAGE_BYTES) * PAGE_BYTES, end - PAGE_BYTES + 1, PAGE_BYTES)
            found += [start for start in aligned if start not in self._made]
        return found

    def _is_in_use(self, libc: ctypes.CDLL, start: int) -> bool:
        """(Nearly) all of it, at this moment."""
        resident = self._resident
        return libc.mincore(start, PAGE_BYTES, resident) == 0 and resident.raw.count(b"\x01") >= IN_USE_MIN


def keep_making(*, wanted: bool = True, period_s: float = PERIOD_S) -> None:
    """Make large pages for as long as the process lives, in a thread of its own: the copying needs no interpreter."""
    if wanted and sys.platform == "linux":
        threading.Thread(target=_keep_making, args=(period_s,), name="large-pages", daemon=True).start()


def _keep_making(period_s: float) -> None:
    pages = LargePages()
    pause = threading.Event()
    while not pause.wait(period_s):
        try:
            made = pages.make()
        except OSError as error:  # no file can be opened now: next time
            log.debug("large pages postponed", error=str(error))
            continue
        if made is None:
            log.debug("this system makes no large pages of small ones")
            return
