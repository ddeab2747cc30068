"""What goes wrong on the user's side of the stack: one line that says what to do."""


class StackError(Exception):
    """The stack cannot start or go on; the message is one clear line for the user."""
