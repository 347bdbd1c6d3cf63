"""A worker that trains nothing, for tests of what surrounds it: the accuracy is 100 * mask.ratio."""

import os
import signal
from collections.abc import Generator
from multiprocessing.connection import Connection

from ablations.execution import worker
from ablations.execution.job import Job
from ablations.execution.worker_pool import Report, Slot
from mae.config.resolve import to_toml
from mae.runs.directory import Record, RunDirectory
from mae.runs.metrics import ONLINE


def work(pipe: Connection, job: Job, slot: Slot, *, growing: bool = False) -> None:
    """Do the fake_worker and report; on `evaluated`, wait for the word whether to go on."""
    doing, answer = steps(job, slot, growing), None
    while True:
        report = doing.send(answer)
        pipe.send(report)
        if report.kind in ("finished", "pruned"):
            return
        answer = pipe.recv()


def steps(job: Job, slot: Slot, growing: bool = False) -> Generator[Report, str | None, None]:
    """Leave what a pretraining and its probes leave; `trained` in the run directory gets a line each time.

    A run that exists in part continues; with `growing`, the accuracy is reached at the end and grows evenly until then.
    Yields the reports and receives why the job is to end after an evaluation, if it is.
    """
    run, accuracy = RunDirectory(slot.runs_dir / job.fingerprint), 100 * job.config.mask.ratio
    epochs = job.config.train.epochs
    with run.locked(), open(run.path / "trained", "a") as trained:
        trained.write("once\n")
        run.write_text("config.toml", to_toml(job.config))
        record = Record(stage="pretrain", name=job.label, fingerprint=job.fingerprint)
        for epoch in range(len(run.read_metrics()) + 1, epochs + 1):
            found = accuracy * epoch / epochs if growing else accuracy
            run.append_metrics(epoch, {"train/epoch": epoch - 1, ONLINE: found})
            if job.watched and (reason := (yield Report("evaluated", epoch=epoch, accuracy=found))):
                run.write_record(record.model_copy(update={"status": "pruned", "reason": reason}))
                yield Report("pruned", reason)
                return
        costs = {"cost/gflops_per_image": 1.0 + job.config.model.decoder.depth, "cost/seconds": 1.0, "cost/steps": 1}
        run.write_json("result.json", {"metrics": costs})
        run.write_record(record.model_copy(update={"status": "finished"}))
    for kind, name in ((name.split("-")[0], name) for name in job.probes):
        probe = RunDirectory(run.path / "probes" / name)
        probe.path.mkdir(parents=True)
        top1 = {f"{kind}/top1": accuracy, f"{kind}/low": accuracy, f"{kind}/high": accuracy}
        probe.write_json("result.json", {"metrics": top1 | {f"{kind}/holdout_top1": accuracy}})
    yield Report("finished")


def die(pipe: Connection, job: Job, slot: Slot) -> None:
    """Be killed without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(pipe: Connection, job: Job, slot: Slot) -> None:
    """Be killed without a word the first time, and work the second."""
    mark = slot.runs_dir / "died"
    if not mark.exists():
        mark.touch()
        die(pipe, job, slot)
    work(pipe, job, slot)


def die_at_half(pipe: Connection, job: Job, slot: Slot) -> None:
    """Be killed without a word whenever half of an image is to be hidden, and work otherwise."""
    (die if job.config.mask.ratio == 0.5 else work)(pipe, job, slot)


def hindered(pipe: Connection, job: Job, slot: Slot, *, error: Exception, unless: str) -> None:
    """Be a real worker whose pretraining raises `error`, unless the runs folder has a file of that name: then work."""
    if (slot.runs_dir / unless).exists():
        work(pipe, job, slot)
        return

    def fail(*arguments: object) -> RunDirectory:
        raise error

    worker.run_pretraining = fail
    worker.work(pipe, job, slot)
