"""Joint problems and answers as values, as arrays and as bytes.

Two forms of one problem: `JointProblem` is for people and tests; `JointArrays` is what compiled code fills and reads. A batch has
thousands of columns: as objects they cost milliseconds and garbage collections in the shard's loop, as arrays next to nothing.
On the wire (msgpack) a problem is its arrays as little-endian int64 bytes, an answer a plain list.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

EXACT, TIME_BOXED = 0, 1
MONEY_MAX = 2**50
UNITS_MAX = 2**40
STOCK_MAX = 2**50
COLUMNS_MAX = 2**19
COLUMNS_OF_ORDER_MAX = 2**11


class JointColumn(msgspec.Struct, array_like=True):
    """One complete way to serve an order: its money, and (row, units) of each position or capacity that it takes from."""

    cost: int
    takes: list[tuple[int, int]]


class JointProblem(msgspec.Struct, array_like=True):
    """`columns[o][k]`; column 0 of every order = the greedy incumbent, jointly feasible. `stock[r]` = free units of row r.

    `rows_ref[r]` = what the row is, for the reader (item and node); the solver does not look.
    """

    columns: list[list[JointColumn]]
    stock: list[int]
    rows_ref: list[tuple[int, int]] = []


class JointAnswer(msgspec.Struct, array_like=True):
    """`chosen[o]` = column of order o. `status`: 0 exact, 1 time-boxed. `micros` = wall time, the only unrepeatable part."""

    chosen: list[int]
    cost: int
    bound: int
    status: int
    micros: int


class JointArrays(NamedTuple):
    """O orders, C columns, T takes, R rows, all int64: `ptr[O+1]` cuts `cost[C]` by order (the first of each is the incumbent),
    `take_ptr[C+1]` cuts `row[T]`, `units[T]` by column; `stock[R]`."""

    ptr: Ints
    cost: Ints
    take_ptr: Ints
    row: Ints
    units: Ints
    stock: Ints


class _Wire(msgspec.Struct, array_like=True, tag="joint1"):
    ptr: bytes
    cost: bytes
    take_ptr: bytes
    row: bytes
    units: bytes
    stock: bytes
    rows_ref: list[tuple[int, int]] = []


_problems = msgspec.msgpack.Decoder(_Wire)
_answers = msgspec.msgpack.Decoder(JointAnswer)
_encoder = msgspec.msgpack.Encoder()


def to_arrays(problem: JointProblem) -> JointArrays:
    """Raises OverflowError: a number outside int64."""
    columns = list(chain.from_iterable(problem.columns))
    takes = list(chain.from_iterable(column.takes for column in columns))
    return JointArrays(
        _pointers([len(order) for order in problem.columns]),
        np.array([column.cost for column in columns], dtype=np.int64),
        _pointers([len(column.takes) for column in columns]),
        np.array([row for row, _ in takes], dtype=np.int64),
        np.array([units for _, units in takes], dtype=np.int64),
        np.array(problem.stock, dtype=np.int64),
    )


def check(arrays: JointArrays) -> JointArrays:
    """The same arrays. Raises ValueError: they do not fit together, or a number is outside its limits."""
    ptr, cost, take_ptr, row, units, stock = arrays
    for name, pointers, end in (("ptr", ptr, len(cost)), ("take_ptr", take_ptr, len(row))):
        if len(pointers) == 0 or pointers[0] != 0 or pointers[-1] != end or (np.diff(pointers) < 0).any():
            raise ValueError(f"{name} does not cut its {end} entries")
    if len(take_ptr) != len(cost) + 1 or len(row) != len(units):
        raise ValueError("columns and takes have arrays of different lengths")
    if len(cost) > COLUMNS_MAX or (len(ptr) > 1 and np.diff(ptr).max() > COLUMNS_OF_ORDER_MAX):
        raise ValueError(f"more than {COLUMNS_MAX} columns, or than {COLUMNS_OF_ORDER_MAX} of one order")
    empty = np.flatnonzero(np.diff(ptr) == 0)
    if len(empty):
        raise ValueError(f"order {int(empty[0])} has no columns")
    for name, numbers, least, most in (
        ("money", cost, -MONEY_MAX, MONEY_MAX),
        ("row", row, 0, len(stock) - 1),
        ("units", units, 0, UNITS_MAX),
        ("stock", stock, 0, STOCK_MAX),
    ):
        if len(numbers) and (numbers.min() < least or numbers.max() > most):
            bad = int(numbers.min() if numbers.min() < least else numbers.max())
            raise ValueError(f"{name} {bad} is not within {least}..{most}")
    return arrays


def pack_arrays(arrays: JointArrays, rows_ref: list[tuple[int, int]] | None = None) -> bytes:
    ptr, cost, take_ptr, row, units, stock = (a.astype("<i8", copy=False).tobytes() for a in arrays)
    return _encoder.encode(_Wire(ptr, cost, take_ptr, row, units, stock, rows_ref or []))


def unpack_arrays(packed: bytes) -> JointArrays:
    """Raises msgspec.DecodeError or its child ValidationError: not a problem, or arrays that `check` refuses."""
    return _arrays(_problems.decode(packed))


def pack_problem(problem: JointProblem) -> bytes:
    return pack_arrays(to_arrays(problem), problem.rows_ref)


def unpack_problem(packed: bytes) -> JointProblem:
    """Raises as `unpack_arrays`."""
    wire = _problems.decode(packed)
    ptr, cost, take_ptr, row, units, stock = (a.tolist() for a in _arrays(wire))
    takes = list(zip(row, units, strict=True))
    columns = [
        JointColumn(money, takes[start:stop])
        for money, start, stop in zip(cost, take_ptr[:-1], take_ptr[1:], strict=True)
    ]
    orders = [columns[start:stop] for start, stop in pairwise(ptr)]
    return JointProblem(orders, stock, wire.rows_ref)


def pack_answer(answer: JointAnswer) -> bytes:
    return _encoder.encode(answer)


def unpack_answer(packed: bytes) -> JointAnswer:
    """Raises msgspec.DecodeError or its child ValidationError."""
    return _answers.decode(packed)


def _arrays(wire: _Wire) -> JointArrays:
    fields = (wire.ptr, wire.cost, wire.take_ptr, wire.row, wire.units, wire.stock)
    try:
        return check(JointArrays(*(np.frombuffer(field, dtype="<i8").astype(np.int64) for field in fields)))
    except ValueError as error:
        raise msgspec.ValidationError(f"joint problem: {error}") from error


def _pointers(counts: list[int]) -> Ints:
    pointers = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=pointers[1:])
    return pointers
