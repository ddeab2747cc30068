"""The local stack of ``exchange run``: services and the exchange's processes, on loopback.

In reading order: ``run`` (from the first check to the last stop), ``supervisor`` (everything
that runs), ``services`` (Kafka, PostgreSQL, Valkey), ``host`` (processes, ports, directories),
``migrations``, ``growing`` (shards that are added), ``probe`` (is it healthy?), ``alone`` (the
services without the processes), ``stop`` (from another terminal).
"""
