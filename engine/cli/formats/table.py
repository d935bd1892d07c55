"""Reading delimited files that people send: any of the usual encodings, packed or not, with a header in any order.

A reader yields typed rows that know their line in the file. What cannot be read becomes a `BadRow` and reading goes on: one bad
line of half a million is reported, not fatal. Only a file that is no table at all raises `FormatError`.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, NamedTuple, TypeVar, cast

csv.field_size_limit(1_000_000)
_GZIP_MAGIC = b"\x1f\x8b"
_SAMPLE_BYTES = 4 * 1024 * 1024
T = TypeVar("T")


class FormatError(ValueError):
    """The file cannot be read as this format; the message says why and what was expected."""


class BadRow(NamedTuple):
    """A line that was left out. `line` counts from 1, the header included."""

    line: int
    detail: str


class BadValue(ValueError):
    """A value of a row that does not fit; carries the sentence for the report."""


Row = Mapping[str, str]


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The file as text: gzip by its content, UTF-8 (with or without a mark) else Windows-1252. Raises FormatError."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
        encoding = _encoding(path, packed)
        with path.open("rb") as raw, _unpacked(raw, packed) as binary:
            watched = _watched.get()
            if watched is not None:
                watched.begin(raw)
            with io.TextIOWrapper(binary, encoding, "replace", newline="") as text:
                yield text
    except (OSError, EOFError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error


class Share:
    """How much of the file that is being read has been read, by its bytes as they lie on the disk."""

    def __init__(self) -> None:
        self._raw: IO[bytes] | None = None
        self._bytes = 0

    def begin(self, raw: IO[bytes]) -> None:
        self._raw, self._bytes = raw, os.fstat(raw.fileno()).st_size

    def read(self) -> float | None:
        """0 to 1; None where nothing is being read."""
        if self._raw is None or self._raw.closed or not self._bytes:
            return None
        return min(1.0, self._raw.tell() / self._bytes)


_watched: ContextVar[Share | None] = ContextVar("_watched", default=None)


@contextmanager
def watch_share() -> Iterator[Share]:
    """Follows every file that `open_text` opens meanwhile, the newest at a time."""
    share = Share()
    token = _watched.set(share)
    try:
        yield share
    finally:
        _watched.reset(token)


def _unpacked(raw: IO[bytes], packed: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw


def _encoding(path: Path, packed: bool) -> str:
    """Strict UTF-8 over the first megabytes, else the code page that spreadsheets export."""
    with path.open("rb") as raw, _unpacked(raw, packed) as file:
        sample = file.read(_SAMPLE_BYTES)
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(sample) == _SAMPLE_BYTES and error.start >= len(sample) - 4  # only the end of the sample
        return "utf-8-sig" if cut else "cp1252"
    return "utf-8-sig"


def read_table(
    path: Path, *, required: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None
) -> Iterator[tuple[int, Row] | BadRow]:
    """(line, values by column) of every row that is not empty. Column names do not mind case, spaces or underscores.

    Raises FormatError where a required column is missing; the message names those that are there.
    """
    names = {plain_name(name): name for name in required}
    for name, others in (aliases or {}).items():
        names[plain_name(name)] = name
        names.update((plain_name(other), name) for other in others)
    with open_text(path) as text:
        sample = text.read(8_192)
        text.seek(0)
        reader = csv.reader(text, delimiter=_delimiter(sample))
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise FormatError(f"{path} is not a table: {error}") from error
        if not header:
            raise FormatError(f"{path} is empty")
        columns = [names.get(plain_name(name), name.strip()) for name in header]
        missing = [name for name in required if name not in columns]
        if missing:
            raise FormatError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(header)[:300]}")
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield BadRow(reader.line_num, f"not a row: {error}")
                continue
            if values is None:
                return
            if not any(values):
                continue
            if len(values) != len(columns):
                yield BadRow(reader.line_num, f"{len(values)} values, the header has {len(columns)} columns")
                continue
            yield reader.line_num, dict(zip(columns, (value.strip() for value in values), strict=True))


def header_of(path: Path) -> list[str]:
    """Column names as they stand in the file; empty where there are none. Raises FormatError."""
    with open_text(path) as text:
        first = text.readline(65_536)
    try:
        return next(csv.reader([first], delimiter=_delimiter(first)), [])
    except csv.Error as error:
        raise FormatError(f"{path} is not a table: {error}") from error


def typed(rows: Iterator[tuple[int, Row] | BadRow], make: Callable[[int, Row], T | None]) -> Iterator[T | BadRow]:
    """Rows made into values by `make`; None = left out on purpose; a BadValue becomes a BadRow."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        line, values = row
        try:
            made = make(line, values)
        except BadValue as error:
            yield BadRow(line, str(error))
        else:
            if made is not None:
                yield made


def plain_name(name: str) -> str:
    """A column's name without what people write differently."""
    return "".join(c for c in name.lower() if c.isalnum())


def _delimiter(sample: str) -> str:
    first = sample.split("\n", 1)[0]
    return max(",;\t|", key=first.count)


# -- values -------------------------------------------------------------------------------------------------------


def integer(row: Row, name: str, default: int | None = None) -> int:
    """A whole number; spreadsheets write 12.0 for 12. Raises BadValue."""
    text = row.get(name, "")
    if not text and default is not None:
        return default
    try:
        number = float(text) if "." in text or "e" in text.lower() else int(text)
        if number != int(number) or abs(number) > 1 << 53:
            raise ValueError
    except (ValueError, OverflowError):
        raise BadValue(f"{name} is {text!r}, expected a whole number") from None
    return int(number)


def optional_integer(row: Row, name: str) -> int | None:
    return integer(row, name) if row.get(name) else None


def decimal(row: Row, name: str) -> float:
    """Raises BadValue; neither nan nor infinity is a number here."""
    text = row.get(name, "")
    try:
        number = float(text)
        if not -1e15 < number < 1e15:
            raise ValueError
    except ValueError:
        raise BadValue(f"{name} is {text!r}, expected a number") from None
    return number


def flag(row: Row, name: str, *, default: bool) -> bool:
    text = row.get(name, "").lower()
    if not text:
        return default
    if text in ("1", "true", "yes", "y", "t"):
        return True
    if text in ("0", "false", "no", "n", "f"):
        return False
    raise BadValue(f"{name} is {text!r}, expected yes or no")


def words(row: Row, name: str) -> list[str]:
    """A list within a cell, separated by semicolons."""
    return [word.strip() for word in row.get(name, "").split(";") if word.strip()]
