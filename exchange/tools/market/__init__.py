"""For traders.

``load`` sends the orders of ``mix`` and ``report`` shows what came of it, with ``waits`` for how
long orders waited; ``ladder`` (a book) and ``tape`` (trades) show the market by ``following`` the
stream.
"""
