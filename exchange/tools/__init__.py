"""What people run against an exchange from outside: clients only, over HTTP and the stream.

``mix`` makes orders, ``load`` sends them and measures, ``report`` shows what came of it,
and ``watch`` shows a book, trades or the exchange's health in the terminal.
"""
