"""Is the log what was written, would this build decide it again, and what are the models by it?

Read ``Proving``. Three walks over the log, each from the first event: the chain (``verify``), the
recorded commands decided again (``decide_again``), and a fold of each read model for its digest.
The exchange may run meanwhile: what is appended is not part of it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange import BUILD
from exchange.domain.values import Shard
from exchange.log.audit.deciding import (
    Again,
    Decision,
    command_end,
    decide_again,
)
from exchange.log.audit.verify import Verified, verify
from exchange.tools.projections.stores import Stores
from exchange.tools.telling import Tell
from projections.builder.comparing.digests import ModelDigest, digest_at
from projections.lifecycle.generations import generations_of
from projections.lifecycle.skips import read_skipped
from projections.registry import Projection

SHOWN_EVENTS_MAX: Final = 5  # of a command, from the first that differs: one may have thousands


class Otherwise(Struct, frozen=True):
    """The first command that this build would decide otherwise.

    ``position`` is that of its first event, ``differs_at`` that of the first event which is another
    now. ``recorded`` and ``decided`` have the events from there on, not all if there are many.
    ``error`` says how the rules failed, or why no command causes these events.
    """

    shard: int
    position: int
    differs_at: int
    command: Any
    recorded: Sequence[Any]
    decided: Sequence[Any]
    error: str | None


class Decided(Struct, frozen=True):
    """What deciding a shard's commands again gave, up to the end of the one at the position.

    It ends before events that no command causes, or that the rules cannot apply: ``broken`` is the
    position of the first. They count as one that is decided otherwise.
    """

    shard: int
    up_to: int
    commands: int
    meant: Mapping[str, int]
    otherwise: int
    first: Otherwise | None
    broken: int | None


class Model(Struct, frozen=True):
    """A read model as the log gives it.

    ``generation`` was verified at the same positions, with the digest ``verified``; None if none
    was.
    """

    projection: str
    fingerprint: str
    rows: int
    digest: str
    skipped: int
    generation: int | None
    verified: str | None


class Proved(Struct, frozen=True):
    """All that was found, by which build, and up to which position of each shard.

    The log is verified up to its head, whatever the positions. ``models`` is empty where only
    decisions were asked for, or the log was found to differ.
    """

    build: str
    at: str
    positions: Mapping[int, int]
    log: Sequence[Verified]
    decisions: Sequence[Decided]
    models: Sequence[Model]
    holds: bool


class Proving:
    """The walks, one after the other."""

    def __init__(self, stores: Stores, positions: Mapping[int, int], tell: Tell) -> None:
        self._stores = stores
        self._log = stores.connection
        self._positions = positions
        self._tell = tell

    async def prove(self, *, only_decisions: bool) -> Proved:
        """Do all walks; those after the first only over a log that is as it was recorded."""
        at = ",".join(f"{shard}:{position}" for shard, position in self._positions.items())
        log = [] if only_decisions else [await self._verify(shard) for shard in self._positions]
        if any(one.problem is not None for one in log):
            return Proved(BUILD, at, self._positions, log, [], [], holds=False)
        decisions = [await self._decide(shard) for shard in self._positions]
        models = [] if only_decisions else await self._models(at)
        holds = not any(one.otherwise for one in decisions) and all(
            one.verified in (None, one.digest) for one in models
        )
        return Proved(BUILD, at, self._positions, log, decisions, models, holds)

    async def _verify(self, shard: int) -> Verified:
        told = partial(self._tell, f"shard {shard}: the chain")
        noted = {self._positions[shard]: ()}
        return await verify(self._log, Shard(shard), expected=noted, on_progress=told)

    async def _decide(self, shard: int) -> Decided:
        end = await command_end(self._log, shard, self._positions[shard])

        def told(done: int) -> None:
            self._tell(f"shard {shard}: deciding again", done, end)

        return _decided(await decide_again(self._log, shard, up_to=end, on_progress=told))

    async def _models(self, at: str) -> list[Model]:
        session = await self._stores.another()
        try:
            return [
                await self._model(session, definition, at)
                for definition in self._stores.definitions.current
                if definition.fold is not None
            ]
        finally:
            session.terminate()

    async def _model(self, session: asyncpg.Connection, definition: Projection, at: str) -> Model:
        name, fingerprint = definition.name, definition.fingerprint
        skips = await read_skipped(self._log, name, fingerprint)

        def told(what: str, done: int, of: int) -> None:
            self._tell(f"{name}: {what}", done, of)

        found = await digest_at(
            self._log, session, definition, self._positions, skips=skips, on_progress=told
        )
        return await self._beside_verified(definition, found, len(skips), at)

    async def _beside_verified(
        self, definition: Projection, found: ModelDigest, skipped: int, at: str
    ) -> Model:
        verified = [
            one
            for one in await generations_of(self._log, definition.name)
            if one.verified == at and self._stores.definitions.of(one) is definition
        ]
        newest = verified[-1] if verified else None
        return Model(
            definition.name,
            definition.fingerprint,
            found.rows,
            found.digest,
            skipped,
            None if newest is None else newest.generation,
            None if newest is None else newest.digest,
        )


def _decided(found: Again) -> Decided:
    first = None if found.first is None else _otherwise(found.first)
    broken = found.broken
    if broken is not None and first is None:
        at = broken.position
        first = Otherwise(found.shard, at, at, None, [], [], str(broken))
    return Decided(
        found.shard,
        found.up_to,
        found.commands,
        found.meant,
        found.otherwise + (broken is not None),
        first,
        None if broken is None else broken.position,
    )


def _otherwise(decision: Decision) -> Otherwise:
    recorded, decided = decision.recorded, decision.decided
    same = 0
    while same < min(len(recorded), len(decided)) and recorded[same] == decided[same]:
        same += 1
    shown = slice(same, same + SHOWN_EVENTS_MAX)
    return Otherwise(
        decision.shard,
        decision.position,
        decision.position + same,
        _named(decision.command),
        [_named(event) for event in recorded[shown]],
        [_named(event) for event in decided[shown]],
        decision.error,
    )


def _named(struct: Struct) -> Any:
    """Return a command or event as JSON has it, with its type."""
    return {"type": type(struct).__name__} | msgspec.to_builtins(struct)
