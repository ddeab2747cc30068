"""How every event of the log gets into a Kafka topic, once.

In reading order: ``records`` (an event as a record of the topic), ``topic`` (made, and kept as it
has to be), ``partition`` (one shard's records: the last one that is committed, and more of them),
``published`` (what the log says of them), ``standing`` (does the topic go with the log?),
``publisher`` (the process: all shards), ``metrics`` (what it counts).
"""
