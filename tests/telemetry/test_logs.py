"""Log lines: a sentence and its fields."""

import logging
import subprocess
import sys

import msgspec

from exchange.config import PROJECT
from exchange.telemetry.logs import HumanFormatter, JsonFormatter
from exchange.transport.commands import ClientLines


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


def test_every_line_that_python_prints_itself_has_the_form_too() -> None:
    code = """
import threading, warnings
from exchange.telemetry import logs

logs.configure("json", "info")
warnings.warn("old ways")
thread = threading.Thread(target=lambda: [][0], name="helper")
thread.start()
thread.join()
raise ValueError("crossed")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    lines = [msgspec.json.decode(line) for line in ended.stderr.splitlines()]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "py.warnings"),
        ("error", "exchange.telemetry.logs"),
        ("critical", "exchange.telemetry.logs"),
    ]
    assert "old ways" in lines[0]["message"]
    assert lines[1]["thread_name"] == "helper"
    assert lines[2]["error"].endswith("ValueError: crossed")
    assert ended.returncode == 1


def test_the_kafka_client_speaks_in_sentences_and_fields() -> None:
    told = ("FAIL", "rdkafka#producer-1", "[thrd:k:9/bootstrap]: k:9/bootstrap: Connect failed")
    line = logging.makeLogRecord({"name": "librdkafka", "msg": "%s [%s] %s", "created": 0.5})
    line.args = told

    assert ClientLines().filter(line)

    assert (
        HumanFormatter()
        .format(line)
        .endswith(
            " librdkafka: k:9/bootstrap: Connect failed"
            " kind=FAIL client=rdkafka#producer-1 client_thread=k:9/bootstrap"
        )
    )


def test_what_the_kafka_client_repeats_is_said_once() -> None:
    filtered = ClientLines()
    lines = [
        logging.makeLogRecord({"msg": "%s [%s] %s", "args": ("FAIL", "producer-1", sentence)})
        for sentence in ("refused after 1 ms", "refused after 2 ms", "timed out", "refused")
    ]

    assert [filtered.filter(line) for line in lines] == [True, False, True, True]
