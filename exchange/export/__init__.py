"""The log as files that others read: Parquet, with the proof that nothing is missing or changed.

In reading order: ``columns`` says what a row of each data set has and makes rows of events;
``layout`` where a row stands, so that any two exports of a range are the same files; ``files``
writes one, ``manifests`` tell of all; ``exporting`` walks the log of a shard, ``folder`` exports
several; ``texts`` makes text of the files; ``checking`` proves a folder. All of it needs
pyarrow, which the server does not have.
"""
