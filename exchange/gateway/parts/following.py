"""How well each read model follows the log, judged from outside the projector.

Read ``Following.judge``. A projector that hangs says nothing of itself, so what counts is what
readers see: the live generation's checkpoint against the head of the log. Its state in the table
``generations`` is an operator's word (``paused``) or the projector's (``failed``) and comes first.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from projections.stores.checkpoints import LiveGeneration

STUCK_AFTER_S: Final = 10.0  # a projector that was killed runs again within 2 s


class Standing(StrEnum):
    """How well a read model follows the log."""

    HEALTHY = "healthy"
    LAGGING = "lagging"  # behind what is due, and its checkpoint moves
    STUCK = "stuck"  # behind the head, and its checkpoint stands still
    FAILED = "failed"  # stopped at an event, even if that was the last one
    PAUSED = "paused"  # an operator stopped it
    MISSING = "missing"  # readers find no complete model
    UNKNOWN = "unknown"  # the log or the checkpoints could not be read for too long


TOLD: Final = {"failed": Standing.FAILED, "paused": Standing.PAUSED}


class Following:
    """How long each read model has stood still behind the head, on each shard."""

    def __init__(self) -> None:
        # By projection and shard: generation and position, and since when they are unchanged.
        self._waits: dict[str, dict[int, tuple[tuple[int, int], float]]] = {}

    def judge(
        self,
        name: str,
        live: LiveGeneration | None,
        reached: Mapping[int, int],
        heads: Mapping[int, int],
        due: Mapping[int, int],
        now_s: float,
    ) -> Standing:
        """Return how well a read model follows the log now.

        Args:
            name: The projection's name.
            live: The generation that readers read, None if there is none.
            reached: Its position by shard, without shards on which it is not complete.
            heads: The head of each shard.
            due: The position of each shard that a healthy model has seen by now.
            now_s: A monotonic time.
        """
        if live is None:
            return self._halted(name, Standing.MISSING)
        if live.state in TOLD:
            return self._halted(name, TOLD[live.state])
        if any(shard not in reached and due[shard] > 0 for shard in heads):
            return self._halted(name, Standing.MISSING)
        places = {
            shard: (live.generation, reached.get(shard, 0))
            for shard, head in heads.items()
            if reached.get(shard, 0) < head
        }
        if self._longest_wait_s(name, places, now_s) >= STUCK_AFTER_S:
            return Standing.STUCK
        is_behind = any(reached.get(shard, 0) < due[shard] for shard in heads)
        return Standing.LAGGING if is_behind else Standing.HEALTHY

    def forget(self) -> None:
        """Drop what was seen: while nothing is measured, a checkpoint may move unseen."""
        self._waits.clear()

    def _halted(self, name: str, standing: Standing) -> Standing:
        """Return the standing of a model that does not follow: it may go on at any time."""
        self._waits.pop(name, None)
        return standing

    def _longest_wait_s(
        self, name: str, places: Mapping[int, tuple[int, int]], now_s: float
    ) -> float:
        """Return how long the checkpoint behind the head has not moved, on the worst shard.

        The time counts from when the model was first seen behind at this position, not from when it
        came there: a model at the head of an idle log stands still for hours, and is not stuck when
        the next event comes.
        """
        before = self._waits.get(name, {})
        self._waits[name] = {
            shard: before[shard]
            if shard in before and before[shard][0] == place
            else (place, now_s)
            for shard, place in places.items()
        }
        return max((now_s - since_s for _, since_s in self._waits[name].values()), default=0.0)
