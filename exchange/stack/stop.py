"""``exchange stop``: ends what ``exchange run`` started in this directory, as Ctrl-C does there."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from exchange.stack.host.directory import RUN, RunDirectory
from exchange.stack.host.errors import StackError

STOP_S_MAX: Final = 120.0  # each tier has its own bound; together they take less
LOOK_S: Final = 0.1  # the kernel tells nobody that a lock has ended


def stop(directory: RunDirectory) -> str:
    """End a run in order, wait until it has ended, and return what to say.

    Raises:
        StackError: Something else holds the directory, or the run does not end.
    """
    held = directory.holder()
    if held is None:
        return f"Nothing runs in {directory.path}."
    pid, purpose = held
    if purpose != RUN:
        raise StackError(
            f"Nothing was stopped: process {pid} holds {directory.path}, and is no exchange run."
            " Wait until it has ended."
        )
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_S_MAX
    while directory.holder() == held:
        if time.monotonic() > deadline_s:
            raise StackError(
                f"Process {pid} was told to stop and still runs after {STOP_S_MAX:.0f} s:"
                f" look into {directory.logs}."
            )
        time.sleep(LOOK_S)
    return f"Stopped the exchange (process {pid}); make run finds its data again."
