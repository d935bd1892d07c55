"""What the demo shows: a live panel in a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from loadtests.storefront import Stats

PLAIN_EVERY_S = 2.0
BAR_WIDTH = 40


class Verdict(Protocol):
    """What the audit after the traffic found."""

    drift_count: int


def money(minor: float) -> str:
    return f"${minor / 100:,.2f}"


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def counted(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(values.items(), key=lambda pair: -pair[1])) or "none"


def rows_of(stats: Stats) -> list[tuple[str, str]]:
    """Label and text of every line of the view."""
    orders = stats.orders
    return [
        ("orders", f"{orders:,} ({stats.orders_per_s:,.0f}/s), {stats.lines:,} lines"),
        (
            "latency",
            f"p50 {stats.p50_ms:.1f} ms, p99 {stats.p99_ms:.1f} ms over the last seconds, from the intended start",
        ),
        ("split", f"{share(stats.split, orders)} of orders in more than one leg, {stats.legs:,} legs"),
        ("cash", f"{money(stats.cost_minor / orders) if orders else '-'} an order"),
        ("rungs", counted(stats.rungs)),
        (
            "holds",
            f"{stats.holds_open:,} open; {stats.committed:,} committed, {stats.released:,} released, "
            f"{stats.expired:,} expired",
        ),
        ("after", f"{stats.cancelled:,} cancelled, {stats.shipped:,} legs shipped, {stats.recounts:,} recounts"),
        ("refused", counted(stats.refused) + (f"; {stats.restocked:,} restocked" if stats.restocked else "")),
        ("unfilled", f"{stats.unfilled_lines:,} lines"),
        ("oversells", f"{stats.oversold_positions:,}"),
    ]


class View:
    """Shows the start, then the traffic. Use as a context."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._live: Live | None = None
        self._head: list[tuple[str, str]] = []
        self._note = ""
        self._last_plain = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_live()

    def say(self, text: str) -> None:
        """A step of the start or the end."""
        self._out.print(Text(text, style="dim"))

    def note(self, text: str) -> None:
        """Something to know about the data."""
        self._out.print(Text(text, style="cyan"), highlight=False)

    def ready(self, head: Iterable[tuple[str, str]]) -> None:
        """The engine is up: where it is and with which key."""
        self._head = list(head)
        for label, text in self._head:
            self._out.print(Text.assemble((f"{label:8}", "bold"), text), soft_wrap=True)
        if self._out.is_terminal:
            self._live = Live(console=self._out, refresh_per_second=4, transient=True)
            self._live.start()

    def progress(self, what: str, done: int, total: int) -> None:
        text = f"loading {what}: {done:,} of {total:,}"
        if self._live is not None:
            bar = Table.grid(padding=(0, 2))
            bar.add_row(ProgressBar(total=total, completed=done, width=BAR_WIDTH), Text(text))
            self._live.update(bar)
        elif done == total or time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.say(text)

    def show(self, stats: Stats) -> None:
        if self._live is not None:
            self._live.update(self._panel(stats))
        elif time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._out.print(
                f"{stats.seconds:6.1f} s  {stats.orders:,} orders, {stats.orders_per_s:,.0f}/s, p50 {stats.p50_ms:.1f} ms, "
                f"p99 {stats.p99_ms:.1f} ms, split {share(stats.split, stats.orders)}, "
                f"{money(stats.cost_minor / stats.orders) if stats.orders else '-'} an order, {stats.holds_open} holds, "
                f"oversells {stats.oversold_positions}",
                highlight=False,
                soft_wrap=True,
            )

    def stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _panel(self, stats: Stats) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for label, text in rows_of(stats):
            style = "bold red" if label == "oversells" and stats.oversold_positions else ""
            table.add_row(Text(label, style="bold"), Text(text, style=style))
        parts: list[RenderableType] = [table]
        if stats.failed:
            parts.append(Text(f"unexpected answers: {counted(stats.failed)}", style="red"))
        return Panel(Group(*parts), title=f"storefront traffic, {stats.seconds:.0f} s", title_align="left")

    def summary(self, stats: Stats, *, drift: int, lost: int, looked_for: int) -> bool:
        """The last word; returns whether all promises held."""
        self.stop_live()
        out = self._out
        out.print()
        table = Table.grid(padding=(0, 2))
        for label, text in rows_of(stats):
            if label == "latency":
                text = f"p50 {stats.total_p50_ms:.1f} ms, p99 {stats.total_p99_ms:.1f} ms, from the intended start"
            if label not in ("oversells", "orders"):
                table.add_row(Text(label, style="bold"), Text(text))
        rate = stats.orders / stats.seconds if stats.seconds else 0.0
        out.print(f"[bold]{stats.orders:,} orders in {stats.seconds:.0f} s[/] ({rate:,.0f}/s)", highlight=False)
        out.print(table)
        if stats.failed:
            out.print(f"[yellow]unexpected answers: {counted(stats.failed)}[/]", highlight=False)
        for label, count, detail in (
            ("oversells", stats.oversold_positions, "by the storefront's own books"),
            ("drift", drift, "positions, orders and holds against the journal"),
            ("lost acknowledgements", lost, f"of {looked_for:,} looked for"),
        ):
            style = "green" if not count else "bold red"
            out.print(f"[{style}]{label} {count:,}[/] [dim]({detail})[/]", highlight=False)
        return not (stats.oversold_positions or drift or lost)
