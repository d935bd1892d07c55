"""`quartermaster import`: items, nodes, stock and orders from files into a running engine, over its HTTP API."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from engine.cli.formats.own import OrderRow
    from engine.cli.formats.table import BadRow, Share
    from engine.cli.uploads import Changes, Feed, Outcome, Uploader

SHOW_PROGRESS_AFTER_S = 2.0
ERRORS_SHOWN = 10
SHARE_READ_MAX = 0.99
"""Of a file that is read and not yet sent to its end."""
URL_DEFAULT = "http://127.0.0.1:8080"
_out = Console()
_err = Console(stderr=True)

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Bring items, nodes, stock and orders from files into a running engine.\n\n"
        "Files are CSV (comma, semicolon or tab; gzip too) with a header. Rows that cannot be taken are listed by line; the "
        "others are. The exit code is 0 only if every row was taken (or with --allow-errors)."
    ),
)

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file; .gz is unpacked.")]
Url = Annotated[str, typer.Option(envvar="QM_URL", help="Address of a gateway.")]
Key = Annotated[str, typer.Option(envvar="QM_API_KEY", help="API key; `up` and `demo` print one.")]
AllowErrors = Annotated[bool, typer.Option("--allow-errors", help="Exit 0 although rows were refused.")]


@app.command()
def items(file: File, key: Key, url: Url = URL_DEFAULT, allow_errors: AllowErrors = False) -> None:
    """Items. Columns: sku, then any of name, category, weight_g, length_mm, width_mm, height_mm, ship_alone, tags,
    unit_value_minor, margin_bp, tracked, components. A file of invoices gives its products.

    Example: quartermaster import items items.csv --key qm_...
    """
    from engine.cli.formats.invoices import is_invoices, read_products
    from engine.cli.formats.own import read_items

    with _work(file, url, key, "items", allow_errors) as up:
        up.documents("/v1/items/import", read_products(file) if is_invoices(file) else read_items(file))


@app.command()
def nodes(file: File, key: Key, url: Url = URL_DEFAULT, allow_errors: AllowErrors = False) -> None:
    """Nodes. Columns: node_id, postal_code, then any of name, kind, country, region, lat, lon, time_zone, cut_off, offers, channels,
    working and pickup days and hours, waves, capacity_per_day and handling costs. For a US node the ZIP code tells what is
    missing. A node is replaced whole: what the file does not say becomes the default. Files of store locations (storenum,
    ZIPCODE, LAT, LON) are read as stores.

    Example: quartermaster import nodes nodes.csv --key qm_...
    """
    from engine.cli.formats.own import read_nodes
    from engine.cli.formats.stores import is_stores, read_store_nodes

    with _work(file, url, key, "nodes", allow_errors) as up:
        up.documents("/v1/nodes/import", read_store_nodes(file) if is_stores(file) else read_nodes(file))


@app.command()
def stock(
    file: File,
    key: Key,
    url: Url = URL_DEFAULT,
    allow_errors: AllowErrors = False,
    node: Annotated[
        list[str] | None, typer.Option(help="NAME=NODE: the node that a location or source of the file is. Repeat it.")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="delta, or full: what a node's rows leave out, it has none of; nonzero.")
    ] = "delta",
    source: Annotated[str | None, typer.Option(help="Who counted; older counts of a source are refused.")] = None,
    source_seq: Annotated[int | None, typer.Option(min=0, help="Number of this count; else its instant.")] = None,
    as_of: Annotated[str | None, typer.Option(help="When it was counted, e.g. 2026-12-01T18:00:00Z; else now.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    report: Annotated[Path | None, typer.Option(dir_okay=False, help="Write every row not taken to this CSV.")] = None,
) -> None:
    """Counts. Columns: node_id, sku, quantity, then safety and as_of if you like. They are absolute, as of an instant: what the
    engine booked after it stays booked.

    Magento's stock_sources.csv and Shopify's inventory CSV are recognised by their header. Their sources and locations are nodes
    by --node, else by id or name. Shopify's "On hand (new)" is set only where "On hand (current)" is still true.

    Example: quartermaster import stock stock.csv --key qm_...
    Example: quartermaster import stock inventory_export.csv --node "Shop location=NYC" --dry-run --key qm_...
    """
    from engine.cli.formats.commerce import is_magento, is_shopify, read_magento, read_shopify
    from engine.cli.formats.own import read_stock
    from engine.cli.stock_uploads import StockUploader

    told, feed = _told_nodes(node or []), _feed(scope, source, source_seq, as_of)
    with _work(file, url, key, "positions", allow_errors, report) as up:
        shopify = is_shopify(file)
        if shopify and feed != _feed("delta", None, None, None):
            _give_up("Shopify's file is compared and set: it takes no --scope, --source, --source-seq or --as-of", 2)
        if shopify:
            StockUploader(up, told, dry_run=dry_run).set_units(read_shopify(file))
        else:
            magento = is_magento(file)
            rows = read_magento(file) if magento else read_stock(file)
            if magento or told:
                rows = StockUploader(up, told, dry_run=dry_run).on_nodes(rows)
            up.stock(rows, feed, dry_run=dry_run)
        if shopify or dry_run:
            _say_changes(up.changes, "would change" if dry_run else "changed")


def _say_changes(changes: Changes, would: str) -> None:
    _out.print(
        f"{changes.changed:,} positions {would} (+{changes.units_added:,} and -{changes.units_taken:,} units), "
        f"{changes.unchanged:,} are so already",
        highlight=False,
    )
    if changes.left_out:
        _out.print(f"{changes.left_out:,} of them are not in the file, which takes what they hold", highlight=False)


def _told_nodes(pairs: list[str]) -> dict[str, str]:
    told: dict[str, str] = {}
    for pair in pairs:
        name, separator, node_id = pair.rpartition("=")
        if not separator or not name or not node_id:
            _give_up(f"--node {pair!r}: expected NAME=NODE", 2)
        told[name] = node_id
    return told


def _feed(scope: str, source: str | None, source_seq: int | None, as_of: str | None) -> Feed:
    from engine.cli.formats.own import instant
    from engine.cli.formats.table import BadValue
    from engine.cli.uploads import Feed

    if scope not in ("delta", "full", "nonzero"):
        _give_up(f"--scope {scope!r}: expected delta, full or nonzero", 2)
    if source_seq is not None and source is None:
        _give_up("--source-seq numbers the counts of a source: say --source too", 2)
    try:
        return Feed(scope, source, source_seq, instant(as_of) if as_of else None)
    except BadValue as error:
        _give_up(f"--as-of: {error}", 2)


@app.command()
def orders(
    file: File,
    key: Key,
    url: Url = URL_DEFAULT,
    allow_errors: AllowErrors = False,
    population: Annotated[
        Path | None, typer.Option(exists=True, help="Population by ZIP code, to draw the destinations of invoices.")
    ] = None,
    on_short: Annotated[str, typer.Option(help="For invoices: refuse, partial or park.")] = "refuse",
) -> None:
    """Orders, allocated in batches. Columns: order_id, sku, quantity (one row a line), then any of postal_code, country,
    region, channel, service, unit_price_minor, placed_at, customer_id, currency, on_short, priority. A file of invoices
    (InvoiceNo, StockCode, Quantity, InvoiceDate, UnitPrice, CustomerID) works too: its returns and charges are left out and
    counted, and destinations are drawn by population, the same one for a customer each time.

    Sending a file again takes no order twice.

    Example: quartermaster import orders orders.csv --key qm_...
    """
    from engine.cli.formats.invoices import is_invoices, read_invoice_orders
    from engine.cli.formats.online_retail import Report
    from engine.cli.formats.own import read_orders

    report = Report()
    rows: Iterable[OrderRow | BadRow]
    with _work(file, url, key, "orders", allow_errors) as up:
        if is_invoices(file):
            rows = read_invoice_orders(file, report, population=population, on_short=on_short)
        else:
            rows = read_orders(file)
        up.orders(rows)
        if report.rows:
            _out.print(f"read {report.sentence()}", highlight=False)


@contextmanager
def _work(
    file: Path, url: str, key: str, what: str, allow_errors: bool, report: Path | None = None
) -> Iterator[Uploader]:
    """An uploader with its progress line; afterwards the summary, the report and the exit code."""
    from engine.cli.formats.table import FormatError, watch_share
    from engine.cli.uploads import Uploader, UploadError

    started = time.monotonic()
    with _report(report) as sink, watch_share() as share, _Line(f"{what} of {file.name}", started, share) as line:
        up = Uploader(url, key, advance=line.update)
        up.outcome.sink = sink
        try:
            yield up
        except FormatError as error:
            _give_up(str(error), 2)
        except UploadError as error:
            _summary(up.outcome, what, started)
            _give_up(str(error), 3)
        finally:
            up.close()
    _summary(up.outcome, what, started)
    if up.outcome.refused and not allow_errors:
        raise typer.Exit(1)


@contextmanager
def _report(path: Path | None) -> Iterator[Callable[[int, str, str], None] | None]:
    """Takes every row that was not taken, into a CSV of line, code and detail; None where none was asked for."""
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        _give_up(f"the report cannot be written: {error}", 2)
    with file:
        writer = csv.writer(file)
        writer.writerow(("line", "code", "detail"))
        yield lambda line, code, detail: writer.writerow((line, code, detail))


def _summary(outcome: Outcome, what: str, started: float) -> None:
    seconds = time.monotonic() - started
    style = "green" if not outcome.refused else "yellow"
    _out.print(
        f"[{style}]{outcome.taken:,} {what} taken, {outcome.refused:,} rows refused[/] in {seconds:.1f} s",
        highlight=False,
    )
    if len(outcome.codes) > 1:
        reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(outcome.codes.items()))
        _out.print(f"  by reason: {reasons}", highlight=False)
    for error in outcome.errors[:ERRORS_SHOWN]:
        _out.print(f"  line {error.line}: {error.detail}", highlight=False, markup=False)
    if len(outcome.errors) > ERRORS_SHOWN:
        _out.print(f"  and {outcome.refused - ERRORS_SHOWN:,} more", highlight=False)


def _give_up(what: str, code: int) -> NoReturn:
    _err.print(f"[red]{what}[/]", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


class _Line:
    """How far it is, and rows so far, shown once it has taken two seconds."""

    def __init__(self, what: str, started: float, share: Share) -> None:
        self._what = what
        self._share = share
        self._started = started
        self._progress: Progress | None = None

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, outcome: Outcome) -> None:
        if self._progress is None:
            if time.monotonic() - self._started < SHOW_PROGRESS_AFTER_S:
                return
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rows]}"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=_err, transient=True)
            self._progress.add_task(self._what, total=1.0, rows="")
            self._progress.start()
        rows = f"{outcome.taken:,} taken, {outcome.refused:,} refused"
        share = self._share.read()
        if share is None:  # it is read to its end: what is left to do is on its way
            share = SHARE_READ_MAX
        self._progress.update(self._progress.task_ids[0], rows=rows, completed=min(share, SHARE_READ_MAX))
