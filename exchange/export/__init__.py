"""The log as files that others read: Parquet, with the proof that nothing is missing or changed.

In reading order: ``columns`` says what a row of each data set has and makes rows of events;
``layout`` where a row stands, so that any two exports of a range are the same files; ``files``
writes one, ``manifests`` what is told of all; ``exporting`` walks the log; ``checking`` proves a
folder. It needs the extra ``analysis``.
"""
