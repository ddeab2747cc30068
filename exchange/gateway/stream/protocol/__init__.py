"""The messages of both sides: ``messages`` (from clients) and ``frames`` (to clients)."""
