"""The door: who asks, and what they may.

In reading order: ``modes`` (who keeps the door), ``secrets`` (the master keys, and what is
derived from them).
"""
