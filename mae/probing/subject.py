"""What is probed and under what: a subject's features, the labels that probes learn from, and what is held out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mae.config.probe_sections import ProbeConfig
from mae.config.tree import Config
from mae.data.augmentation import augment
from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.probing.feature_memory import gathered, near
from mae.probing.features import BATCH, batch_size, centred, encode, raw_pixels, told
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StoppableTask, StopRequest
from mae.runtime.progress import Progress, Silent
from mae.runtime.rng import generator
from mae.runtime.sharing import Sharing


@dataclass(frozen=True)
class Subject:
    """What is probed: the encoder of a pretext task, or, if that is None, raw pixels; `fingerprint` identifies it.

    `features` are kept by split once they are known, on the CPU: all probes of a subject share them.
    """

    name: str
    fingerprint: str
    pretext: Pretext | None
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What all probes of a run have in common, and `run`, where the one at work keeps its state and its curves.

    `sharing` has the processes that make features together.
    """

    config: Config
    data: ImageData
    device: torch.device
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    run: RunDirectory | None = None
    sharing: Sharing = field(default_factory=Sharing)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Iterator[StoppableTask]:
        """Open a piece of work of `total` units, `done` of which were done before."""
        with self.progress.task(description, total, done, unit) as task:
            yield StoppableTask(task, self.stop)

    def learned_from(self) -> Tensor:
        """Return the indexes (n,) of the training images whose labels the probes learn from."""
        return learned_from(self.data.train.labels, self.config.probe)

    def labels(self) -> Tensor:
        """Return the classes (n,) of the images at `learned_from`, on the device."""
        return self.data.train.labels[self.learned_from()].to(self.device)

    def too_few_voters(self) -> str:
        """Return what is wrong where more neighbours vote than a class has labelled images; nothing otherwise."""
        k, counts = self.config.probe.knn.k, self.labels().bincount()
        fewest = int(counts[counts > 0].min())
        if k <= fewest:
            return ""
        return (
            f"k-NN: probe.knn.k={k} neighbours vote, and a class has {fewest} labelled image(s), so others "
            f"outvote it; set probe.knn.k={fewest} or less"
        )

    def checkpoints(self) -> FitCheckpoints:
        """Return where a fit of hours stands."""
        return FitCheckpoints(self.run.checkpoints if self.run else None, self.progress.warn)


class View(NamedTuple):
    """Which images a subject, given by name, is shown: those of a split, or what LARS sees of training in an epoch."""

    subject: str
    split: Literal["train", "test"]
    epoch: int | None = None

    def batches(self, setup: Setup) -> Sequence[Tensor]:
        """Return the indexes (b,) of the images in each batch, the same however many processes there are."""
        images = setup.learned_from() if self.split == "train" else torch.arange(len(setup.data.test.labels))
        # An epoch's draws are made for batches of one size: they do not depend on the device.
        return images.split(batch_size(setup.device) if self.epoch is None else BATCH)


def learned_from(labels: Tensor, config: ProbeConfig) -> Tensor:
    """Return the indexes, in order, of the training images with `labels` (N,) that a probe learns from.

    All that have a label, or of each class a share or a number of images, at least one, drawn by `probe.seed`: those of
    a smaller share are among those of a larger one.
    """
    labelled = (labels >= 0).nonzero()[:, 0]
    if config.labels == 1 and config.labels_per_class is None:
        return labelled
    drawn = labelled[torch.randperm(len(labelled), generator=generator(config.seed, "probe labels"))]
    by_class = drawn[labels[drawn].argsort(stable=True)]
    counts = labels[labelled].bincount()
    place = torch.arange(len(by_class)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # within its class
    allowed = (config.labels * counts).round().clamp(min=1)
    if config.labels_per_class is not None:
        allowed = torch.full_like(counts, config.labels_per_class)
    return by_class[place < allowed[labels[by_class]]].sort().values


def holdout(count: int, config: ProbeConfig) -> tuple[Tensor, Tensor]:
    """Return the indexes of the training images that are held out, of `count`, and of the rest, both shuffled."""
    order = torch.randperm(count, generator=generator(config.seed, "probe holdout"))
    held = max(1, round(count * config.holdout_fraction))
    return order[:held], order[held:]


def features_of(subject: Subject, split: Literal["train", "test"], setup: Setup) -> Tensor:
    """Return features (n, D) of the images that probes learn from, or of all test images, on the device if they fit."""
    if split not in subject.features:
        view = View(subject.name, split)
        total = sum(map(len, view.batches(setup)))
        with setup.task(f"features of {split} images, {subject.name}", total, unit="images") as task:
            subject.features[split] = _gathered(subject, view, setup, task)
    return near(subject.features[split], setup.device)


def augmented_features(subject: Subject, epoch: int, setup: Setup) -> Tensor:
    """Return features (n, D) of random resized crops, mirrored or not, new ones each epoch, as the paper's probe has.

    A request to stop is heard at every batch.
    """
    task = StoppableTask(Silent(), setup.stop)
    return near(_gathered(subject, View(subject.name, "train", epoch), setup, task), setup.device)


def _gathered(subject: Subject, view: View, setup: Setup, task: StoppableTask) -> Tensor:
    """Return the features (n, D) that all processes make of a view, float32 on the CPU."""
    sizes = [len(batch) for batch in view.batches(setup)]
    parts = setup.sharing.parts(view, features_in_parts(subject, view, setup), sizes)
    return gathered(told(parts, task), sum(sizes))


def features_in_parts(subject: Subject, view: View, setup: Setup) -> Iterator[Tensor]:
    """Yield the features (b, D) of those batches of a view that are this process's: with n processes every n-th."""
    config, device, processes = setup.config, setup.device, setup.sharing.processes
    batches = view.batches(setup)
    numbers = range(processes.rank, len(batches), processes.count)
    split = setup.data.train if view.split == "train" else setup.data.test
    stored = split.images.batches([batches[number] for number in numbers])
    if subject.pretext is None:
        yield from raw_pixels(stored, config.data, setup.data)
        return
    pretext = subject.pretext.to(device)
    seen = centred(pretext, stored, device) if view.epoch is None else _augmented(stored, numbers, view.epoch, setup)
    yield from encode(pretext, seen, config.probe.features, config.probe.layer)


def _augmented(stored: Iterator[Tensor], numbers: range, epoch: int, setup: Setup) -> Iterator[Tensor]:
    """Yield an epoch's views (b, C, H, W) of the batches with these numbers.

    They are the probe's own, whatever the augmentation of the pretraining was.
    """
    config, linear = setup.config, setup.config.probe.linear
    own = {"augmentation": "random_resized_crop", "crop_scale": linear.lars_crop_scale, "flip": linear.lars_flip}
    cropped = config.data.model_copy(update=own)
    for number, batch in zip(numbers, stored, strict=True):
        draws = generator(config.probe.seed, f"probe augmentation {epoch}", number)
        yield augment(batch.to(setup.device), cropped, draws)
