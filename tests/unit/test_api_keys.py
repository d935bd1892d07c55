"""Keys from the command line: a scope that no route asks for would be a key that opens nothing."""

from __future__ import annotations

from engine.domain.api_keys import SCOPES
from gateway.app import RESOURCES
from gateway.call import ANY_KEY, PUBLIC


def test_the_scopes_are_those_of_the_routes() -> None:
    assert set(SCOPES) == {route.scope for resource in RESOURCES for route in resource.ROUTES} - {ANY_KEY, PUBLIC}
