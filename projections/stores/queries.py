"""Which definition answers a query: the one that built the live generation.

A build has the present definition of a projection and, while generations of it are live or kept,
the one before. Both have queries of the same names. Read ``Queries.query``: a query is asked
through the present definition, is told the live generation (``read_live``), and is answered by the
definition that built this generation.

A generation that neither built is answered by one whose tables have the same shape. Its rows then
follow other rules, and nobody keeps it up, but it can be read.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Table

from projections.stores.checkpoints import Live, ReadModelUnavailable
from projections.stores.fingerprints import fingerprint, has_shape_of, is_made_by

Store = TypeVar("Store")
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

Query = Callable[Concatenate[Store, Live, Asked], Coroutine[Any, Any, Answer]]
"""Reads rows of the live generation from its store."""


class Queries:
    """The queries of one definition of a projection, by the names of their functions."""

    def __init__(self, projection: str, version: int, tables: Sequence[Table] = ()) -> None:
        self.projection = projection
        self.fingerprint = fingerprint(version, tables)
        self._functions: dict[str, Query[Any, ..., Any]] = {}
        DEFINED.setdefault(projection, []).append(self)

    def query(self, function: Query[Store, Asked, Answer]) -> Query[Store, Asked, Answer]:
        """Let the definition that built the live generation answer the decorated query."""
        name = function.__name__
        self._functions[name] = function

        @wraps(function)
        async def answer(
            store: Store, live: Live, /, *args: Asked.args, **kwargs: Asked.kwargs
        ) -> Answer:
            chosen: Query[Store, Asked, Answer] = self._chosen(name, live)
            return await chosen(store, live, *args, **kwargs)

        return answer

    def _chosen(self, name: str, live: Live) -> Query[Any, ..., Any]:
        assert live.projection == self.projection, live
        made_by = live.fingerprint
        if made_by == self.fingerprint:  # as nearly always
            return self._functions[name]
        others = [one for one in DEFINED[self.projection] if one is not self]
        able = [one for one in (self, *others) if name in one._functions]
        for fits in (is_made_by, has_shape_of):
            for one in able:
                if fits(made_by, one.fingerprint):
                    return one._functions[name]
        raise ReadModelUnavailable(
            f"generation {live.generation} of {live.projection} was built by a definition that this"
            f" build does not have ({made_by or 'the first one'}): upgrade this gateway"
        )


DEFINED: Final[dict[str, list[Queries]]] = {}
"""The queries of every definition that is imported, by projection."""
