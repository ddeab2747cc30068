"""Which code keeps up which generation: definitions by their fingerprints.

A build has the present definition of each projection and, while generations of it are live or kept,
the one before. A generation that none of them built is left as it stands.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from projections.lifecycle.changes import Definition, is_of
from projections.lifecycle.generations import Generation

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
