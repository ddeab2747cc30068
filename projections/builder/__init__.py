"""How a generation is built beside the one that is read.

In reading order: ``metrics`` (what a builder process counts).
"""
