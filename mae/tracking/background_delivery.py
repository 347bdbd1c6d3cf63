"""When MLflow is told: of the work at hand every few seconds, and of what a store missed with the next command.

A child process delivers, so that the work never waits: in a thread, importing MLflow and making a store would take the
interpreter from training for seconds.
"""

import atexit
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from mae.errors import first_line, without_secrets
from mae.runs.catalogue import find_runs
from mae.runs.directory import RunDirectory, probes_of
from mae.runs.study_record import find_studies
from mae.runs.sweep_record import find_sweeps
from mae.tracking.mlflow_store import NONE, connect
from mae.tracking.stage_delivery import Delivery, content_of, deliver_stage
from mae.tracking.study_delivery import deliver_study, is_delivered

EVERY = 5.0
"""Seconds between deliveries while a stage or study is worked on."""

LAST_WAIT = 10.0
"""Most seconds that the last delivery may hold up the end of a stage."""

STUDY_WAIT = 60.0
"""Most seconds that the last delivery may hold up the end of a study: tables and figures have just been made."""

Say = Callable[[str], None]


def tracked(run: RunDirectory, uri: str, runs_dir: Path, say: Say) -> AbstractContextManager[None]:
    """Deliver a stage while the block works on it, and once more at its end; never raises, never blocks for long."""
    return _tracked(deliver_stage, [run], uri, runs_dir, say, LAST_WAIT)


def tracked_studies(runs: Sequence[RunDirectory], uri: str, runs_dir: Path, say: Say) -> AbstractContextManager[None]:
    """Do the same for studies and sweeps. MLflow is not imported for one that has arrived whole."""
    return _tracked(deliver_study, runs, uri, runs_dir, say, STUDY_WAIT, is_delivered)


@contextmanager
def _tracked(
    deliver: Callable[..., object],
    directories: Sequence[RunDirectory],
    uri: str,
    runs_dir: Path,
    say: Say,
    last_wait: float,
    is_known: Callable[[RunDirectory, str, Path], bool] = lambda *_: False,
) -> Iterator[None]:
    if uri == NONE:
        yield
        return
    ended, error = threading.Event(), ""

    def work() -> None:
        nonlocal error
        over = False
        while not over:
            over = ended.wait(EVERY)
            try:
                for directory in directories:
                    if not is_known(directory, uri, runs_dir):
                        in_child_process(deliver, directory, uri, runs_dir)
                error = ""
            except Exception as problem:  # whatever a server does, the run goes on
                error = first_line(problem)

    thread = threading.Thread(target=work, name="tracking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(last_wait)
        if thread.is_alive() or error:
            say(
                f"tracking at {without_secrets(uri)}: {error or 'no answer'}; all is kept in {runs_dir} "
                "and goes out with the next command"
            )


@contextmanager
def delivering_undelivered(runs_dir: Path, uri: str) -> Iterator[None]:
    """Send what earlier commands could not, beside the block; a server that is still away is no error here.

    Where there is nothing yet, no store is made: a command that is refused leaves nothing behind.
    """
    if uri == NONE or not any(found(runs_dir) for found in (find_runs, find_studies, find_sweeps)):
        yield
        return

    def work() -> None:
        with suppress(Exception):  # it is sent with the next command, and the stage at hand reports the server
            in_child_process(deliver_all, runs_dir, uri)

    thread = threading.Thread(target=work, name="undelivered", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(LAST_WAIT)


def deliver_all(runs_dir: Path, uri: str) -> int:
    """Deliver every stage, study and sweep that nobody works on; return how many were behind. Raises as MLflow does."""
    client, experiment = connect(uri, runs_dir)
    count = 0
    for run in find_runs(runs_dir):
        for stage in [run, *probes_of(run)]:
            told = Delivery(stage, uri, client, experiment).receipt
            behind = told.get("seen") != content_of(stage) or told.get("status") == "RUNNING"  # killed since
            if behind and not stage.is_locked():
                deliver_stage(stage, uri, runs_dir)
                count += 1
    studies = [*(directory for directory, _ in find_studies(runs_dir)), *find_sweeps(runs_dir)]
    return count + sum(deliver_study(each, uri, runs_dir) for each in studies if not each.is_locked())


_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def in_child_process(work: Callable[..., object], *arguments: object) -> None:
    """Have the child of this process call `work`, a function of a module; wait for the end of it.

    Raises `RuntimeError` with the first line of the error that `work` raised.
    """
    with _lock:
        child = _living_child()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(pickle.dumps((work, arguments)))
        child.stdin.flush()
        answer = child.stdout.readline()
    if error := json.loads(answer or '"the delivering process died"'):
        raise RuntimeError(error)


def _living_child() -> subprocess.Popen[bytes]:
    global _child
    if _child is None or _child.poll() is not None:
        # In a session of its own, or Ctrl-C would end it before the last delivery. It ends with its standard input.
        code = f"import sys; sys.path[:] = {sys.path!r}; from mae.tracking.background_delivery import serve; serve()"
        _child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(_child.kill)  # it may hang; a delivery that is cut off is made good by the next
    return _child


def serve() -> None:
    """Do what comes on standard input, and answer each with its error or "", as JSON: the child's whole life."""
    os.nice(10)  # training first, where every core is busy
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever MLflow prints is no answer
    with suppress(EOFError):
        while True:
            work, arguments = pickle.load(sys.stdin.buffer)
            error = ""
            try:
                work(*arguments)
            except Exception as problem:
                error = first_line(problem)
            print(json.dumps(error), file=answers, flush=True)
