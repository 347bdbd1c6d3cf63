"""What a worker process says, which no terminal shows: libraries' warnings, lines of progress, tracebacks, crashes."""

import faulthandler
import os
import sys
import time
from pathlib import Path


def log_file(runs_dir: Path, fingerprint: str) -> Path:
    """Return the log of all work on a training: `logs/<fingerprint>.log` in the folder of all runs."""
    return runs_dir / "logs" / f"{fingerprint}.log"


def say_into(file: Path, first: str) -> None:
    """Have this process, and all that it starts, write to the end of a file what it would write to the terminal.

    A crash of the interpreter leaves its traceback there too. Where the file cannot be written nothing changes.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = open(file, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 - for good
    except OSError:
        return
    log.write(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {os.uname().nodename}: {first}\n")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    faulthandler.enable(log)
