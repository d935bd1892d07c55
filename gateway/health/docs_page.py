"""/docs: the OpenAPI document as one plain page, made here: no scripts, nothing from elsewhere."""

from __future__ import annotations

import json
from functools import lru_cache
from html import escape
from typing import Any

from gateway.openapi import document

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "h2{margin-top:2.5rem;border-bottom:1px solid #ccc}code,pre{font:13px/1.45 ui-monospace,monospace;background:#f4f4f4}"
    "pre{padding:.7rem;overflow:auto}summary{cursor:pointer;padding:.25rem 0}summary b{display:inline-block;width:4.5rem}"
    "@media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}code,pre{background:#222}}"
)
CONTENT_SECURITY_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@lru_cache(maxsize=1)
def page() -> bytes:
    """The HTML page."""
    doc = document()
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(doc['info']['title'])} API</title><style>{STYLE}</style><h1>{escape(doc['info']['title'])} API</h1>",
        f"<p>{escape(doc['info']['description'])} Machine-readable: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for tag in doc["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2>")
        for path, methods in doc["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(doc, method, path, operation))
    return "".join(parts).encode()


def _operation(doc: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    out = [
        f"<details><summary><b>{method.upper()}</b><code>{escape(path)}</code> {escape(operation['summary'])}</summary>"
    ]
    if operation.get("description"):
        out.append(f"<p>{escape(operation['description'])}</p>")
    rows = []
    for parameter in operation.get("parameters", []):
        found = _resolve(doc, parameter)
        needed = ", required" if found.get("required") else ""
        rows.append(
            f"<li><code>{escape(found['name'])}</code> ({found['in']}{needed}) {escape(found.get('description', ''))}"
        )
    if rows:
        out.append(f"<ul>{''.join(rows)}</ul>")
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = [e["value"] for e in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        out += [f"<p>Send <code>{escape(media)}</code></p>{_pre(example)}" for example in examples]
    for status, response in operation["responses"].items():
        found = _resolve(doc, response)
        out.append(f"<p><code>{status}</code> {escape(found.get('description', ''))}</p>")
        out += [_pre(c["example"]) for c in found.get("content", {}).values() if "example" in c and status < "300"]
    return "".join(out) + "</details>"


def _resolve(doc: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in entry:
        return entry
    found: Any = doc
    for step in entry["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _pre(example: Any) -> str:
    text = example if isinstance(example, str) else json.dumps(example, indent=2)
    return f"<pre>{escape(text)}</pre>"
