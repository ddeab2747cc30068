"""How a read model is kept.

In reading order: ``schema`` (the tables of generations and checkpoints), ``checkpoints`` (how far
it is), ``postgres``, ``redis``, ``waits`` (until it has seen a position), ``failures`` (of a
store, or of what it was given).
"""
