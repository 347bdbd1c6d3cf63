"""One job in a process of its own: it pretrains, probes, reports through a pipe, and ends.

A fresh process per job means that nothing a job leaves behind (memory, a broken CUDA context) reaches the next. It is
forked from a server that has imported everything already, so starting one takes milliseconds.
"""

import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal

import torch

from ablations.execution.job import Job
from ablations.execution.worker_pool import Report, Slot
from mae.config.resolve import change
from mae.errors import ImpossibleSettings, RunError, SettingsError, UserError
from mae.pipeline import Workplace, run_pretraining, run_probes
from mae.runs.directory import Busy
from mae.runtime.interruption import Interrupted, Pruned, StopRequest
from mae.runtime.machine import choose_device
from mae.runtime.progress import Task
from mae.runtime.threads import limited

REPORT_SECONDS = 0.5
"""Least time between two reports of progress."""


def work(pipe: Connection, job: Job, slot: Slot) -> None:
    """Do one job and send a last `Report`; the entry point of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which asks workers to stop
    # A second signal changes nothing: a scheduler and the driver may both ask.
    stop = StopRequest(second_ends=False)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop.receive)
    threading.Thread(target=_stop_with_driver, args=(stop,), daemon=True).start()
    torch.set_num_threads(limited(slot.threads))
    try:
        where = Workplace(slot.runs_dir, "none", choose_device(slot.device), PipeProgress(pipe), stop)
        where = replace(where, watch=partial(_ask_driver, pipe)) if job.watched else where
        run = run_pretraining(job.config, where, job.fingerprint)
        for each in (job, *job.also):
            if each.kinds:
                run_probes(run, change(each.config, {"probe.kinds": list(each.kinds)}), where)
        report = Report("finished")
    except Busy as error:
        report = Report("busy", str(error))
    except (SettingsError, ImpossibleSettings) as error:
        report = _failure("failed", str(error))
    except (UserError, RunError) as error:
        report = _failure("fault", str(error))
    except Pruned as error:
        report = Report("pruned", str(error))
    except Interrupted as error:
        report = Report("stopped", str(error))
    except Exception as error:  # a cell's bug must not end the study; its record holds the same reason
        report = _failure("fault", f"{type(error).__name__}: {error}")
    with suppress(BrokenPipeError):  # the driver was killed
        pipe.send(report)


def _failure(kind: Literal["failed", "fault"], reason: str) -> Report:
    """Leave the traceback in the worker's log; return the report."""
    traceback.print_exc()
    return Report(kind, reason)


def _stop_with_driver(stop: StopRequest) -> None:
    """Ask for a stop when the driver is gone: the job is saved, and the next command continues it."""
    driver = multiprocessing.parent_process()
    assert driver is not None  # this is no main process
    driver.join()
    stop.number = stop.number or signal.SIGTERM


def _ask_driver(pipe: Connection, epoch: int, accuracy: float) -> str:
    """Tell the driver of an online evaluation and wait for its answer: nothing is trained past a pruning."""
    with suppress(BrokenPipeError, EOFError, ConnectionResetError):  # the driver was killed: that stops the run too
        pipe.send(Report("evaluated", epoch=epoch, accuracy=accuracy))
        return str(pipe.recv())
    return ""


class PipeProgress:
    """Sends the outermost task's progress to the driver, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.description, self.total, self.done, self.note = "", 1, 0, ""
        self.share = self.sent = 0.0

    def say(self, message: str) -> None:
        """Lines are in the worker's log; the driver shows a job's progress and its warnings."""
        print(message)

    def warn(self, message: str) -> None:
        print(message)
        with suppress(BrokenPipeError):
            self.pipe.send(Report("warned", message))

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Iterator[Task]:
        self.description, self.total, self.done, self.note = description, max(1, total), done, ""
        self._send()
        yield self
        self.done = self.total
        self._send()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        if time.monotonic() - self.sent >= REPORT_SECONDS:
            self._send()

    def _send(self) -> None:
        self.sent = time.monotonic()
        with suppress(BrokenPipeError):
            at = self.description
            if at == "pretraining":
                self.share = self.done / self.total
            else:
                at += f" {self.done / self.total:.0%}"
            self.pipe.send(Report("progress", f"{at}  {self.note}".rstrip(), self.share))
