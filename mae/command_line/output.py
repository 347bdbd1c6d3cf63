"""How commands speak: to people on a console, to programs in one JSON object; and how they fail."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mae.runtime.progress import ConsoleProgress

DEBUG = "MAE_DEBUG"
"""The environment variable that makes errors tell their traceback, in worker processes too."""


@dataclass(frozen=True)
class Output:
    """People read `console`; with --json that is stderr, and stdout ends with one object."""

    console: Console
    as_json: bool
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def progress(self) -> "ConsoleProgress":
        """Shows how far long work is."""
        from mae.runtime.progress import ConsoleProgress

        return ConsoleProgress(self.console)

    def say(self, line: str, end: str = "\n") -> None:
        """Print a line that a terminal wraps, so that what is copied from it is whole."""
        self.console.print(line, highlight=False, soft_wrap=True, end=end)

    def result(self, value: dict[str, Any]) -> None:
        """With --json: print it."""
        if self.as_json:
            print(json.dumps(value, allow_nan=False))
            self.results.append(value)


@contextmanager
def reporting(as_json: bool) -> Iterator[Output]:
    """Turn what goes wrong into one line on stderr and an exit code; with --json into an object with `error` too.

    Of several processes the first speaks; another one only of what has befallen it alone.
    """
    from mae.errors import RunError, UserError
    from mae.runtime.distributed import launched
    from mae.runtime.interruption import Interrupted

    processes = launched()
    who = "" if processes.leads else f"process {processes.rank}: "

    def end(message: object, code: int, prefix: str = "") -> typer.Exit:
        if str(message):
            print(f"{prefix}{message}", file=sys.stderr)
        if not output.results:  # what was found before it went wrong says more
            output.result({"error": str(message)})
        return typer.Exit(code)

    # Names, questions and paths are the user's: brackets and colons in them are no markup.
    console = Console(stderr=as_json, quiet=not processes.leads, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 120  # a log has no edge that a table must fit
    output = Output(console, as_json and processes.leads)
    try:
        yield output
    except UserError as error:
        _tell_traceback(error)
        raise end(error if processes.local_rank == 0 else "", 2, f"{who}error: ") from None
    except RunError as error:
        _tell_traceback(error)
        raise end(error, 1, f"{who}failed: ") from None
    except Interrupted as stop:
        raise end(stop if processes.leads else "", stop.exit_code) from None
    except (RuntimeError, ImportError) as error:
        if not any(sign in str(error) for sign in ("operator torchvision::", "torchvision/_C")):
            raise
        _tell_traceback(error)
        fix = 'install both from one index; "Linux, CPU only" in docs/installation.md has the lines'
        raise end(f"torchvision does not fit torch ({error}): {fix}", 1, f"{who}failed: ") from None
    except KeyboardInterrupt:  # while modules are imported, or where nothing has to be saved
        raise end("stopped by Ctrl-C" if processes.leads else "", 130) from None


def _tell_traceback(error: Exception) -> None:
    if os.environ.get(DEBUG):
        from mae.errors import whole_traceback

        print(whole_traceback(error), file=sys.stderr, end="")
