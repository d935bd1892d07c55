"""Writes docs/reference/settings.md from engine/settings.py. Run: .venv/bin/python -m docs.tools.settings"""

from __future__ import annotations

import ast
import inspect
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from engine import settings

PAGE = Path(__file__).parents[1] / "reference" / "settings.md"
HEAD = """# Settings

Every setting is an environment variable, read once at the start. Options of the command line override it. An unknown value, or
values that do not go together, end the start with exit code 2 and the field's name. This page is made from `engine/settings.py`
by `docs/tools/settings.py`; a test keeps the two equal.

| Variable | Default | Allowed | Meaning |
| --- | --- | --- | --- |
"""


def descriptions() -> dict[str, str]:
    """The string below each field of the class."""
    body = ast.parse(inspect.getsource(settings.Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = ast.literal_eval(after.value)
    return found


def _allowed(field: FieldInfo) -> str:
    choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if field.annotation is bool:
        return "`true`, `false`"
    limits: dict[str, Any] = {}
    for constraint in field.metadata:
        for name in ("ge", "gt", "le"):
            if getattr(constraint, name, None) is not None:
                limits[name] = getattr(constraint, name)
    low = f"{limits['ge']:,}" if "ge" in limits else (f"over {limits['gt']:,}" if "gt" in limits else "")
    high = f"to {limits['le']:,}" if "le" in limits else ("and more" if low and "gt" not in limits else "")
    return " ".join(part for part in (low, high) if part)


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def page() -> str:
    """The whole page."""
    says = descriptions()
    rows = [
        f"| `QM_{name.upper()}` | {_default(field.default)} | {_allowed(field)} | {says[name]} |"
        for name, field in settings.Settings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
