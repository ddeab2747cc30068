"""For traders.

``load`` sends the orders of ``mix`` and ``report`` shows what came of it; ``ladder`` (a book)
and ``tape`` (trades) show the market by ``following`` the stream.
"""
