"""What people run against an exchange from outside: clients only, over HTTP and the stream.

``mix`` makes orders, ``load`` sends them and measures, ``report`` shows what came of it;
``status``, ``ladder`` (a book) and ``tape`` (trades) show the exchange in the terminal.
"""
