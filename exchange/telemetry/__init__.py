"""What a process tells of itself: ``logs``, ``metrics`` (an address to scrape) and ``tracing``."""
