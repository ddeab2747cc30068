"""The steps of a rebuild, as ``builds``, the status and the metrics name them, in their order.

While followers bring a generation near the head, its step is its state ``catching-up``.
"""

from typing import Final

READING: Final = "reading"
INDEXING: Final = "indexing"
FALLING_BEHIND: Final = "falling-behind"  # it catches up, and does not get nearer to the head
VERIFYING: Final = "verifying"
SWITCHING: Final = "switching"
DONE: Final = "done"
