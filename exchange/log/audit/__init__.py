"""Whether the log is what its matchers wrote.

In reading order: ``verify`` walks a shard's events; ``recorded`` compares them with what
batches recorded, ``claims`` with the table of claims; ``claim_rebuild`` rebuilds that table.
``kept`` compares what was kept elsewhere, chains and roots of the ``tree``. ``blocks`` keeps the
tree in a table, for the ``proof`` of a single event. ``deciding`` decides the recorded commands
again by the rules of this build.
"""
