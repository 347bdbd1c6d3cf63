"""What a worker process says, which no terminal shows: libraries' warnings, lines of progress, tracebacks, crashes."""

import faulthandler
import io
import os
import sys
import time
from contextlib import suppress
from pathlib import Path


def log_file(runs_dir: Path, fingerprint: str) -> Path:
    """Return the log of all work on a training: `logs/<fingerprint>.log` in the folder of all runs."""
    return runs_dir / "logs" / f"{fingerprint}.log"


class _Log(io.TextIOWrapper):
    """Lets no one fail whose words find no space on the disk."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def say_into(file: Path, first: str) -> None:
    """Have this process, and all that it starts, write to the end of a file what it would write to the terminal.

    A crash of the interpreter leaves its traceback there too. Where the file cannot be written nothing changes; what a
    full disk does not take is lost.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        binary = open(file, "ab", buffering=0)  # noqa: SIM115 - for good
    except OSError:
        return
    log = _Log(binary, encoding="utf-8", errors="backslashreplace", write_through=True)
    log.write(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {os.uname().nodename}: {first}\n")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    sys.stdout = sys.stderr = log
    faulthandler.enable(log)
