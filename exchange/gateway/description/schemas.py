"""Types to JSON Schema 2020-12, in a form that readers other than Python understand."""

from collections.abc import Iterable
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


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a type in one piece, without references."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    name = schema.pop("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema | definitions.get(name, {})
    return found


def portable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as readers other than Python understand it."""
    return {name: _portable(value) for name, value in document.items()}


def _portable(part: Any) -> Any:
    if isinstance(part, dict):
        return portable(part)
    if isinstance(part, list):
        return [_portable(value) for value in part]
    if isinstance(part, str):
        for python, everywhere in _ONLY_PYTHON:
            part = part.replace(python, everywhere)
    return part
