"""What one machine gives.

In reading order: ``child`` (a process, started, watched and stopped), ``listeners`` (ports),
``directory`` (data, logs and pids), ``prerequisites``, ``interrupts`` (Ctrl-C), ``errors``.
"""
