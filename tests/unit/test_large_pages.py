"""Large pages: made of memory that is in use, and only of that; what they hold stays what it was."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

import pytest

from engine.large_pages import PAGE_BYTES, LargePages, keep_making

COUNT = 4
BYTES = (COUNT + 1) * PAGE_BYTES


def _large_bytes(address: int) -> int:
    """Bytes in large pages of the mapping at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= address < int(match[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no mapping there")


def _makes_large_pages() -> bool:
    """Whether this kernel does what is asked for: asked of one page of its own, without the code under test."""
    if sys.platform != "linux":
        return False
    with mmap.mmap(-1, 2 * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"\x01" * len(memory))
        return _collapse(-(-_address(memory) // PAGE_BYTES) * PAGE_BYTES)


def _collapse(start: int) -> bool:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(madvise(start, PAGE_BYTES, 25) == 0)


def _address(memory: mmap.mmap) -> int:
    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    del view
    return address


def _made_of(pages: LargePages, memory: mmap.mmap) -> int:
    """How many of a mapping's pages were made large."""
    first = _address(memory)
    return sum(first <= start < first + len(memory) for start in pages._made)


def _make_all(pages: LargePages) -> None:
    while pages.make():
        pass


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def test_memory_in_use_becomes_large_pages_and_keeps_what_it_holds(memory: mmap.mmap) -> None:
    pattern = bytes(range(256)) * (BYTES // 256)
    memory.write(pattern)
    pages = LargePages()
    _make_all(pages)
    if _makes_large_pages():
        assert _made_of(pages, memory) >= COUNT - 1
        assert _large_bytes(_address(memory)) >= (COUNT - 1) * PAGE_BYTES
    else:
        assert _made_of(pages, memory) == 0
    assert memory[:] == pattern


def test_memory_that_is_hardly_used_is_left_alone(memory: mmap.mmap) -> None:
    memory.madvise(mmap.MADV_NOHUGEPAGE if sys.platform == "linux" else 0)  # else a system may do it by itself
    for start in range(0, BYTES, PAGE_BYTES // 2):
        memory[start] = 1
    pages = LargePages()
    _make_all(pages)
    assert _made_of(pages, memory) == 0


def test_memory_that_must_stay_as_it_is_keeps_no_other_from_becoming_large() -> None:
    """The kernel says of it what it would say if it knew no large pages."""
    if not _makes_large_pages():
        return
    around = [mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(3)]
    around[1].madvise(mmap.MADV_NOHUGEPAGE)
    for one in around:
        one.write(b"\x05" * BYTES)
    pages = LargePages()
    _make_all(pages)
    assert [_made_of(pages, one) >= COUNT - 1 for one in around] == [True, False, True]
    assert pages.make() == 0


def test_a_round_makes_no_more_than_it_may(memory: mmap.mmap) -> None:
    memory.write(b"\x02" * BYTES)
    pages = LargePages()
    if _makes_large_pages():
        _make_all(pages)  # what the process had before
        second = mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        second.write(b"\x03" * BYTES)
        assert pages.make(1) == 1


def test_it_is_not_begun_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr("engine.large_pages.threading.Thread", lambda **facts: begun.append(facts) or _Started())
    keep_making(wanted=False)
    assert not begun
    keep_making()
    assert len(begun) == (sys.platform == "linux")


class _Started:
    def start(self) -> None:
        return
