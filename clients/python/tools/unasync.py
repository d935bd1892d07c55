"""Writes the synchronous client from the asynchronous one: `python clients/python/tools/unasync.py`; `--check` only compares.

One of the two has to be written by hand, and two copies kept by hand drift apart. A test runs the check.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "quartermaster_client"
HEADER = "# Made from ../_async by clients/python/tools/unasync.py: change that, not this.\n"
RULES = (
    (r"await asyncio\.sleep", "time.sleep"),
    (r"import asyncio", "import time"),
    (r"\bawait ", ""),
    (r"\basync (def|for|with) ", r"\1 "),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncClient\b", "Client"),
    (r"\bAsync(Base|Orders|Lists|Supply|OverHttpx|Transport|Streaming|Opened)\b", r"\1"),
    (r"quartermaster_client\._async", "quartermaster_client._sync"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"between tasks", "between threads"),
)


def sync_of(source: str) -> str:
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source)
    return _ruff(
        _ruff(HEADER + source, "check", "--select=I,UP028", "--fix", "--unsafe-fixes", "--quiet"), "format", "--quiet"
    )


def _ruff(source: str, *command: str) -> str:
    """The source as ruff leaves it."""
    name = f"--stdin-filename={PACKAGE / '_sync' / 'made.py'}"
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *command, name, "-"], input=source, capture_output=True, text=True, check=True
    )
    return run.stdout


def stale() -> list[str]:
    """Files of the synchronous client that are not what this would write."""
    out = []
    for source in sorted((PACKAGE / "_async").glob("*.py")):
        target = PACKAGE / "_sync" / source.name
        text = source.read_text()
        wanted = sync_of(text) if text else ""
        if not target.exists() or target.read_text() != wanted:
            out.append(source.name)
    return out


def main() -> int:
    names = stale()
    if "--check" in sys.argv[1:]:
        return 1 if names else 0
    for name in names:
        text = (PACKAGE / "_async" / name).read_text()
        (PACKAGE / "_sync").mkdir(exist_ok=True)
        (PACKAGE / "_sync" / name).write_text(sync_of(text) if text else "")
        print(f"wrote _sync/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
