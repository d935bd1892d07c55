"""Unit tests cannot start Ray: where it is imported at all, `ray.init` raises."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


def _forbidden(*_: object, **__: object) -> None:
    raise RuntimeError("a unit test must not start Ray: it belongs in tests/integration")


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "ray" in sys.modules:  # importing it takes a second: most unit tests never do
        monkeypatch.setattr(sys.modules["ray"], "init", _forbidden)
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "a unit test started Ray"
