"""What a sweep's driver costs per trial: a pipeline that does nothing, asked and told as a real one is.

Times the whole of a trial beside the pipeline (asking, suggesting, fingerprint, evaluations, telling, record), by
hundreds of trials so that growth shows. The same process drives; workers are replaced by answers from memory.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console

from ablations.execution.job import Job
from ablations.execution.job_retries import JobQueue
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.local_pool import LocalPool
from ablations.execution.worker_pool import Report, Slot
from ablations.sweeps.ask_and_tell import AskAndTell
from ablations.sweeps.run_sweep import KeptRecord, SweepRequest, make_sweep, prepare_study
from ablations.sweeps.storage import opened
from mae.config.resolve import resolve
from mae.runs.directory import RunDirectory
from mae.runs.metrics import ONLINE
from mae.runs.sweep_record import sweep_directory
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent

EVALUATIONS = 10
"""Online evaluations per trial, as on `digits`."""


class NoWork(LocalPool):
    """Has every job evaluated and finished at once; the files that a worker would write are made outside the clock."""

    def __init__(self, slots: list[Slot]) -> None:
        super().__init__(slots)
        self.reports: dict[int, Iterator[Report]] = {}
        self.idle = np.zeros(2)  # seconds that are not the driver's

    def free(self) -> list[int]:
        return [number for number in range(len(self.slots)) if number not in self.reports]

    def start(self, worker: int, job: Job) -> None:
        began = _clock()
        run = RunDirectory(self.slots[worker].runs_dir / job.fingerprint)
        run.path.mkdir(parents=True)
        accuracy = 100 * job.config.mask.ratio
        run.append_metrics(1, {"train/epoch": 0, ONLINE: accuracy})
        run.write_json("result.json", {"metrics": {"knn/holdout_top1": accuracy}})
        self.reports[worker] = self._reports(job, accuracy)
        self.idle += _clock() - began

    def poll(self) -> list[tuple[int, Report]]:
        came = []
        for worker, reports in list(self.reports.items()):
            report = next(reports)
            if report.kind == "finished":
                del self.reports[worker]
            came.append((worker, report))
        return came

    def answer(self, worker: int, prune: str) -> None:
        pass  # nothing is pruned: the dearest case

    def stop(self) -> None:
        pass

    @staticmethod
    def _reports(job: Job, accuracy: float) -> Iterator[Report]:
        for number in range(1, EVALUATIONS + 1):
            yield Report("evaluated", epoch=10 * number, accuracy=accuracy)
        yield Report("finished")


def _clock() -> np.ndarray:
    """Return seconds on the wall, and seconds of the processor in this process."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(url: str, name: str, sampler: str, trials: int, folder: Path) -> np.ndarray:
    """Return the driver's milliseconds (trials, 2) on the wall and of the processor per trial, in the order told."""
    request = SweepRequest(trials, sampler=sampler, objective="knn_top1", pruner="hyperband", name=name, storage=url)
    sweep = make_sweep(request, resolve("digits"), folder, Silent())
    pool, marks = NoWork([Slot(folder, "cpu", 1)] * 2), []
    directory = sweep_directory(folder, name)
    with directory.locked(), opened(url, name, folder) as storage, JobsProgress(Console(quiet=True), trials, 2) as view:
        study = prepare_study(sweep, storage)
        record = KeptRecord(sweep, study, directory)
        loop = AskAndTell(sweep, study, JobQueue(pool, folder, view, StopRequest()))

        def told() -> None:
            record.write_now_and_then()
            marks.append((loop.told, _clock() - pool.idle))

        told()
        loop.run(trials, None, told)
    times = np.empty((trials, 2))
    for (first, before), (last, after) in pairwise(marks):
        times[first:last] = 1000 * (after - before) / (last - first)
    return times[: marks[-1][0]]  # later ones were impossible, and told at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--sampler", action="append", help="by default tpe and random")
    parser.add_argument("--storage", action="append", help="URL of an empty store; by default a fresh SQLite file")
    options = parser.parse_args()
    print("ms per trial on the wall / of the processor, means of 100 trials, and the slowest on the wall")
    for sampler in options.sampler or ["tpe", "random"]:
        for url in options.storage or [""]:
            with tempfile.TemporaryDirectory() as folder:
                store = url or f"sqlite:///{folder}/optuna.db"
                times = measure(store, f"overhead-{sampler}-{time.time_ns()}", sampler, options.trials, Path(folder))
            parts = [times[first : first + 100].mean(0) for first in range(0, len(times), 100)]
            shown = "".join(f"{wall:7.1f} /{processor:6.1f}" for wall, processor in parts)
            print(f"{sampler:8}{store.partition(':')[0]:12}{shown}   ({times[:, 0].max():.0f})", flush=True)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
