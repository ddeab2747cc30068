"""How a matcher writes its shard's log.

In reading order: ``writer`` (the only one that appends: take-over, restoring, counting crashes),
``batch`` (what one transaction claims and appends), ``lease`` (how a writer shows that it lives),
``waking`` (how those who follow hear of a batch).
"""
