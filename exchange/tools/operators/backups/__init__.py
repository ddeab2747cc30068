"""Backups of the database.

``backup`` takes one, by ``dumping``. ``manifests`` are what is told of a backup in a file next to
it; ``programs`` are PostgreSQL's own, which do the work; ``telling`` shows progress.
"""
