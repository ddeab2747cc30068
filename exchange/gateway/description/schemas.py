"""Types to JSON Schema 2020-12, in a form that readers other than Python understand."""

from collections.abc import Iterable, Iterator
from inspect import cleandoc
from typing import Any, Final

import msgspec

REF_TEMPLATE: Final = "#/components/schemas/{name}"

# Replacements for readers other than Python: Python's end of text in patterns, surrogates (which
# JSON in UTF-8 cannot have), and the double backticks of docstrings, since descriptions are
# Markdown.
_ONLY_PYTHON: Final = ((r"\Z", "$"), (r"\ud800-\udfff", ""), ("``", "`"))


def schemas_of(types: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the schemas of some types, and the components that these refer to."""
    schemas, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    return list(schemas), components


def reached(part: Any, components: dict[str, Any]) -> dict[str, Any]:
    """Return those components that a part of a document refers to, directly or by others."""
    names: set[str] = set()
    waiting = [part]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in names:
                names.add(name)
                waiting.append(components[name])
    return {name: schema for name, schema in components.items() if name in names}


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].rpartition("/")[2]
        part = [*part.values()]
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a type in one piece, without references."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    name = schema.pop("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema | definitions.get(name, {})
    return found


def told(docstring: str) -> dict[str, str]:
    """Return what a docstring says: its first paragraph as a summary, the rest as a description."""
    first, _, rest = cleandoc(docstring).partition("\n\n")
    summary = " ".join(first.split()).rstrip(".")
    return {"summary": summary, "description": rest} if rest else {"summary": summary}


def titled(part: Any) -> Any:
    """Return a part of a document in which each alternative has a title.

    Viewers call one that has none "Variant 1".
    """
    if isinstance(part, list):
        return [titled(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: titled(value) for name, value in part.items()}
    if isinstance(found.get("anyOf"), list):
        found["anyOf"] = [_with_title(one) for one in found["anyOf"]]
    return found


def _with_title(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema or "title" in schema:
        return schema
    values = " or ".join(map(str, schema.get("enum", ())))
    return {"title": schema.get("type") or values or "anything else", **schema}


def portable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as readers other than Python understand it."""
    return {name: _portable(value, name) for name, value in document.items()}


def _portable(part: Any, name: str = "") -> Any:
    if isinstance(part, dict):
        return portable(part)
    if isinstance(part, list):
        return [_portable(value) for value in part]
    if isinstance(part, str):
        for python, everywhere in _ONLY_PYTHON:
            part = part.replace(python, everywhere)
        # A description is Markdown, in which an indented line is code. A summary is plain text.
        if name == "description":
            return cleandoc(part)
        if name == "summary":
            return part.replace("`", "")
    return part
