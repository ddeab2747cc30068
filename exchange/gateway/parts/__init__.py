"""What lives as long as the gateway's process, and every handler works with.

In reading order: ``context`` (all of it), ``admission`` (what a request passes first),
``limits`` (budgets), ``submission`` (the way of a command to its outcome), ``decisions`` (the
outcome, and what all answers to commands have in common), ``listings`` (instruments),
``reading`` (how fresh a read is), ``models`` (reads that several resources share), ``backlog``
(what Kafka has and nobody decided yet), ``health``, ``metrics``.
"""
