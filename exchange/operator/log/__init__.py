"""Questions of the desk about parts of the log.

In reading order: ``reading`` (a connection to the log), ``chain`` (is a part as it was written),
``batches`` (where batches end), ``traces`` (where one sees what was traced).
"""
