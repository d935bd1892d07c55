"""Invoices as in the "Online Retail" data sets: one row an invoice line, with returns, corrections and charges among them.

What is an order: positive lines of products. What is not, is counted by reason and reported, never dropped in silence:
    returns      invoices that start with C, and negative lines of other invoices with a customer
    corrections  lines without customer that are negative or cost nothing: stock-taking, not sales; bad debt (A...)
    charges      postage, bank charges, manual entries, vouchers, samples, tests: no product that a shelf could hold
Lines without customer are guests' orders: they are kept, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from engine.cli.formats.table import BadRow, BadValue, Row, decimal, integer, read_table

COLUMNS = {
    "invoice": ("InvoiceNo",),
    "sku": ("StockCode",),
    "qty": ("Quantity",),
    "ts": ("InvoiceDate",),
    "price": ("UnitPrice",),
    "customer": ("CustomerID", "Customer ID"),
    "country": (),
    "description": (),
}
REQUIRED = ("invoice", "sku", "qty", "ts", "price")
CHARGE_CODES = frozenset(
    ("POST", "DOT", "M", "D", "S", "B", "C2", "C3", "ADJUST", "ADJUST2", "AMAZONFEE", "CRUK", "GIFT", "BANK CHARGES")
)
ROWS_APART_MAX = 2_000
"""Rows of one invoice may lie among those of others; after this many rows without one, it is complete."""
_DATE_FORMATS = ("%m/%d/%Y %H:%M", "%m/%d/%y %H:%M", "%m/%d/%Y %H:%M:%S")


class BasketLine(NamedTuple):
    sku: str
    quantity: int
    price_minor: int


class Basket(NamedTuple):
    """One invoice as an order. `line` is where it begins; `customer` is empty for a guest."""

    line: int
    order_id: str
    placed_at: datetime
    customer: str
    country: str
    lines: list[BasketLine]


@dataclass
class Report:
    """What was read, by reason; complete once the reader has ended."""

    rows: int = 0
    orders: int = 0
    lines: int = 0
    guest_orders: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Rows left out: returns, corrections, charges, bad."""

    def leave_out(self, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def sentence(self) -> str:
        """For people: `19,215 orders (1,203 without customer) of 400,000 lines; left out: 10,000 rows of returns, ...`"""
        left_out = ", ".join(f"{count:,} rows of {reason}" for reason, count in sorted(self.counts.items()))
        text = f"{self.orders:,} orders ({self.guest_orders:,} without customer) with {self.lines:,} lines"
        return f"{text}; left out: {left_out}" if left_out else text


def read_baskets(path: Path, report: Report) -> Iterator[Basket | BadRow]:
    """Baskets in the order in which they begin. `report` is filled while reading."""
    open_baskets: dict[str, tuple[Basket, int]] = {}
    """By invoice, with the row that was seen last; the first one began first."""
    for row in read_table(path, required=REQUIRED, aliases=COLUMNS):
        report.rows += 1
        if isinstance(row, BadRow):
            report.leave_out("bad data")
            yield row
            continue
        line, values = row
        try:
            found = _line(line, values, report)
        except BadValue as error:
            report.leave_out("bad data")
            yield BadRow(line, str(error))
            continue
        while open_baskets:
            oldest, seen = next(iter(open_baskets.values()))
            if report.rows - seen <= ROWS_APART_MAX:
                break
            del open_baskets[oldest.order_id]
            yield _done(oldest, report)
        if found is None:
            continue
        known = open_baskets.get(found.order_id)
        if known is not None:
            known[0].lines.extend(found.lines)
            found = known[0]
        open_baskets[found.order_id] = (found, report.rows)
    for basket, _ in open_baskets.values():
        yield _done(basket, report)


def _done(basket: Basket, report: Report) -> Basket:
    report.orders += 1
    report.lines += len(basket.lines)
    report.guest_orders += not basket.customer
    return basket


def _line(line: int, row: Row, report: Report) -> Basket | None:
    """A basket of this one line; None = it is no sale, which the report has counted."""
    invoice = row["invoice"].upper()
    if not invoice:
        raise BadValue("the invoice number is empty")
    sku = row["sku"].upper()
    if not sku:
        raise BadValue("the stock code is empty")
    quantity = integer(row, "qty")
    price_minor = round(decimal(row, "price") * 100)
    customer = row.get("customer", "").removesuffix(".0")
    if invoice.startswith("C") or (quantity < 0 and customer):
        report.leave_out("returns")
        return None
    if invoice.startswith("A") or (not customer and (quantity < 0 or price_minor <= 0)):
        report.leave_out("corrections")
        return None
    if sku in CHARGE_CODES or sku.startswith(("GIFT_", "TEST")):
        report.leave_out("charges")
        return None
    if quantity == 0 or price_minor < 0:
        raise BadValue(f"quantity {quantity} at price {row['price']} is no sale")
    return Basket(
        line,
        invoice,
        _instant(row["ts"]),
        customer,
        row.get("country", ""),
        [BasketLine(sku, quantity, price_minor)],
    )


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        pass  # not ISO: as spreadsheets of the US write it
    for pattern in _DATE_FORMATS:
        try:
            return datetime.strptime(text, pattern).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise BadValue(f"the date is {text!r}, expected 2009-12-01 07:45:00 or 12/1/2009 7:45")
