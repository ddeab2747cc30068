"""The HTTP gateway: stateless, in front of Kafka for commands and of the read models for queries.

Read ``app`` for the routes and ``submission`` for the way of a command; then
``orders`` shows both ends of it. Around them, in the order in which a request
meets them: ``edge`` (limits, before any handler), ``requests`` (bytes to validated
input in units), ``responses`` (units to exact JSON numbers), ``problems`` (every
error that a client can see). ``reading`` says how fresh a read is.
"""
