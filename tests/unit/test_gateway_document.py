"""The OpenAPI document and the pages made with it say what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.api_page import api_markdown
from gateway.app import all_routes
from gateway.call import Route
from gateway.field_help import FIELD_HELP
from gateway.health.docs_page import page
from gateway.openapi import document, document_text
from gateway.problem_pages import as_markdown

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
AGAIN = "run: .venv/bin/python -m gateway.openapi"
ROUTES = all_routes()


@pytest.mark.parametrize(
    ("name", "made"), [("openapi.json", document_text), ("problems.md", as_markdown), ("api.md", api_markdown)]
)
def test_the_pages_in_the_repository_are_what_the_code_makes(name: str, made: Any) -> None:
    assert (REFERENCE / name).read_text() == made(), AGAIN


@pytest.mark.parametrize("route", ROUTES, ids=[route.name for route in ROUTES])
def test_every_example_is_valid(route: Route) -> None:
    if route.body is not None:
        assert route.body_examples, "a body without an example"
        for example in route.body_examples.values():
            msgspec.json.decode(msgspec.json.encode(example["value"]), type=route.body)
    for media in route.raw_examples:
        assert media in route.body_types
    if route.answer_example is not None:
        assert route.answer is not None
        msgspec.json.decode(msgspec.json.encode(route.answer_example), type=route.answer)
        assert set(route.answer_example) <= set(route.answer.__struct_fields__), "a field that the answer lacks"


def test_every_route_is_in_the_document_with_its_scope() -> None:
    doc = document()
    assert doc["openapi"] == "3.1.0"
    for route in ROUTES:
        operation = doc["paths"][route.path][route.method.lower()]
        wanted = {"public": [], "any_key": [{"bearer": []}]}.get(route.scope, [{"bearer": [route.scope]}])
        assert operation["security"] == wanted, route.name
    names = [op["operationId"] for methods in doc["paths"].values() for op in methods.values()]
    assert len(set(names)) == len(names) == len(ROUTES)


def test_references_resolve() -> None:
    doc = document()
    resolved: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str):
                found: Any = doc
                for step in ref.removeprefix("#/").split("/"):
                    found = found[step]
                resolved.append(ref)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(doc)
    assert len(resolved) > 100


def test_patterns_are_plain_regular_expressions() -> None:
    assert "(?!" not in document_text()


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = page().decode()
    assert "<script" not in html
    assert "http://" not in html
    assert "https://" not in html
    for route in ROUTES:
        assert route.summary.replace("'", "&#x27;") in html


def test_every_query_parameter_says_what_it_means() -> None:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                if parameter.get("in") == "query":
                    assert parameter.get("description"), f"{method} {path} {parameter['name']}: gateway/query_help.py"


def test_fields_say_what_the_code_says_of_them_and_help_is_for_fields_that_there_are() -> None:
    shapes = document()["components"]["schemas"]
    assert shapes["Node"]["properties"]["offers"]["description"].startswith("Methods it serves (ship, pickup")
    assert "time_zone" in shapes["Promise"]["properties"]["deliver_by"]["description"]
    assert shapes["Reservation"]["properties"]["on_short"]["description"]
    fields = {f"{name}.{field}" for name, shape in shapes.items() for field in shape.get("properties", {})}
    fields |= {name.partition(".")[2] for name in fields}
    assert set(FIELD_HELP) <= fields
