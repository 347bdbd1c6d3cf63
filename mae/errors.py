"""The two ways the program ends badly, told apart by exit code.

Of each, the errors that lie in a run's own settings have a type of their own: the same run would fail again. All other
errors are faults of the machine, of the files or of the program, and may pass.
"""

import re
import traceback


class UserError(Exception):
    """What was asked cannot be done: the message says what was given, what was expected and what to do. Exit code 2."""


class RunError(Exception):
    """A run that was asked for rightly has failed (NaN, out of memory, full disk ...). Exit code 1."""


class ImpossibleSettings(UserError):
    """Settings that do not go together with one another or with these images."""


class SettingsError(RunError):
    """A run has failed because of its settings: loss or gradient not finite, out of the device's memory."""


def whole_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of what it was raised from, that of people's errors too, which hide it."""
    above: BaseException | None = error
    while above is not None:
        above.__suppress_context__ = above.__cause__ is not None
        above = above.__cause__ or above.__context__
    return without_secrets("".join(traceback.format_exception(error)))


def without_secrets(uri: str) -> str:
    """Return a URI that may be printed: user and password are left out."""
    return re.sub(r"//[^/@]*@", "//", uri)


def first_line(error: Exception) -> str:
    """Return the start of an error's message, without secrets and a database driver's `(module.Error)`; its type where
    it has none."""
    line = re.sub(r"^\([\w.]+\) ", "", str(error).splitlines()[0]) if str(error) else type(error).__name__
    return without_secrets(line)
