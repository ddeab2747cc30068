"""The write side of the exchange, and the gateway over both sides.

In reading order: ``domain`` (what is decided), ``ports`` (what the matcher needs of
the world), ``codec`` (bytes), ``matcher`` (the single writer), ``command_log``
(Kafka), ``event_store`` and ``event_log`` (Postgres), ``outcomes`` (Redis), ``gateway`` (HTTP),
``stack`` (the local services) and ``cli`` (where it is all put together). ``logs``,
``matcher_watch``, ``metrics_server`` and ``tracing`` are how one sees from outside what
happens. The read models are beside this package, in ``projections``.
"""

from typing import Final

BUILD: Final = "exchange 0.1.0"  # as pyproject.toml has it; commands and errors name it
