"""How a matcher writes its shard's log.

In reading order: ``writer`` (the only one that appends: take-over, restoring, counting crashes),
``claiming`` (keys and order ids), ``appending`` (a batch's events and the head), ``rows`` (which
errors are theirs), ``lease`` (how a writer shows that it lives), ``waking`` (how those who follow
hear of a batch).
"""
