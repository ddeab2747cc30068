"""The pure core: what the exchange decides, with no I/O, clock or randomness.

Read ``values``, ``commands`` and ``events`` for the words, then ``engine`` for its two
functions *decide* and *evolve*; ``book`` is the structure that both work on. ``accounts`` has the
rules for accounts, their keys and clients that are suspended.
"""
