"""What connections are told each second: up to where everything was sent."""

import time

from exchange.gateway.stream.outbox import Beat
from exchange.gateway.stream.protocol.frames import Heartbeat, text_of
from exchange.log.documents.text import timestamp


class Heartbeats:
    """The heartbeats of one moment; connections that follow the same share one."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()
        self._timestamp = timestamp(time.time_ns() // 1_000_000)
        self._made: dict[tuple[tuple[str, int], ...], Beat] = {}

    def of(self, reached: dict[str, int]) -> Beat:
        """Return the heartbeat that says up to which sequences all was sent."""
        key = tuple(reached.items())
        beat = self._made.get(key)
        if beat is None:
            beat = Beat(reached, text_of(Heartbeat(reached, self._timestamp)))
            self._made[key] = beat
        return beat
