"""The log for programs of analysts, from the database or from a folder of ``exchange export``.

``log`` has what one asks of a log, and opens one; ``answers`` what it returns. ``sources`` says
what is needed of where the log is: ``database`` or ``folder``. ``models`` makes columns of what is
folded, ``derived`` files of an export. All of it needs the extra of the same name, which the server
does not have.
"""

from exchange.analysis.log import Log, open_log

open = open_log  # noqa: A001  read as exchange.analysis.open

__all__ = ["Log", "open"]
