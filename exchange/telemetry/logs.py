"""Logging: a sentence plus fields, for people or as JSON lines.

Code calls ``logger.info("Appended batch", extra={"position": 7})``; the formatters here print every
field of ``extra``. Each process writes to its standard error, and the supervisor gives that a file.
What Python itself would print there, warnings and the error that ends a process or a thread, is
logged too, so that every line has the same form.
"""

import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

import msgspec

logger = logging.getLogger(__name__)

# The attributes of a record without ``extra``; all others are fields.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(log_format: str, level: str) -> None:
    """Set up the root logger of this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_end
    threading.excepthook = _log_end_of_thread


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what ``extra`` added to ``record``."""
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class HumanFormatter(logging.Formatter):
    """One line: time, level, logger, sentence, fields; a traceback below if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("The process ends with an error", exc_info=(kind, error, trace))


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is None:
        return
    name = ended.thread.name if ended.thread is not None else ""
    failure = (ended.exc_type, ended.exc_value, ended.exc_traceback)
    logger.error("A thread ended with an error", extra={"thread_name": name}, exc_info=failure)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
