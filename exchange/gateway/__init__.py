"""The gateway: stateless, in front of Kafka for commands and of the read models for queries.

In reading order: ``app`` (the routes), ``http`` (how any request is read and answered),
``orders`` (placing, cancelling, asking for orders), ``parts`` (what lives as long as the
process), ``resources`` (all other endpoints, a file for each), ``stream`` (the WebSocket
stream), ``server`` (what happens before a handler is called), ``background`` (what belongs to
no request), ``description`` (OpenAPI and AsyncAPI).
"""
