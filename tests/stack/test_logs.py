"""Log lines: a sentence and its fields."""

import logging
import sys

import msgspec

from exchange.logs import HumanFormatter, JsonFormatter


def record(**extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "matcher", "levelname": "INFO", "msg": "Appended batch", "created": 0.5, **extra}
    )


def test_a_line_for_people() -> None:
    line = HumanFormatter().format(record(position=7, events=2))

    assert line == (
        "1970-01-01T00:00:00.500+00:00 INFO matcher: Appended batch position=7 events=2"
    )


def test_a_line_for_programs() -> None:
    line = JsonFormatter().format(record(position=7, shard=object))

    assert msgspec.json.decode(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "matcher",
        "message": "Appended batch",
        "position": 7,
        "shard": "<class 'object'>",
    }


def test_errors_are_kept_in_both() -> None:
    try:
        raise ValueError("crossed")
    except ValueError:
        failed = record(exc_info=sys.exc_info())

    assert HumanFormatter().format(failed).endswith("ValueError: crossed")
    assert msgspec.json.decode(JsonFormatter().format(failed))["error"].endswith("crossed")
