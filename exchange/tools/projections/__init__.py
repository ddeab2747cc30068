"""What an operator does to the read models: look, rebuild, verify, switch, and go back.

In reading order: ``commands`` (arguments and options), ``stores`` (what they work on), ``shards``
and ``overview`` (the logs and the generations at one moment), ``status`` (both, as one page),
``rebuild`` (make a generation and watch it), ``verify`` (compare one with the log), ``prove`` (what
``proving`` finds of the log, its decisions, and what every model is by it), ``changes`` (the rest:
each changes one state), ``operations`` (what was changed).
"""
