"""What a plan will cost before it is run: the ends of what it spans are measured, the rest follows from FLOPs.

As many processes measure at once as there will be workers, so that what one takes from the others counts.
"""

import heapq
import math
import statistics
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from ablations.execution.forked_calls import call_in
from ablations.execution.job import Job
from ablations.execution.worker_pool import Slot
from ablations.studies.forecast_speeds import FitSpeed, Size, Speed
from mae.config.data_section import DataConfig
from mae.config.kinds import ProbeKind
from mae.config.tree import Config, RunConfig
from mae.data.decode_workers import CHUNK, decode_chunk
from mae.data.sources import open_source
from mae.errors import UserError
from mae.probing.features import RAW_SIDE
from mae.probing.online import encoded
from mae.runtime.progress import Progress

SECONDS = 10.0
"""Time for measuring, in all."""

EVALUATIONS = 800
"""Evaluations of the loss until a linear probe has its penalty and its weights: 200 to 1,300 were seen."""


@dataclass(frozen=True)
class Forecast:
    """Cost of what is left of one job: seconds, bytes it leaves on disk; GFLOPs of its pretraining per image and step,
    share of a GPU's memory."""

    label: str
    gflops: float
    seconds: float
    disk: int
    gpu_share: float = 0.0


@dataclass(frozen=True)
class Counts:
    """Images and classes of a source, seconds to find and identify them, and seconds per image to decode them, if that
    is done at each use."""

    train: int
    test: int
    classes: int
    opening: float
    decoding: float = 0.0


@dataclass(frozen=True)
class Line:
    """Seconds per image as a function of FLOPs per image: `fixed + slope * flops`, neither of them below 0."""

    fixed: float
    slope: float

    def at(self, flops: float) -> float:
        return self.fixed + self.slope * flops


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Return the line through the ends of (FLOPs, seconds).

    A training with more FLOPs cannot be faster, nor slower by more than their ratio: where measured ends say so, they
    meet in the middle.
    """
    (least, first), (most, last) = min(points), max(points)
    slope = (last - first) / (most - least) if most > least else 0.0
    if slope <= 0:
        return Line((first + last) / 2, 0.0)
    fixed = first - slope * least
    return Line(fixed, slope) if fixed >= 0 else Line(0.0, (first / least + last / most) / 2)


def ends(flops: Mapping[Config, float]) -> list[Config]:
    """Return what is to be measured: of each family the config with the fewest FLOPs and the one with the most."""
    families: dict[Hashable, list[Config]] = {}
    for config in sorted(flops, key=lambda config: flops[config]):
        families.setdefault(_family(config), []).append(config)
    chosen = []
    for members in families.values():
        least, most = members[0], members[-1]
        chosen += [least] if flops[least] == flops[most] else [least, most]
    return chosen


def _family(config: Config) -> Hashable:
    """What trainings share whose time per image is a line over their FLOPs: all but the model and the mask."""
    train = config.train
    return config.data, config.pretext, train.batch_size, train.micro_batches, train.precision


def training_seconds(config: Config, counts: Counts, speed: Speed) -> float:
    """Return the seconds of a pretraining: its start, steps and online evaluations."""
    train = config.train
    step, encode = max(speed.step, counts.decoding), max(speed.features, counts.decoding)
    steps = counts.train // train.batch_size * config.epochs
    evaluations = math.ceil(config.epochs / config.run.knn_every) if config.run.knn_every else 0
    images, views = encoded(counts.train)
    seconds = counts.opening + speed.build + steps * train.batch_size * step
    return seconds + evaluations * (images * encode + views * speed.features)


def probing_seconds(
    job: Job, kinds: Sequence[ProbeKind], counts: Counts, speed: Speed, fits: FitSpeed, done: set[Hashable]
) -> float:
    """Return the seconds of those probes of a job that are left, of `kinds`: their start, they, and baselines.

    Baselines, the untrained encoder and raw pixels, are probed once: not those in `done`, which has them afterwards.
    """
    if not kinds:
        return 0.0
    config = job.config
    linear, (height, width) = config.probe.linear, config.data.image_size
    views = linear.lars_epochs if linear.solver == "lars" and linear.lars_augment else 0
    features = config.model.encoder.dim * (2 if config.probe.features == "both" else 1)
    raw = (config.data.frames or 1) * config.data.channels * min(RAW_SIDE, height) * min(RAW_SIDE, width)
    learned = _labelled(config, counts)
    encode = max(speed.features, counts.decoding)
    frozen = max(_read_share(config) * speed.features, counts.decoding)
    of_encoder = (learned * (1 + views) + counts.test) * frozen + learned * _tuned_passes(config, kinds) * encode
    of_encoder += _fits_seconds(config, kinds, counts, features, fits)
    of_pixels = (counts.train + counts.test) * counts.decoding + _fits_seconds(config, kinds, counts, raw, fits)
    seconds = counts.opening + speed.build + of_encoder
    for baseline, cost in zip(baselines(job), (of_encoder, of_pixels), strict=True):
        seconds += cost if baseline not in done else 0.0
        done.add(baseline)
    return seconds


def _tuned_passes(config: Config, kinds: Sequence[ProbeKind]) -> float:
    """Return how often all training images pass the encoder in probes trained by gradients: a step is three passes."""
    probe, depth = config.probe, config.model.encoder.depth
    passes = {
        "attentive": _read_share(config),
        "partial": probe.finetune.epochs * (1 + 2 * min(1.0, probe.partial.blocks / depth)),
        "finetune": 3.0 * probe.finetune.epochs,
    }
    return sum(passes.get(kind, 0.0) for kind in kinds)


def _read_share(config: Config) -> float:
    """Return the share of the encoder's blocks that probes of a frozen one read."""
    depth = config.model.encoder.depth
    return (config.probe.layer or depth) / depth


def _labelled(config: Config, counts: Counts) -> float:
    """Return the number of images that a probe learns from."""
    per_class = config.probe.labels_per_class
    return counts.train * config.probe.labels if per_class is None else min(counts.train, per_class * counts.classes)


def _fits_seconds(config: Config, kinds: Sequence[ProbeKind], counts: Counts, width: int, fits: FitSpeed) -> float:
    """Logistic regression on features of a width; the LARS probe's own steps take little beside its features."""
    if "linear" not in kinds or config.probe.linear.solver != "lbfgs":
        return 0.0
    images = _labelled(config, counts)
    found = width if 2 * images > width else images  # axes, as `mae.probing.linear.principal_axes` finds them
    products = 4 * (images + found) * width * counts.classes  # weights by features and by axes, there and back
    axes = 2 * (2 * images * width**2 * fits.flop + found**3 * fits.axes)  # to choose a penalty, and with it
    return EVALUATIONS * (fits.evaluation + products * fits.flop) + axes


def baselines(job: Job) -> tuple[Hashable, Hashable]:
    """Return what identifies a job's baselines: the untrained encoder, and raw pixels."""
    config, model = job.config, job.config.model
    pixels = config.data, config.probe, job.kinds
    tokens = (config.pretext, config.igpt) if config.pixel_tokens else (config.patch, model.encoder_mask_tokens)
    return (pixels, model.encoder, tokens, config.train.seed), pixels


def fit_on_a_gpu(costs: Sequence[Forecast]) -> int:
    """Return how many of these trainings a GPU's memory takes at a time, a tenth of it left free; 0 on a CPU."""
    largest = max((cost.gpu_share for cost in costs), default=0.0)
    return max(1, int(0.9 / largest)) if largest else 0


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return how long it takes `workers` that each take the next job when they are free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def forecast(
    jobs: Sequence[Job], others: Sequence[Job], slots: Sequence[Slot], runs_dir: Path, progress: Progress
) -> list[Forecast]:
    """Return the cost in `slots` of what `runs_dir` misses of each job, measuring for a few seconds.

    `others` are done, and so their baselines. Left out are decoding for the first time, votes of neighbours, pictures
    and checkpoints.
    """
    configs = list(dict.fromkeys(_without_seed(job.config) for job in jobs))
    if not configs:
        return []
    sizes = dict(zip(configs, call_in(slots[:1], _sizes, configs)[0], strict=True))
    chosen = ends({config: size.training for config, size in sizes.items()})
    progress.say(f"measuring {len(chosen)} of {len(jobs)} trainings, about {SECONDS:.0f} s")
    answers = call_in(slots, _speeds, chosen, SECONDS)
    fits = _mean([fits for _, fits in answers])
    speeds = [_mean(each) for each in zip(*(speeds for speeds, _ in answers), strict=True)]
    runs = {job.config.data: job.config.run for job in jobs}
    counts = {data: count(data, run, progress) for data, run in runs.items()}
    done = {baseline for job in others for baseline in baselines(job)}
    costs = []
    for job in jobs:
        size = sizes[_without_seed(job.config)]
        near = [
            (sizes[config], speed)
            for config, speed in zip(chosen, speeds, strict=True)
            if _family(config) == _family(job.config)
        ]
        speed = Speed(
            step=fit_line([(end.training, speed.step) for end, speed in near]).at(size.training),
            features=fit_line([(end.encoder, speed.features) for end, speed in near]).at(size.encoder),
            build=statistics.fmean(speed.build for _, speed in near),
            share=max(speed.share for _, speed in near),
        )
        images, pretrained = counts[job.config.data], job.is_pretrained(runs_dir)
        seconds = 0.0 if pretrained else training_seconds(job.config, images, speed)
        for each in (job, *job.also):
            seconds += probing_seconds(each, each.unprobed(runs_dir), images, speed, fits, done)
        disk = 0 if pretrained else size.disk
        costs.append(Forecast(job.label, size.training / 1e9, seconds, disk, speed.share))
    return costs


def count(data: DataConfig, run: RunConfig, progress: Progress) -> Counts:
    """Return how many images a source has, and what it takes to find them and, where they are streamed, to decode."""
    began = time.monotonic()
    source = open_source(data, progress)
    opening = time.monotonic() - began
    counts = Counts(len(source.train.labels), len(source.test.labels), len(source.classes), opening)
    if (counts.train + counts.test) * data.channels * math.prod(data.stored) <= run.cache_limit_gb * 1e9:
        return counts
    began = time.monotonic()
    with suppress(UserError):  # one that cannot be read: the training will say so
        decode_chunk(source.train.decode, range(CHUNK))
    return replace(counts, decoding=(time.monotonic() - began) / CHUNK / run.workers)


def _without_seed(config: Config) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": 0})})


def _mean(measured: Sequence[Any]) -> Any:
    """The mean of several `Speed` or `FitSpeed`, value by value."""
    values = zip(*map(astuple, measured), strict=True)
    return type(measured[0])(*map(statistics.fmean, values))


def _sizes(device: Any, configs: Sequence[Config]) -> list[Size]:
    from ablations.studies.forecast_measuring import size_of

    return [size_of(config) for config in configs]


def _speeds(device: Any, configs: Sequence[Config], seconds: float) -> tuple[list[Speed], FitSpeed]:
    from ablations.studies.forecast_measuring import fit_speed, speed_of

    return [speed_of(config, device, seconds / len(configs)) for config in configs], fit_speed(device)
