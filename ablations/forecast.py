"""What a plan will cost before it is run: a few steps of every missing training are measured."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ablations.plan import Job
from mae.data import load_data
from mae.flops import training_flops
from mae.model import parameter_count
from mae.pretraining import Pretraining
from mae.progress import Progress, Silent

WARM_UP, MEASURED = 2, 5
"""Steps taken before measuring, and steps measured."""


@dataclass(frozen=True)
class Forecast:
    """Cost of one training: GFLOPs per image and step, seconds of its steps alone, bytes it leaves on disk."""

    label: str
    gflops: float
    seconds: float
    disk: int


def forecast(jobs: Sequence[Job], device: torch.device, threads: int, progress: Progress) -> list[Forecast]:
    """Return the cost of each job on `device`; jobs that differ in the seed only are measured once."""
    torch.set_num_threads(threads)
    known: dict[str, Forecast] = {}
    costs = []
    with progress.task("measuring a few steps of each training", len(jobs)) as task:
        for job in jobs:
            same = job.config.model_copy(update={"train": job.config.train.model_copy(update={"seed": 0})})
            key = same.model_dump_json()
            if key not in known:
                known[key] = _measure(job, device)
            costs.append(Forecast(job.label, known[key].gflops, known[key].seconds, known[key].disk))
            task.advance()
    return costs


def _measure(job: Job, device: torch.device) -> Forecast:
    data = load_data(job.config.data, job.config.run, Silent())
    work = Pretraining(job.config, data, device)
    batch = next(iter(data.train.images.batches([torch.arange(job.config.train.batch_size)])))
    times = []
    for step in range(WARM_UP + MEASURED):
        started = time.monotonic()
        loss, _, _ = work.step(batch, step)
        loss.item()  # waits for the device
        times.append(time.monotonic() - started)
    parameters = parameter_count(work.objective.model)
    return Forecast(
        job.label,
        training_flops(job.config, work.objective.target.outputs) / 1e9,
        statistics.median(times[WARM_UP:]) * work.total_steps,
        4 * parameters,  # encoder and decoder in float32; checkpoints are gone by then
    )
