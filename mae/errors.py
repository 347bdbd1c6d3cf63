"""The two ways the program ends badly, told apart by exit code."""


class UserError(Exception):
    """What was asked cannot be done: the message says what was given, what was expected and what to do. Exit code 2."""


class RunError(Exception):
    """A run that was asked for rightly has failed (NaN, out of memory, full disk ...). Exit code 1."""
