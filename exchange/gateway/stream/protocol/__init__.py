"""The messages: ``messages`` (what clients send) and ``frames`` (what they get)."""
