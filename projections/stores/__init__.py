"""How a read model is kept in its store.

In reading order: ``schema`` (the tables of generations and checkpoints), ``checkpoints`` (which one
is read, and how far it is), ``batches`` (what is applied at once), ``postgres``, ``redis``,
``partitions`` (a generation's tables), ``fingerprints`` (which definition built it), ``queries``
(which definition answers), ``waits`` (until a model has seen a position), ``failures`` (is the
store away, or is an event to blame?).
"""
