"""Between gateway and matcher: commands through Kafka, outcomes back through Redis.

In reading order: ``messages`` (both as bytes), ``commands`` (Kafka), ``outcomes`` (Redis).
"""
