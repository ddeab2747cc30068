import io
import math

from rich.console import Console

from tests.faults.report import Report, Row, TakeOvers, document, show

MADE = Report(
    seed=1,
    minutes=20,
    rows=[
        Row("kill matcher", 3, 0, 0, [1.0, 2.004, 14.0]),
        Row("restart PostgreSQL", 2, 0, 0, [1.0, math.inf]),
    ],
    take_overs=[TakeOvers("kill matcher", [0.1, 1.9, 2.1])],
    calls={"commands": 50_000, "ok": 60_000, "refused": 10_000, "unknown": 12_000},
    events=100_000,
    failures={},
)


def test_the_tables_fit_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)

    show(MADE, console)

    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split() for line in shown if "kill matcher" in line] == [
        ["│", "kill", "matcher", "│", "3", "│", "0", "│", "0", "│", "2.0", "│", "14.0", "│"],
        ["│", "kill", "matcher", "│", "3", "│", "2", "in", "2", "s", "│", "1.9", "│", "2.1", "│"],
    ]
    assert [line.split() for line in shown if "restart" in line] == [
        [
            "│",
            "restart",
            "PostgreSQL",
            "│",
            "2",
            "│",
            "0",
            "│",
            "0",
            "│",
            "never",
            "│",
            "never",
            "│",
        ]
    ]


def test_a_script_is_told_the_same() -> None:
    told = document(MADE)

    assert [(row["median_heal_s"], row["worst_heal_s"]) for row in told["faults"]] == [
        (2.0, 14.0),
        (None, None),
    ]
    assert told["take_overs"] == [
        {
            "after": "kill matcher",
            "times": 3,
            "limit_s": 2.0,
            "in_time": 2,
            "median_s": 1.9,
            "worst_s": 2.1,
        }
    ]
