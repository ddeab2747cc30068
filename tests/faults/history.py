"""The history of a run: a file of JSON Lines, written as things happen, read by the checkers.

Each line has a time ``t`` (seconds since 1970) and a ``kind``:

======================== ==================================================================
``invoke``               a command is about to be sent: ``n``, ``path``, ``body``
``ok`` ``refused``       an answer with an outcome: ``n``, ``status``, ``answer``
``unknown``              an attempt without one: ``n``, ``status`` (0: the connection broke)
``fault``                a fault is over: ``fault``, ``target``, ``began``, what it found
``progress``             ``heads`` of the shards, and how far each read model is: ``reached``
``process``              ``name``, ``pid``, ``rss`` and ``files`` (open descriptors) of one
``exit``                 a process ended: ``name``, ``code``
``trades``               a message to subscriber ``n``: ``prev``, ``sequence``, ``sequences``
``broken``               subscriber ``n`` saw a gap or a repetition: ``error``
``rebuild begun``        ``projection`` is rebuilt as ``generation``
``rebuild``              it has ended: ``state`` (``live``, or why not), ``began``
``unchanged``            a rollback or retirement that did not succeed: ``error``
``fell``                 an answer of a gateway that has less than the one before, which came at
                         ``since``: ``told``; ``emptied``: it has nothing of what must be there
``failed``               the run ended early: ``error``
``book``                 subscriber ``n`` at the end: ``instrument``, ``start``, its book
======================== ==================================================================
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.load import Answer, Command, History, is_outcome

KEPT = ("command_id", "sequence", "reason", "code", "outcome", "order")  # of an answer
Line = dict[str, Any]


class HistoryFile(History):
    """A history that is written to a file and not kept in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.invocations = 0
        self._file = path.open("wb", buffering=1024 * 1024)

    def close(self) -> None:
        self._file.close()

    def note(self, kind: str, **fields: Any) -> None:
        line = msgspec.json.encode({"t": round(time.time(), 4), "kind": kind, **fields})
        self._file.write(line + b"\n")

    def invoked(self, command: Command) -> None:
        self.invocations += 1
        command.number = self.invocations
        self.note("invoke", n=command.number, path=command.path, body=command.body)

    def answered(self, command: Command, answer: Answer | None) -> None:
        super().answered(command, answer)
        if answer is None:
            self.note("unknown", n=command.number, status=0)
            return
        fields = {"n": command.number, "status": answer.status, "answer": _kept(answer.body)}
        if not is_outcome(answer):
            self.note("unknown", **fields)
        else:
            self.note("ok" if answer.status < 400 else "refused", **fields)


def _kept(body: dict[str, Any]) -> dict[str, Any]:
    kept = {name: body[name] for name in KEPT if name in body}
    if "trades" in body:
        kept["trades"] = [trade["trade_id"] for trade in body["trades"]]
    return kept


@dataclass
class Recorded:
    """A history as it was read back: the calls as commands, the rest as lines by their kind."""

    history: History = field(default_factory=History)
    lines: dict[str, list[Line]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Line]:
        return self.lines.get(kind, [])


def read_history(path: Path) -> Recorded:
    with path.open("rb") as file:
        return recorded(msgspec.json.decode(line) for line in file)


def recorded(lines: Iterator[Line]) -> Recorded:
    """Put lines together: the answers with their commands."""
    read = Recorded()
    commands: dict[int, Command] = {}
    for line in lines:
        match line["kind"]:
            case "invoke":
                command = Command(line["path"], line["body"], number=line["n"], invoked_s=line["t"])
                commands[command.number] = command
                read.history.invoked(command)
            case "ok" | "refused" | "unknown":
                commands[line["n"]].attempts += 1
                answer = Answer(line["status"], line.get("answer", {}), line["t"])
                if answer.status:
                    commands[line["n"]].answers.append(answer)
            case kind:
                read.lines.setdefault(kind, []).append(line)
    return read
