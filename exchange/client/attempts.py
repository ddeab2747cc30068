"""When the same request is sent again, and what is known when it is not. No I/O.

Read ``Attempts.judge``. It hears what became of an attempt and says after how many seconds the next
one follows, or that there is an answer; a refusal and the end of all patience it raises.

A command may have been done although nobody said so: the connection broke, the answer was 202 or
a 503 that does not know, or something in between answered in place of the exchange. The next
attempt has the same key and gets the outcome of the first that arrived. A refusal that the log does
not have, such as a 403, says nothing of the attempts before it.
"""

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from random import random
from typing import Any, Final, Generic

import msgspec
from msgspec import Struct, structs

from exchange.client.answers import AllCancelled, BatchAnswer, Cancelled, EntryAnswer, Placed
from exchange.client.problems import (
    ExchangeError,
    OutcomeUnknown,
    Problem,
    Refused,
    Unavailable,
    problem_of,
)
from exchange.client.requests import Answer, Command, Request, batch

PAUSE_S: Final = (0.1, 2.0)  # before the second attempt, and the longest; each is twice the last
CONFLICT: Final = "idempotency.conflict"  # the key is another request's: no attempt did anything
DECIDED: Final = ("command.unreadable", "command.quarantined")  # refusals with the status 500
PASSING: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # nothing was done
NOT_SENT: Final = ("gateway.busy", "matcher.older")  # nor where these are told

Told = Placed | Cancelled | ExchangeError


class Patience(Struct, frozen=True):
    """How long to try: no attempt begins after ``total_s``, and each ends after ``attempt_s``.

    With a ``total_s`` of 0 nothing is sent a second time.
    """

    total_s: float = 30.0
    attempt_s: float = 10.0  # the exchange answers, or says that it cannot, within 2 s


PATIENCE: Final = Patience()


class Reply(Struct, frozen=True):
    """What came back; ``replayed`` if it is the outcome of an earlier attempt."""

    status: int
    body: bytes
    replayed: bool = False
    retry_after_s: float = 0.0


class Broken(Struct, frozen=True):
    """Nothing came back; ``sent`` if the exchange may have got the request."""

    reason: str
    sent: bool


class Attempts(Generic[Answer]):
    """The attempts of one request; ``answer`` is there when ``judge`` returns None."""

    answer: Answer

    def __init__(self, request: Request[Answer], patience: Patience) -> None:
        self.request = request
        self._asked = _Asked(request)
        self._pace = _Pace(patience)

    def judge(self, said: Reply | Broken) -> float | None:
        """Return after how many seconds to send ``request``; None if there is the answer.

        Raises:
            Refused: The exchange says no.
            Unavailable: There is no time for another attempt, and nothing was done.
            OutcomeUnknown: The same, and it may have been done.
        """
        told = self._asked.hear(said)
        if isinstance(told, ExchangeError):
            raise told
        if told is not None:
            self.answer = told
            return None
        pause_s = self._pace.next(self._asked.retry_after_s)
        if pause_s is None:
            raise self._asked.end()
        return pause_s


class BatchAttempts:
    """The attempts of a batch; what has no answer yet is sent again, without the rest."""

    def __init__(self, commands: Sequence[Command[Any]], patience: Patience) -> None:
        self.request: Request[Any] = batch(commands)
        self._commands = commands
        self._told: dict[int, Told] = {}
        self._open = {at: _Asked(command) for at, command in enumerate(commands)}
        self._pace = _Pace(patience)

    @property
    def answer(self) -> list[Told]:
        """For each command its answer, or the error that it would have raised alone."""
        told = self._told | {at: asked.end() for at, asked in self._open.items()}
        return [told[at] for at in sorted(told)]

    def judge(self, said: Reply | Broken) -> float | None:
        """Return after how many seconds to send ``request``; None if nothing is sent again."""
        for (at, asked), own in zip(list(self._open.items()), self._each(said), strict=True):
            told = asked.hear(own)
            if told is not None:
                self._told[at] = told
                del self._open[at]
        if not self._open:
            return None
        pause_s = self._pace.next(max(asked.retry_after_s for asked in self._open.values()))
        if pause_s is not None:
            self.request = batch([self._commands[at] for at in self._open])
        return pause_s

    def _each(self, said: Reply | Broken) -> Sequence[Reply | Broken]:
        """Return what each open command is told: its own answer, or what the batch is told."""
        if isinstance(said, Reply) and said.status == HTTPStatus.OK:
            try:
                entries = _read(said.body, BatchAnswer).entries
            except (msgspec.MsgspecError, UnicodeDecodeError):
                entries = []
            if len(entries) == len(self._open):
                return [_reply_to(entry) for entry in entries]
        return [said] * len(self._open)


class _Asked(Generic[Answer]):
    """One request, and what is known of it so far."""

    def __init__(self, request: Request[Answer]) -> None:
        self.retry_after_s = 0.0  # as the last reply asks
        self._request = request
        self._reason = ""
        self._may_be_done = False

    def hear(self, said: Reply | Broken) -> Answer | Refused | OutcomeUnknown | None:
        """Return what an attempt tells for good; None if another one may tell more."""
        if isinstance(said, Broken):
            self.retry_after_s = 0.0
            self._note(said.reason, may_be_done=said.sent)
            return None
        self.retry_after_s = said.retry_after_s
        if said.status == HTTPStatus.ACCEPTED:
            self._note("it is not decided yet", may_be_done=True)
            return None
        if 200 <= said.status < 300:
            return self._read(said)
        problem = problem_of(said.status, said.body)
        if is_refusal(problem):
            return self._refusal(problem)
        told = problem.members.get("retry_after")
        self.retry_after_s = max(said.retry_after_s, told if isinstance(told, int) else 0)
        self._note(f"{problem.code}: {problem.detail}", may_be_done=may_be_done(problem))
        return None

    def end(self) -> Unavailable | OutcomeUnknown:
        """Return what is known when nothing is sent again."""
        what = f"{self._request.method} {self._request.target}"
        if self._is_unknown:
            return OutcomeUnknown(f"{what} may have been done; send the same again", self._reason)
        return Unavailable(f"{what} was not answered, and nothing was done", self._reason)

    @property
    def _is_unknown(self) -> bool:
        return self._may_be_done and isinstance(self._request, Command)

    def _note(self, reason: str, *, may_be_done: bool) -> None:
        self._reason = reason
        self._may_be_done |= may_be_done

    def _read(self, said: Reply) -> Answer | None:
        try:
            answer = _read(said.body, self._request.answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._note(f"the answer cannot be read: {error}", may_be_done=True)
            return None
        if said.replayed and isinstance(answer, Placed | Cancelled | AllCancelled):
            structs.force_setattr(answer, "replayed", True)  # nobody has seen it yet
        return answer

    def _refusal(self, problem: Problem) -> Refused | OutcomeUnknown:
        refused = Refused(problem)
        if self._is_unknown and not problem.is_decided and problem.code != CONFLICT:
            return OutcomeUnknown("an earlier attempt may have been done", str(refused))
        return refused


class _Pace:
    """How long to pause between attempts, and when there is no time for another."""

    def __init__(self, patience: Patience) -> None:
        self._ends_s = time.monotonic() + patience.total_s
        self._pause_s = PAUSE_S[0]

    def next(self, retry_after_s: float) -> float | None:
        """Return how long to pause; None if there is no time for that."""
        pause_s = self._pause_s * (0.5 + random() / 2)  # many clients lose one gateway at once
        self._pause_s = min(2 * self._pause_s, PAUSE_S[1])
        pause_s = max(pause_s, retry_after_s)
        return pause_s if time.monotonic() + pause_s < self._ends_s else None


def reply_of(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Return a reply, with what its headers say; they are found by small letters."""
    after = headers.get("retry-after", "")
    after_s = float(after) if after.isascii() and after.isdigit() else 0.0
    return Reply(status, body, headers.get("idempotent-replayed") == "true", after_s)


def is_refusal(problem: Problem) -> bool:
    """Whether the exchange says no, and would say so again."""
    return problem.code in DECIDED or (problem.status < 500 and problem.status not in PASSING)


def may_be_done(problem: Problem) -> bool:
    """Whether what got a problem that passes may have been done all the same."""
    outcome = problem.members.get("outcome")
    if outcome is not None:
        return bool(outcome != "none")
    return problem.status not in PASSING and problem.code not in NOT_SENT


def _reply_to(entry: EntryAnswer) -> Reply:
    return Reply(entry.status, bytes(entry.body), entry.replayed)


_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {}  # as many as types of answers


def _read(body: bytes, answer: type[Answer]) -> Answer:
    decoder = _decoders.get(answer)
    if decoder is None:
        decoder = _decoders[answer] = msgspec.json.Decoder(answer)
    read: Answer = decoder.decode(body)
    return read
