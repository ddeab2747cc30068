"""A rate limit in memory: a steady number of tokens a second, and a burst at once."""

import time


class TokenBucket:
    """A bucket that is full at first. Taking from an empty bucket leaves a debt to wait off."""

    def __init__(self, per_second: int, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = float(burst)
        self._taken_s = time.monotonic()

    def take(self) -> bool:
        """Take a token; tell whether there was one."""
        now_s = time.monotonic()
        earned = (now_s - self._taken_s) * self._per_second
        self._left = min(self._left + earned, self._burst) - 1
        self._taken_s = now_s
        return self._left >= 0
