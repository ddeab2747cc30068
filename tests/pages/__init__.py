"""A package to pytest, so that its fixtures of that scope end after its last test."""
