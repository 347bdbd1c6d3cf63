"""Probes: what a frozen encoder knows, beside the untrained encoder and raw pixels under the same probe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from mae.config.fingerprint import pixels_fingerprint, pretrain_fingerprint, probe_name, untrained_fingerprint
from mae.config.tree import Config, ProbeConfig, ProbeKind
from mae.data.augmentation import augment
from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.pretext.registry import new_pretext
from mae.probing.feature_memory import near
from mae.probing.features import BATCH, encode, extract, raw_pixels
from mae.probing.knn import knn_predict
from mae.probing.lars_checkpoints import LarsCheckpoints
from mae.probing.linear import lars_predict, lbfgs_predict
from mae.probing.pieces import Rows
from mae.runs.directory import Busy, RunDirectory
from mae.runtime.interruption import StoppableTask, StopRequest
from mae.runtime.progress import Progress, Silent
from mae.runtime.rng import generator
from mae.training import checkpoints

BUSY_SECONDS = 0.5
"""Time between two looks at a baseline that another process is probing."""


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
    """What all probes of a run have in common."""

    config: Config
    data: ImageData
    device: torch.device
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[StoppableTask]:
        """Open a piece of work of `total` units."""
        with self.progress.task(description, total) as task:
            yield StoppableTask(task, self.stop)


def subjects(config: Config, data: ImageData, pretrained: Pretext) -> list[Subject]:
    """Return the pretrained encoder and its two baselines."""
    untrained = new_pretext(config, data, pretrained.state_dict())
    return [
        Subject("pretrained", pretrain_fingerprint(config, data.digest), pretrained),
        Subject("untrained", untrained_fingerprint(config, data.digest), untrained),
        Subject("pixels", pixels_fingerprint(config, data.digest), None),
    ]


def probe(kind: ProbeKind, subject: Subject, setup: Setup, saved_in: Path | None = None) -> dict[str, Any]:
    """Probe one subject; return top-1 on all test images in percent with its interval, and the choices made.

    A probe that holds training images out has `holdout_top1` too, the accuracy on these, which a search may select by.
    One of hours saves its state in the folder `saved_in`, if one is given, and continues from there.

    The untrained encoder is probed in the same way as the pretrained one. Under LARS that is a pass over augmented
    images per epoch too: without, its head would see the same features 90 times, fit these more closely and generalise
    otherwise, and the difference between the two encoders would be one of protocols as well. All runs with the same
    encoder and seed share the cost, as they share the result.
    """
    config, data = setup.config, setup.data
    labelled = (data.train.labels >= 0).nonzero()[:, 0]
    labels = data.train.labels[labelled].to(setup.device)
    train = near(_features(subject, "train", labelled, setup), setup.device)
    test = near(_features(subject, "test", torch.arange(len(data.test.labels)), setup), setup.device)

    def views(epoch: int) -> Tensor:
        if subject.pretext is None or not config.probe.linear.lars_augment:
            return train
        return near(_augmented_features(subject.pretext, labelled, epoch, setup), setup.device)

    saved = LarsCheckpoints(saved_in, setup.progress.warn)
    samples = Samples(subject.name, train, labels, test, len(data.classes), views, saved)
    predicted, chosen = PREDICT[kind](samples, setup)
    correct = predicted.cpu() == data.test.labels
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {"top1": 100 * correct.float().mean().item(), "low": low, "high": high, **chosen}


class Samples(NamedTuple):
    """What a probe learns from and is asked about; the labels are on the device, features also where they fit."""

    subject: str
    train: Tensor
    """(n, D), features of the labelled training images."""
    labels: Tensor
    """(n,), their classes."""
    test: Tensor
    """(m, D)."""
    classes: int
    views: Callable[[int], Tensor]
    """Training features (n, D) under the probe's augmentation of an epoch."""
    saved: LarsCheckpoints
    """Where a LARS probe stands."""


def _linear(samples: Samples, setup: Setup) -> tuple[Tensor, dict[str, float]]:
    config, (subject, train, labels, test, classes, views, saved) = setup.config.probe, samples
    if config.linear.solver == "lbfgs":
        with setup.task(f"linear probe, {subject}", len(config.linear.penalties) + 1) as task:
            return lbfgs_predict(train, labels, test, classes, config.linear, holdout(len(train), config), task)
    with setup.task(f"linear probe, {subject}", config.linear.lars_epochs) as task:
        return lars_predict(views, labels, test, classes, config.linear, config.seed, task, saved)


def _knn(samples: Samples, setup: Setup) -> tuple[Tensor, dict[str, float]]:
    config, (_, train, labels, test, classes, *_) = setup.config.probe, samples
    k, temperature = config.knn.k, config.knn.temperature
    held, rest = (indexes.sort().values for indexes in holdout(len(train), config))

    def voted(references: Tensor, queries: Rows) -> Tensor:
        rows = Rows(train, references, classes, labels.device)
        return knn_predict(rows, labels[references], queries, k, temperature, classes, setup.stop.check)

    right = voted(rest, Rows(train, held, classes, labels.device)) == labels[held]
    predicted = voted(torch.arange(len(train)), Rows(test, torch.arange(len(test)), classes, labels.device))
    return predicted, {"holdout_top1": 100 * right.float().mean().item()}


PREDICT: dict[ProbeKind, Callable[[Samples, Setup], tuple[Tensor, dict[str, float]]]] = {
    "linear": _linear,
    "knn": _knn,
}
"""What each kind of probe does: it returns the classes (m,) of the test images, and the choices that it made."""


def holdout(count: int, config: ProbeConfig) -> tuple[Tensor, Tensor]:
    """Return the indexes of the training images that are held out, of `count`, and of the rest, both shuffled."""
    order = torch.randperm(count, generator=generator(config.seed, "probe holdout"))
    held = max(1, round(count * config.holdout_fraction))
    return order[:held], order[held:]


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy, in percent, over test images; at 0 and 100 % too it has a width."""
    low, high = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return 100 * float(low), 100 * float(high)


def baseline(kind: ProbeKind, subject: Subject, setup: Setup, runs_dir: Path) -> dict[str, Any]:
    """Probe a baseline, or return what another run with the same one has found or is about to find."""
    name = probe_name(setup.config, kind, subject.fingerprint)
    directory = RunDirectory(runs_dir / "baselines" / name)
    if (found := directory.result()) is not None:
        return dict(found)
    try:
        with directory.locked():
            if (found := directory.result()) is None:
                found = probe(kind, subject, setup, directory.checkpoints)
                directory.write_json("result.json", found)
                checkpoints.remove(directory.checkpoints)
            return dict(found)
    except Busy:
        with setup.task(f"another run's {kind} probe, {subject.name}", 1) as task:
            while directory.is_locked():
                task.check()
                time.sleep(BUSY_SECONDS)
    return baseline(kind, subject, setup, runs_dir)


def probe_all(
    kind: ProbeKind, probed: list[Subject], setup: Setup, runs_dir: Path, saved: Path, last: bool
) -> dict[str, float]:
    """Probe what `subjects` returned; return flat metrics such as `knn/top1`, `knn/pixels_top1`.

    The probe of the pretrained encoder has its checkpoints in the folder `saved`, baselines in their own. If this is
    the `last` kind, a subject's features are let go before those of the next are computed.
    """
    metrics: dict[str, float] = {}
    for subject in probed:
        pretrained = subject is probed[0]
        found = probe(kind, subject, setup, saved) if pretrained else baseline(kind, subject, setup, runs_dir)
        prefix = f"{kind}/" if pretrained else f"{kind}/{subject.name}_"
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        if last:
            subject.features.clear()
    return metrics


def _features(subject: Subject, split: str, indexes: Tensor, setup: Setup) -> Tensor:
    """Return features (n, D), on the CPU, of the images at `indexes` (n,) of the split `train` or `test`."""
    if split not in subject.features:
        config, data, device = setup.config, setup.data, setup.device
        images = data.train.images if split == "train" else data.test.images
        with setup.task(f"features of {split} images, {subject.name}", len(indexes)) as task:
            if subject.pretext is None:
                features = raw_pixels(images, indexes, config.data, data, task)
            else:
                features = extract(subject.pretext.to(device), images, indexes, config.probe.features, device, task)
        subject.features[split] = features
    return subject.features[split]


def _augmented_features(pretext: Pretext, indexes: Tensor, epoch: int, setup: Setup) -> Tensor:
    """Return features (n, D) of random resized crops, mirrored or not, new ones each epoch, as the paper's probe has.

    They are the probe's own, whatever the augmentation of the pretraining was. A request to stop is heard at every
    batch.
    """
    config, linear = setup.config, setup.config.probe.linear
    own = {"augmentation": "random_resized_crop", "crop_scale": linear.lars_crop_scale, "flip": linear.lars_flip}
    cropped = config.data.model_copy(update=own)
    stored = setup.data.train.images.batches(indexes.split(BATCH))
    views = (
        augment(batch.to(setup.device), cropped, generator(config.probe.seed, f"probe augmentation {epoch}", number))
        for number, batch in enumerate(stored)
    )
    return encode(pretext, views, len(indexes), config.probe.features, StoppableTask(Silent(), setup.stop))
