"""How a generation is built beside the one that is read, compared with the log, and switched.

In reading order: ``steps`` (their names), ``lines`` (what is said
of a build), ``rows`` (where the rows go), ``reading`` (the log, part
by part), ``giving_way`` (to live generations), ``build`` (one build), ``comparing`` (a generation
with the log), ``working`` (how a loop of the builder works), ``builder`` (all that is to do, in
order), ``tidying`` (what is retired), ``tree`` (over the log's events), ``estimate`` (how long it
takes), ``metrics`` (what a builder process counts).
"""
