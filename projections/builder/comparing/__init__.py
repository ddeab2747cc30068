"""A generation compared with the log, row by row, at one position.

In reading order: ``compare`` (which way a model is compared), ``shadow`` (the log, folded), then
where the rows are: ``tables`` (the server compares, with ``shadow_tables``), ``keys`` and ``feed``
(in Redis); and ``differences`` (what is found). ``digests`` needs no generation: what the log alone
gives.
"""
