"""How a generation is built beside the one that is read, compared with the log, and switched.

In reading order: ``rows`` (where the rows go), ``reading`` (the log, part by part), ``build`` (one
build), ``comparing`` (a generation with the log), ``builder`` (all that is to do, in order),
``estimate`` (how long it takes), ``metrics`` (what a builder process counts).
"""
