"""The application: all declared routes, FastAPI around them, the raw door around that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from engine.domain.api_keys import SCOPES
from engine.settings import Settings
from gateway.asgi import Door, Receive, Scope, Send, Server
from gateway.call import ANY_KEY, PUBLIC, Call, Route
from gateway.config import routes as config
from gateway.decisions import routes as decisions
from gateway.demand import routes as demand
from gateway.errors import problem
from gateway.gateway import ClusterPort, Gateway
from gateway.health import routes as health
from gateway.history import routes as history
from gateway.inventory import routes as inventory
from gateway.jobs import routes as jobs
from gateway.legs import routes as legs
from gateway.legs import summary
from gateway.negotiate import answer_is_packed
from gateway.orders import replan
from gateway.orders import routes as orders
from gateway.pipeline import STANDARD_HEADERS, render
from gateway.quotes import routes as quotes
from gateway.reservations import routes as reservations
from gateway.stream import routes as stream

HOT = frozenset(
    (
        ("POST", "/v1/allocations"),
        ("POST", "/v1/allocations/batch"),
        ("POST", "/v1/reservations"),
        ("POST", "/v1/reservations/{reservation_id}/commit"),
        ("DELETE", "/v1/reservations/{reservation_id}"),
        ("GET", "/v1/availability"),
        ("GET", "/v1/stream"),
    )
)
"""Served before FastAPI's router is asked."""
# History first: its literal paths come before those with an id in the same place.
RESOURCES = (
    history,
    summary,
    orders,
    replan,
    quotes,
    reservations,
    legs,
    demand,
    inventory,
    config,
    jobs,
    decisions,
    stream,
    health,
)


def all_routes() -> list[Route]:
    """Every route of the API, fast path included. Raises where one has no valid scope or is declared twice."""
    found = [route for resource in RESOURCES for route in resource.ROUTES]
    for route in found:
        if route.scope not in (PUBLIC, ANY_KEY, *SCOPES):
            raise ValueError(f"{route.name} declares no scope")
    if len({(route.method, route.path) for route in found}) != len(found):
        raise ValueError("a route is declared twice")
    return found


class PathEndpoint:
    """All methods of one path, as an ASGI application that FastAPI's router calls.

    `beside`: routes of a path with a free last parameter that this literal path hides; they get the hidden value.
    """

    def __init__(
        self, server: Server, routes: Sequence[Route], *, beside: Sequence[Route] = (), value: str = ""
    ) -> None:
        self._server = server
        self._routes = {route.method: route for route in routes}
        self._beside = {route.method: route for route in beside if route.method not in self._routes}
        self._value = value
        self.routes = dict(self._routes)
        """Routes of this path itself, by method."""
        methods = {*self._routes, *self._beside}
        self._allow = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        route = self._routes.get(method)
        params = tuple(scope["path_params"].values())
        if route is None:
            route, params = self._beside.get(method), (self._value,)
        if route is None:
            raise HTTPException(405, headers={"allow": self._allow})
        await self._server.serve(route, params, scope, receive, send)


def mount(app: FastAPI, server: Server, routes: Sequence[Route]) -> None:
    """Give FastAPI's router every path, literal ones before those with a free last parameter."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    free = {path.partition("{")[0]: group for path, group in by_path.items() if group[0].slashes}
    later = []
    for path, group in by_path.items():
        if group[0].slashes:
            later.append(StarletteRoute(path[:-1] + ":path}", PathEndpoint(server, group)))
            continue
        prefix = path.rpartition("/")[0] + "/"
        hidden = free.get(prefix, ())
        endpoint = PathEndpoint(server, group, beside=hidden, value=path.removeprefix(prefix))
        app.router.routes.append(StarletteRoute(path, endpoint))
    app.router.routes += later


def create_app(cluster: ClusterPort, settings: Settings) -> Door:
    """The ASGI application over a started cluster. The caller starts and closes the cluster."""
    gateway = Gateway(cluster, settings)
    server = Server(gateway)
    app = FastAPI(title="Quartermaster", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    routes = all_routes()
    mount(app, server, routes)
    _answer_routing_faults(app, gateway)
    hot = {(route.method, route.path): route for route in routes if (route.method, route.path) in HOT}
    return Door(server, hot, app)


def _answer_routing_faults(app: FastAPI, gateway: Gateway) -> None:
    """No such path or method: the same typed problems as everywhere."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        nowhere = Route(request.method, "unknown", PUBLIC, _never, "", "")
        headers = dict(request.scope["headers"])
        call = Call(gateway, nowhere, headers, b"", (), 0.0)
        call.request_id = gateway.new_request_id()
        call.packed_out = answer_is_packed(headers.get(b"accept")) is True
        code = "method_not_allowed" if error.status_code == 405 else "not_found"
        rendered = render(call, problem(code))
        gateway.metrics.done("unknown", rendered.status, 0.0)
        response = Response(rendered.body, rendered.status)
        response.raw_headers += [*rendered.headers, *STANDARD_HEADERS]
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    app.add_exception_handler(HTTPException, answer)


def _never(call: Call) -> Any:
    raise AssertionError("a route that only names requests to nowhere")
