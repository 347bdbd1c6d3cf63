"""Probes: what a frozen encoder knows, beside the untrained encoder and raw pixels under the same probe."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from mae.config.fingerprint import (
    pixels_fingerprint,
    pretrain_fingerprint,
    probe_name,
    probed_fingerprint,
    untrained_fingerprint,
)
from mae.config.kinds import ProbeKind
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.pretext.registry import untrained_pretext
from mae.probing.attentive import attentive_predict
from mae.probing.finetune import finetune_predict
from mae.probing.kinds import PROBES, probe_title
from mae.probing.knn import knn_predict
from mae.probing.linear import lars_predict, lbfgs_predict
from mae.probing.partial import partial_predict
from mae.probing.pieces import Rows
from mae.probing.predictions import write_predictions
from mae.probing.subject import Setup, Subject, augmented_features, features_of, holdout
from mae.runs.directory import Busy, RunDirectory
from mae.training import checkpoints

BUSY_SECONDS = 0.5
"""Time between two looks at a baseline that another process is probing."""

Found = tuple[Tensor, dict[str, float]]
"""What a probe finds: the classes (m,) of the test images, and the choices that it made."""


def subjects(config: Config, data: ImageData, pretrained: Pretext, own_digest: str = "") -> list[Subject]:
    """Return the pretrained encoder and its two baselines, to be probed on `data`.

    `own_digest` is that of the pretraining's images where they are others.
    """
    own = own_digest or data.digest

    def fingerprint(of: Callable[[Config, str], str]) -> str:
        return probed_fingerprint(of(config, own), own, data.digest)

    return [
        Subject("pretrained", fingerprint(pretrain_fingerprint), pretrained),
        Subject("untrained", fingerprint(untrained_fingerprint), untrained_pretext(pretrained)),
        Subject("pixels", fingerprint(pixels_fingerprint), None),
    ]


def probe(kind: ProbeKind, subject: Subject, setup: Setup, run: RunDirectory | None = None) -> dict[str, Any]:
    """Probe one subject; return top-1 on all test images in percent with its interval, and the choices made.

    A probe that holds training images out has `holdout_top1` too, the accuracy on these, which a search may select by.
    One of hours saves its state in the directory `run`, if one is given, and continues from there; what it took each
    test image for is kept there.

    The untrained encoder is probed in the same way as the pretrained one. Under LARS that is a pass over augmented
    images per epoch too: without, its head would see the same features 90 times, fit these more closely and generalise
    otherwise, and the difference between the two encoders would be one of protocols as well. All runs with the same
    encoder and seed share the cost, as they share the result.
    """
    predicted, chosen = PREDICT[kind](subject, replace(setup, run=run))
    predicted, labels = predicted.cpu(), setup.data.test.labels
    if run:
        write_predictions(run, labels, predicted)
    correct = predicted == labels
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {"top1": 100 * correct.float().mean().item(), "low": low, "high": high, **chosen}


def _linear(subject: Subject, setup: Setup) -> Found:
    config, labels, classes = setup.config.probe, setup.labels(), len(setup.data.classes)
    train, test = features_of(subject, "train", setup), features_of(subject, "test", setup)
    if config.linear.solver == "lbfgs":
        with setup.task(f"linear probe, {subject.name}", len(config.linear.penalties) + 1, unit="fits") as task:
            return lbfgs_predict(train, labels, test, classes, config.linear, holdout(len(train), config), task)

    def views(epoch: int) -> Tensor:
        if subject.pretext is None or not config.linear.lars_augment:
            return train
        return augmented_features(subject, epoch, setup)

    with setup.task(f"linear probe, {subject.name}", config.linear.lars_epochs, unit="epochs") as task:
        return lars_predict(views, labels, test, classes, config.linear, config.seed, task, setup.checkpoints())


def _knn(subject: Subject, setup: Setup) -> Found:
    config, labels, classes = setup.config.probe, setup.labels(), len(setup.data.classes)
    train, test = features_of(subject, "train", setup), features_of(subject, "test", setup)
    k, temperature = config.knn.k, config.knn.temperature
    held, rest = (indexes.sort().values for indexes in holdout(len(train), config))

    def voted(references: Tensor, queries: Rows) -> Tensor:
        rows = Rows(train, references, classes, labels.device)
        return knn_predict(rows, labels[references], queries, k, temperature, classes, setup.stop.check)

    right = voted(rest, Rows(train, held, classes, labels.device)) == labels[held]
    predicted = voted(torch.arange(len(train)), Rows(test, torch.arange(len(test)), classes, labels.device))
    return predicted, {"holdout_top1": 100 * right.float().mean().item()}


PREDICT: dict[ProbeKind, Callable[[Subject, Setup], Found]] = {
    "linear": _linear,
    "knn": _knn,
    "attentive": attentive_predict,
    "partial": partial_predict,
    "finetune": finetune_predict,
}
"""What each kind of probe does, asking for features if it needs them."""


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
                found = probe(kind, subject, setup, directory)
                directory.write_json("result.json", found)
                checkpoints.remove(directory.checkpoints)
            return dict(found)
    except Busy:
        with setup.task(f"another run's {probe_title(kind)}, {subject.name}", 1) as task:
            while directory.is_locked():
                task.check()
                time.sleep(BUSY_SECONDS)
    return baseline(kind, subject, setup, runs_dir)


def probe_all(
    kind: ProbeKind, probed: list[Subject], setup: Setup, runs_dir: Path, run: RunDirectory, last: bool
) -> dict[str, float]:
    """Probe what `subjects` returned; return flat metrics such as `knn/top1`, `knn/pixels_top1`.

    The probe of the pretrained encoder has its state in the directory `run`, baselines in their own. If this is
    the `last` kind, a subject's features are let go before those of the next are computed. A kind that needs an
    encoder leaves raw pixels out.
    """
    metrics: dict[str, float] = {}
    for subject in (each for each in probed if each.pretext is not None or PROBES[kind].pixels):
        pretrained = subject is probed[0]
        found = probe(kind, subject, setup, run) if pretrained else baseline(kind, subject, setup, runs_dir)
        prefix = f"{kind}/" if pretrained else f"{kind}/{subject.name}_"
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        if last:
            subject.features.clear()
    return metrics
