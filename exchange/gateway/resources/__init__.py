"""One file per resource: what it takes, what it answers, and its handlers.

``instruments``, ``market`` (book and trades), ``fills``, ``ticker``, ``analytics``, ``positions``,
``settlement``, ``accounts``, ``keys``, ``snapshots`` (engine snapshots), ``commands``
(the outcome of a command), ``status`` (health and metrics).
"""
