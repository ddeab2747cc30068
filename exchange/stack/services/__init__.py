"""The three services, each on one loopback address.

In reading order: ``services`` (all of them), ``kafka`` (and its ``jars``), ``postgres``,
``valkey``.
"""
