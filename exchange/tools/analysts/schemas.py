"""``exchange schemas``: the JSON Schemas of events as documents, in a folder."""

import json
from pathlib import Path

import typer

from exchange.log.documents.schemas import FORM, breaks, schemas
from exchange.tools.terminal import ToolError


def write_schemas(directory: Path) -> None:
    """Write the schema of each type of event, unless one would break what is there."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {directory / f"{name}.v{FORM}.json": schema for name, schema in schemas().items()}
    broken = [
        f"{path.name}: {why}"
        for path, schema in made.items()
        if path.exists()
        for why in breaks(json.loads(path.read_text("utf-8")), schema)
    ]
    if broken:
        raise ToolError(
            f"Readers of published events would break, so nothing was written: {'; '.join(broken)}."
            " Only optional fields may be added; anything else needs a type of event of its own."
        )
    for path, schema in made.items():
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")
    typer.echo(f"{len(made)} schemas are in {directory}.")
