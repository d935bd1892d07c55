"""Rows of an uploaded file, NDJSON or CSV, a few hundred at a time: bounded memory whatever the file's size."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, TypeVar

import msgspec

from gateway.errors import DECODE_ERRORS, fault_of

LINE_BYTES_MAX = 1024 * 1024
NDJSON = "application/x-ndjson"
CSV = "text/csv"
JSON_LINES = (NDJSON, "application/ndjson", "application/jsonl")
TYPES = (NDJSON, CSV, *JSON_LINES[1:])
COLUMNS_MAX = 200
T = TypeVar("T")


class Row(NamedTuple):
    """A row that could be read (`value`), or what is wrong with it."""

    line: int
    value: Any
    pointer: str = ""
    detail: str = ""


class FileFault(Exception):
    """The file as a whole cannot be read; the message says why."""


def rows_of(file: IO[bytes], media_type: str, kind: type, prepare: Callable[[dict[str, str]], Any]) -> Iterator[Row]:
    """Decoded rows with their line numbers (1-based). `prepare` makes a CSV record (text by column) into a row's fields."""
    file.seek(0)
    return _csv_rows(file, kind, prepare) if media_type == CSV else _json_rows(file, kind)


def _json_rows(file: IO[bytes], kind: type) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(kind)
    line_no = 0
    while True:
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        line_no += 1
        if len(line) > LINE_BYTES_MAX:
            raise FileFault(f"line {line_no} is longer than {LINE_BYTES_MAX} bytes")
        if not line.strip():
            continue
        try:
            yield Row(line_no, decoder.decode(line))
        except DECODE_ERRORS as error:
            yield Row(line_no, None, *fault_of(error))


def _csv_rows(file: IO[bytes], kind: type, prepare: Callable[[dict[str, str]], Any]) -> Iterator[Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.reader(_bounded(text), strict=True)
        header = next(reader, None)
        if not header:
            raise FileFault("the file has no header line")
        columns = [name.strip() for name in header]
        if len(set(columns)) != len(columns) or len(columns) > COLUMNS_MAX:
            raise FileFault("the header names a column twice, or too many columns")
        for record in reader:
            line_no = reader.line_num
            if not record:
                continue
            if len(record) != len(columns):
                yield Row(line_no, None, "", f"{len(record)} fields, the header has {len(columns)}")
                continue
            values = {name: value for name, value in zip(columns, record, strict=True) if value != ""}
            try:
                yield Row(line_no, msgspec.convert(prepare(values), kind, strict=False))
            except (*DECODE_ERRORS, ValueError) as error:
                yield Row(line_no, None, *fault_of(error))
    except UnicodeDecodeError as error:
        raise FileFault(f"the file is not UTF-8: {error.reason}") from error
    except csv.Error as error:
        raise FileFault(f"the file is not CSV: {error}") from error
    finally:
        text.detach()


def _bounded(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LINE_BYTES_MAX):
        if len(line) == LINE_BYTES_MAX:
            raise csv.Error(f"a line is longer than {LINE_BYTES_MAX} characters")
        yield line


def item_fields(record: dict[str, str]) -> dict[str, Any]:
    """CSV columns of an item: tags "a|b", components "SKU:2|SKU-2:1"."""
    fields: dict[str, Any] = dict(record)
    if "tags" in record:
        fields["tags"] = record["tags"].split("|")
    if "components" in record:
        pairs = [part.rpartition(":") for part in record["components"].split("|")]
        fields["components"] = [{"sku": sku, "quantity": units} for sku, _, units in pairs]
    return fields


def node_fields(record: dict[str, str]) -> dict[str, Any]:
    """CSV columns of a node: lists are "a|b"; capacity_per_day, capacity_unit, capacity_hard make its capacity."""
    fields: dict[str, Any] = {k: v for k, v in record.items() if not k.startswith("capacity_")}
    for name in ("offers", "channels", "holidays", "waves", "working_days"):
        if name in record:
            fields[name] = record[name].split("|")
    capacity = {k.removeprefix("capacity_"): v for k, v in record.items() if k.startswith("capacity_")}
    if capacity:
        fields["capacity"] = capacity
    return fields


def plain_fields(record: dict[str, str]) -> dict[str, Any]:
    return dict(record)
