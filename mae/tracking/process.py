"""A child process that delivers to MLflow, one per process that asks.

In a thread, importing MLflow and making a store would take the interpreter from training for seconds.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

_lock = threading.Lock()
_child: subprocess.Popen[str] | None = None


def ask(task: str, *arguments: str) -> None:
    """Have the child do `task`, `deliver` a stage or `deliver_all`; waits for the end of it.

    Raises `RuntimeError` with the first line of the error that the task raised.
    """
    with _lock:
        child = _living_child()
        assert child.stdin is not None
        assert child.stdout is not None
        print(json.dumps([task, *arguments]), file=child.stdin, flush=True)
        answer = child.stdout.readline()
    if error := json.loads(answer or '"the delivering process died"'):
        raise RuntimeError(error)


def _living_child() -> subprocess.Popen[str]:
    global _child
    if _child is None or _child.poll() is not None:
        # In a session of its own, or Ctrl-C would end it before the last delivery. It ends with its standard input.
        code = f"import sys; sys.path[:] = {sys.path!r}; from mae.tracking.process import serve; serve()"
        _child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        atexit.register(_child.kill)  # it may hang; a delivery that is cut off is made good by the next
    return _child


def serve() -> None:
    """Do the tasks on standard input and answer each with its error or "", as JSON: the child's whole life."""
    from mae.runs.directory import RunDirectory
    from mae.tracking.stages import deliver
    from mae.tracking.store import first_line
    from mae.tracking.undelivered import deliver_all

    os.nice(10)  # training first, where every core is busy
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever MLflow prints is no answer
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        error = ""
        try:
            if task == "deliver":
                path, uri, runs_dir = arguments
                deliver(RunDirectory(Path(path)), uri, Path(runs_dir))
            else:
                runs_dir, uri = arguments
                deliver_all(Path(runs_dir), uri)
        except Exception as problem:
            error = first_line(problem)
        print(json.dumps(error), file=answers, flush=True)
