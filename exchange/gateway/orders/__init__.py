"""Orders: placing, cancelling and asking for them, over HTTP and the stream.

In reading order: ``entry`` (placing and cancelling, for HTTP and the stream), ``batches`` (many at
once), ``cancelling`` (all orders of a client), ``commands`` (the HTTP endpoints of these),
``states`` (an order as of a position), ``queries`` (the endpoints that read orders).
"""
