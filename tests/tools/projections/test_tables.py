"""What operators and errors say is shown as it is, whatever it looks like to the terminal."""

from datetime import UTC, datetime

from msgspec import structs
from rich.console import Console
from rich.table import Table

from exchange.tools.operators.status import UNHEALTHY, ShardStatus
from exchange.tools.projections.operations import operations_table
from exchange.tools.projections.overview import GenerationView, Overview, generations_table, notes
from exchange.tools.projections.shards import ShardView, shard_notes, shards_table
from exchange.tools.terminal import WIDE, print_rows
from projections.lifecycle.operations import OperationRow

ODD = "as in [/runbook] of [red]"


def shown(table: Table, width: int = 200) -> str:
    console = Console(width=width)
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


def test_what_would_move_the_cursor_is_written_out() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    row = OperationRow(1, at, "ann\x1b[2J", "pause", "book", 1, 1, None, "one\nline")

    table = shown(operations_table([row]))

    assert r"ann\x1b[2J" in table
    assert r"one\nline" in table


def test_a_terminal_of_80_columns_shows_every_figure() -> None:
    million = 12_345_678
    view = ShardView(0, 1, True, 1, million, 6_172_839, million - 7, None, None, 3)

    shards = shown(shards_table([view], {}), width=80)
    generations = shown(generations_table(Overview([_far_behind(million)], [])), width=80)

    for figure in ("12,345,678", "6,172,839", "12,345,671", "undecided", "published"):
        assert figure in shards
    for figure in ("instruments", "live, paused", "12,345,678", "137,174 /", "37.0 MB", "1234 s"):
        assert figure in generations
    assert "…" not in shards + generations


def test_a_matcher_that_decides_nothing_is_not_called_running() -> None:
    view = ShardView(0, 1, True, 0, 9, 9, None, None, None)
    stalled = ShardStatus(0, UNHEALTHY, 9, 5, "healthy", 0)
    cut = ShardStatus(1, UNHEALTHY, 9, -5, "healthy", 0)

    assert "running" in shown(shards_table([view], {}))
    assert "running" not in shown(shards_table([view], {0: stalled}))
    assert [note.rsplit(" ", 1)[1] for note in shard_notes([stalled, cut])] == [
        "MatcherStalled",
        "KafkaLostCommands",
    ]


def _far_behind(head: int) -> GenerationView:
    return GenerationView(
        projection="instruments",
        generation=12,
        state="paused",
        live=True,
        positions={0: head},
        filling={},
        heads={0: head},
        lag_events=head // 90,
        lag_seconds=2_765.0,
        rate=23_456.0,
        left_s=1_234.0,
        falls_behind=False,
        fingerprint="1-ab",
        changed=False,
        fits=True,
        begun_at=None,
        begun_by="ann",
        verified=None,
        digest=None,
        failure=None,
        failed_at=None,
        size_bytes=3 * head,
    )


def test_a_build_that_nobody_takes_up_says_since_when_it_waits() -> None:
    begun_at = datetime(2026, 1, 1, tzinfo=UTC)
    waiting = structs.replace(
        _far_behind(9), state="building", live=False, begun_at=begun_at, lag_events=9
    )

    assert notes(Overview([waiting], [])) == [
        "instruments 12: waits for a builder since 2026-01-01 00:00:00Z, begun by ann"
    ]


def test_only_a_model_that_is_read_is_to_be_rebuilt_for_its_code() -> None:
    live = structs.replace(_far_behind(9), changed=True)
    kept = structs.replace(live, state="kept", live=False)

    assert notes(Overview([live, kept], [])) == [
        "instruments 12: the code has changed since: rebuild",
        "instruments 12: by the definition before (1-ab)",
    ]


def test_rows_are_whole_at_any_width() -> None:
    columns = ("order_id", "instrument", "price", "filled_quantity", "created_at", "updated_at")
    ids = [f"0190a4b2-7c1e-7d3a-9b5e-{n:012}" for n in (1, 2)]
    times = ["2026-11-25T10:00:00.123Z", "2026-11-25T11:00:00.456Z"]
    rows = [[one, "BTC-USD", "70150.5", None, times[0], times[1]] for one in ids]

    def lines(width: int) -> list[str]:
        console = Console(width=width, highlight=False)
        with console.capture() as captured:
            print_rows(console, "ann: orders", columns, rows)
        return captured.get().splitlines()

    for width in (60, 80, 100, 120):
        told = lines(width)
        assert max(map(len, told)) <= width
        for value in (*ids, "BTC-USD", "70150.5", "10:00:00.123", "11:00:00.456"):
            assert any(value in line for line in told), (width, value)
    assert lines(100) == [
        "ann: orders (times of 2026-11-25, UTC)",
        f"{'order_id':<36}  instrument  price    filled_quantity  created_at",
        f"{ids[0]:<36}  BTC-USD     70150.5  -                10:00:00.123",
        "    updated_at 11:00:00.456",
        f"{ids[1]:<36}  BTC-USD     70150.5  -                10:00:00.123",
        "    updated_at 11:00:00.456",
    ]
    assert lines(WIDE)[2].split() == [ids[0], "BTC-USD", "70150.5", "-", *times]
