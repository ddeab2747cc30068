"""The single writer of a shard.

In reading order: ``matcher`` (read, claim, decide, append, tell), ``replica`` (the state at the
start, from the log), ``replies`` (outcomes on their way to gateways), ``metrics``.
"""
