"""An event-sourced exchange: one matcher decides, and everything else reads its log.

In reading order:

* ``domain``: what is decided. No I/O, clock or randomness.
* ``ports``: what the matcher needs of the world.
* ``log``: what is kept for ever, in PostgreSQL.
* ``export``: the log as files, with their proof.
* ``transport``: the ways between gateway and matcher, Kafka and Redis.
* ``matcher``: the single writer of a shard.
* ``signing``: how requests are signed, for both of their sides.
* ``door``: who asks, and what they may.
* ``gateway``: HTTP and the stream. The read models are in ``projections``, a package next to this.
* ``pages``: what people look at in a browser.
* ``analysis``: the log as columns, for programs of analysts.
* ``analyst``: the process that answers what the gateway answered at a moment.
* ``processes``: what each process is made of.
* ``stack``: the services and processes of ``exchange run`` on one machine.
* ``client``: what programs in Python send to an exchange, and how they hear of it.
* ``tools``: what people run against an exchange.
* ``operator``: the operators' desk, a page in a process of its own.
* ``cli``: the command line, which ``__main__`` calls.
* ``config``: the settings. ``durability``: settings of Kafka and PostgreSQL that can lose data.
* ``healthy``: the check that containers run.
* ``telemetry`` and ``waiting``: small things that several of these use.
"""

from typing import Final

BUILD: Final = "exchange 0.4.0"  # as pyproject.toml has it; commands and errors name it
