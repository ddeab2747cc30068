"""How a read model is kept in its store.

In reading order: ``schema`` (the tables of generations and checkpoints), ``checkpoints`` (how far a
model is), ``postgres``, ``redis``, ``waits`` (until a model has seen a position), ``failures`` (is
the store away, or is an event to blame?).
"""
