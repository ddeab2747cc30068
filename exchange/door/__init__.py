"""The door: who asks, and what they may.

In reading order: ``secrets`` (the master keys, and what is derived from them).
"""
