"""For those who run the exchange.

``status`` (as a gateway sees it), ``verification`` (of the log), ``claims`` (made again from
the log), ``quarantine`` (a command that crashed the matcher, decided now), ``open_orders`` (how
many a client may have), ``commands`` (how these two are sent), ``snapshots`` (taken now),
``adopt_topic`` (one that lost its tail) and ``adoption`` (how).
"""
