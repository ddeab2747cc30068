"""A page that shows both documents: plain HTML, made once, that loads nothing."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from typing import Any, Final

STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:CanvasText;background:Canvas;color-scheme:light dark}
h2{margin-top:2.5rem;text-transform:capitalize}
details{border:1px solid #8884;border-radius:6px;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#8881;padding:.6rem;border-radius:4px;overflow:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
td,th{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #8883}
.method{display:inline-block;min-width:3.4rem;font-weight:600}
.post{color:#0a7f3f}.get{color:#2563c9}.note{opacity:.7}
"""

_CODE: Final = re.compile("`([^`]*)`")

ICON: Final = '<link rel="icon" href="data:,">'  # without it a browser asks for /favicon.ico

# The page may run nothing and load nothing, and no other page may embed it.
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

LINKS: Final = """<p>Also as <a href="/openapi.json">OpenAPI</a>,
<a href="/asyncapi.json">AsyncAPI</a> and
<a href="/requests.http">requests for an editor</a>.</p>"""


def page(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any]) -> str:
    """Return the page."""
    info = openapi["info"]
    messages = asyncapi["channels"]["stream"]["messages"]
    parts = [
        f"<h1>{escape(info['title'])}</h1>",
        LINKS,
        *_operations(openapi["paths"]),
        "<h2>Stream: what clients send</h2>",
        *(_message(message) for name, message in messages.items() if name.startswith("client.")),
        "<h2>Stream: what clients get</h2>",
        *(_message(m) for name, m in messages.items() if not name.startswith("client.")),
        "<h2>Schemas</h2>",
        *_schemas({**asyncapi["components"]["schemas"], **openapi["components"]["schemas"]}),
    ]
    title = f"<title>{escape(info['title'])}</title>"
    head = f'<meta charset="utf-8">{title}{ICON}<style>{STYLE}</style>'
    body = f"<main>{''.join(parts)}</main>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _operations(paths: Mapping[str, Any]) -> Iterable[str]:
    tagged: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            tagged.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    for tag, operations in tagged.items():
        yield f"<h2>{escape(tag)}</h2>"
        yield from operations


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    title = (
        f'<span class="method {method}">{method.upper()}</span> <code>{escape(path)}</code> '
        f'<span class="note">{_prose(operation["summary"])}</span>'
    )
    parts = [_parameters(operation["parameters"])]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        parts.append(f"<p>Body: {_type(content['schema'])}</p>")
        parts += [_json(example["value"]) for example in content["examples"].values()]
    parts.append(_responses(operation["responses"]))
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (f"<code>{escape(p['name'])}</code>", p["in"], _type(p["schema"]), _prose(p["description"]))
        for p in parameters
    ]
    return _table(("Parameter", "In", "Type", ""), rows) if rows else ""


def _responses(responses: Mapping[str, Any]) -> str:
    rows = []
    for status, response in responses.items():
        types = [_type(content["schema"]) for content in response["content"].values()]
        meaning = _prose(response["description"]).replace("; ", "<br>")
        rows.append((status, "<br>".join(types), meaning))
    return _table(("Status", "Body", ""), rows)


def _message(message: Mapping[str, Any]) -> str:
    title = f"<code>{escape(message['name'])}</code>"
    return f"<p><b>{title}</b> {_prose(message['summary'])} {_type(message['payload'])}</p>"


def _schemas(schemas: Mapping[str, Any]) -> Iterable[str]:
    for name, schema in sorted(schemas.items()):
        rows = [
            (f"<code>{escape(field)}</code>", _type(kind), "" if field in required else "optional")
            for required in [schema.get("required", ())]
            for field, kind in schema.get("properties", {}).items()
        ]
        about = _prose(schema.get("description", ""))
        table = _table(("Field", "Type", ""), rows)
        summary = f"<summary><code>{name}</code> {about}</summary>"
        yield f'<details id="{name}">{summary}{table}</details>'


def _type(schema: Mapping[str, Any]) -> str:
    """Return a short text for a schema, with links to what it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_type(part) for part in schema[union])
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return _plain(schema)


def _plain(schema: Mapping[str, Any]) -> str:
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    bounds = [f"{n} {schema[n]}" for n in ("minimum", "maximum", "default") if n in schema]
    text = escape(str(schema.get("format", schema.get("type", "any"))))
    return f"{text} <span class=note>{escape(', '.join(bounds))}</span>" if bounds else text


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"
