"""`quartermaster demo` as people run it: a process that starts everything, plays, audits, and ends with 0."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1_800)
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
PROMISES = ("oversells 0", "drift 0", "lost acknowledgements 0")


def _demo(*arguments: str) -> str:
    """What it printed; AssertionError with all of it unless it ended with 0."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("QM_", "RAY_"))}
    command = [sys.executable, "-c", "from engine.cli.main import main; main()", "demo", "--port", "0", *arguments]
    done = subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for promise in PROMISES:
        assert re.search(rf"^{promise} ", said, re.M), said
    return said


def _orders(said: str) -> int:
    found = re.search(r"^([\d,]+) orders in ", said, re.M)
    assert found is not None, said
    return int(found[1].replace(",", ""))


def test_the_demo_keeps_its_promises() -> None:
    said = _demo("--duration", "5", "--rate", "40")
    assert _orders(said) > 50, said
    assert re.search(r"lost acknowledgements 0 \(of [1-9]", said), said


def test_the_demo_plays_a_file_of_invoices_to_its_end(tmp_path: Path) -> None:
    rows = [
        f"{536_000 + order},P{(order * 7 + line) % 40:03d},THING,{1 + line},12/1/2010 {8 + order // 60}:{order % 60:02d},"
        f"{2 + line}.55,{17_000 + order % 9},United Kingdom"
        for order in range(40)
        for line in range(1 + order % 4)
    ]
    file = tmp_path / "invoices.csv"
    file.write_text("\n".join([HEADER, *rows, "C536999,P001,THING,-1,12/1/2010 9:41,2.55,17001,United Kingdom"]) + "\n")
    said = _demo("--orders", str(file), "--node-count", "12", "--rate", "40", "--duration", "30")
    assert _orders(said) == 40, said
    unwrapped = " ".join(said.split())
    assert "invoices.csv: 40 orders" in unwrapped and "1 rows of returns" in unwrapped, said
    assert re.search(r"stock = that demand x 1\.5, .* in all", unwrapped), said
