"""The local stack of ``make run``: Kafka, PostgreSQL and Valkey as child processes.

Read ``process.py`` first (one child process, started, watched and stopped), then the three
services, then ``supervisor.py``, which starts all of them and the exchange's own processes on top.
Everything listens on the loopback address only.
"""
