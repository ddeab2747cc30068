"""Orders, however they are asked for.

In reading order: ``entry`` (placing and cancelling, for HTTP and the stream), ``commands`` (its
HTTP endpoints), ``states`` (an order as of a position), ``queries`` (the endpoints that read
orders).
"""
