"""What a process tells of itself: ``logs``, ``metrics`` (declared and read) and ``tracing``."""
