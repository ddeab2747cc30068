"""Backups of the database.

``backup`` takes one, by ``dumping``; ``restore`` puts one back, by ``restoration``. ``manifests``
are what is told of a backup in a file next to it, ``kafka`` is what the topic has after one.
``programs`` are PostgreSQL's own, which do the work; ``telling`` shows progress.
"""
