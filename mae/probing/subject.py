"""What is probed and under what: a subject's features, the labels that probes learn from, and what is held out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mae.config.tree import Config, ProbeConfig
from mae.data.augmentation import augment
from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.probing.feature_memory import near
from mae.probing.features import BATCH, encode, extract, raw_pixels
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StoppableTask, StopRequest
from mae.runtime.progress import Progress, Silent
from mae.runtime.rng import generator


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
    """What all probes of a run have in common, and `run`, where the one at work keeps its state and its curves."""

    config: Config
    data: ImageData
    device: torch.device
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    run: RunDirectory | None = None

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[StoppableTask]:
        """Open a piece of work of `total` units, `done` of which were done before."""
        with self.progress.task(description, total, done) as task:
            yield StoppableTask(task, self.stop)

    def learned_from(self) -> Tensor:
        """Return the indexes (n,) of the training images whose labels the probes learn from."""
        return learned_from(self.data.train.labels, self.config.probe)

    def labels(self) -> Tensor:
        """Return the classes (n,) of the images at `learned_from`, on the device."""
        return self.data.train.labels[self.learned_from()].to(self.device)

    def checkpoints(self) -> FitCheckpoints:
        """Return where a fit of hours stands."""
        return FitCheckpoints(self.run.checkpoints if self.run else None, self.progress.warn)


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
        config, data, device = setup.config, setup.data, setup.device
        train = split == "train"
        images = data.train.images if train else data.test.images
        indexes = setup.learned_from() if train else torch.arange(len(data.test.labels))
        with setup.task(f"features of {split} images, {subject.name}", len(indexes)) as task:
            if subject.pretext is None:
                features = raw_pixels(images, indexes, config.data, data, task)
            else:
                features = extract(subject.pretext.to(device), images, indexes, config.probe.features, device, task)
        subject.features[split] = features
    return near(subject.features[split], setup.device)


def augmented_features(pretext: Pretext, epoch: int, setup: Setup) -> Tensor:
    """Return features (n, D) of random resized crops, mirrored or not, new ones each epoch, as the paper's probe has.

    They are the probe's own, whatever the augmentation of the pretraining was. A request to stop is heard at every
    batch.
    """
    config, linear, indexes = setup.config, setup.config.probe.linear, setup.learned_from()
    own = {"augmentation": "random_resized_crop", "crop_scale": linear.lars_crop_scale, "flip": linear.lars_flip}
    cropped = config.data.model_copy(update=own)
    stored = setup.data.train.images.batches(indexes.split(BATCH))
    views = (
        augment(batch.to(setup.device), cropped, generator(config.probe.seed, f"probe augmentation {epoch}", number))
        for number, batch in enumerate(stored)
    )
    task = StoppableTask(Silent(), setup.stop)
    return near(encode(pretext, views, len(indexes), config.probe.features, task), setup.device)
