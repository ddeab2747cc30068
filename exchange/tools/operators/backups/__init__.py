"""Backups of the database, and the records of Kafka that no backup needs any more.

``backup`` takes one, by ``dumping``; ``restore`` puts one back, by ``restoration``; ``trim``
deletes Kafka's records below the oldest, by ``trimming``. ``manifests`` are what is told of a
backup in a file next to it, ``kafka`` is what the topic has after one. ``programs`` are
PostgreSQL's own, which do the work.
"""
