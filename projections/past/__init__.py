"""Read models as of a moment, which is a position of each shard (``exchange.log.moments``).

``past`` answers, each model by the rules of its own file. ``folded`` folds up to a moment what an
answer cannot ask the live tables for, and ``states`` keeps states of such folds, so that none has
to begin at the first event.
"""
