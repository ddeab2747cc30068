"""What operators and errors say is shown as it is, whatever it looks like to the terminal."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from exchange.tools.projections.operations import operations_table
from exchange.tools.projections.shards import ShardView, shards_table
from projections.lifecycle.operations import OperationRow

ODD = "as in [/runbook] of [red]"


def shown(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_reason_that_looks_like_markup_is_shown_as_it_is() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    row = OperationRow(1, at, "[ann]", "pause", "book", 1, 1, None, ODD)

    assert ODD in shown(operations_table([row]))
    assert "[ann]" in shown(operations_table([row]))


def test_an_error_of_snapshots_is_shown_as_it_is() -> None:
    view = ShardView(0, 1, True, 0, 9, 9, None, None, ODD)

    assert ODD in shown(shards_table([view], {}))
