"""From the socket to the application: what happens before a handler is called.

In reading order: ``server`` (listening and stopping), ``connection`` (one TCP connection),
``heads`` (bounds on heads), ``streams`` (bounds on WebSockets), ``token_bucket``, ``edge`` (bounds
on each request, counts and crashes), ``hosts`` (the names that are answered to), ``origins`` (which
web pages may act here), ``entrance`` (who asks, and whether they may), ``tokens`` (in the place of
signatures), ``refusals`` (the answers to what no handler answers), ``past`` (questions that are
passed on).
"""
