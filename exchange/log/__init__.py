"""The log: what happened on each shard, kept for ever in PostgreSQL.

In reading order: ``events`` (an event as text, and older forms lifted), ``identity`` (ids of
commands and the names that they claim), ``command_form`` (the version of a command), ``chain`` (the
hash chain), ``schema`` (the tables), ``writing`` (by the only one that appends), ``reader`` (for
everybody else), ``moments`` (where a time is in the log),
``replay`` (in large parts), ``snapshots`` and ``snapshot_store`` (a shard's state, so that a replay
need not begin at the first event), ``audit`` (is the log what its writer wrote?), ``documents``
(events as JSON for everybody else).
"""
