"""The parts that live as long as the gateway's process, shared by all handlers.

In reading order: ``context`` (all parts together), ``admission`` (what a request passes first),
``limits`` (budgets), ``submission`` (the way of a command to its outcome), ``decisions`` (the
outcome, and what all answers to commands have in common), ``listings`` (instruments), ``reading``
(how fresh a read is), ``models`` (reads that several resources share), ``backlog`` (commands in
Kafka that are not decided yet), ``following`` (read models behind the log), ``health``,
``metrics``.
"""
