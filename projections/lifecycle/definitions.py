"""Which code keeps up which generation: definitions by their fingerprints.

A build has the present definition of each projection and, while generations of it are live or kept,
the one before. A generation that none of them built is left as it stands.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import asyncpg

from projections.lifecycle.generations import Generation
from projections.stores.fingerprints import is_made_by


class Definition(Protocol):
    """What the changes need of a read model, in whichever store it is."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    async def reached(self, generation: int, shards: Sequence[int]) -> dict[int, int]:
        """Return the model's position by shard, without shards on which it is not complete."""
        ...

    async def hold(
        self, connection: asyncpg.Connection, generation: int, shards: Sequence[int]
    ) -> dict[int, int]:
        """Keep a generation at its positions, and return them, until the transaction ends."""
        ...

    async def release(self, generation: int, shards: Sequence[int]) -> None:
        """Let a held generation go on; a hold that is forgotten ends by itself."""
        ...


AnyDefinition = TypeVar("AnyDefinition", bound=Definition)


class Definitions(Generic[AnyDefinition]):
    """The definitions of a build; of each projection the present one comes first."""

    def __init__(self, definitions: Sequence[AnyDefinition]) -> None:
        self.all = definitions

    @property
    def current(self) -> list[AnyDefinition]:
        """The present definition of each projection."""
        first: dict[str, AnyDefinition] = {}
        for definition in self.all:
            first.setdefault(definition.name, definition)
        return list(first.values())

    def of_projection(self, projection: str) -> list[AnyDefinition]:
        """Return the definitions of a projection, the present one first."""
        return [definition for definition in self.all if definition.name == projection]

    def of(self, generation: Generation) -> AnyDefinition | None:
        """Return the definition that built a generation, None if this build does not have it."""
        return next((d for d in self.all if is_of(generation, d)), None)


def fits(generation: Generation, definitions: Sequence[Definition]) -> bool:
    """Tell whether one of the definitions is the one that built a generation."""
    return any(is_of(generation, definition) for definition in definitions)


def is_of(generation: Generation, definition: Definition) -> bool:
    """Tell whether a definition is the one that built a generation."""
    return generation.projection == definition.name and is_made_by(
        generation.fingerprint, definition.fingerprint
    )
