import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F

from mae.config.data_section import DataConfig
from mae.config.fingerprint import pretrain_fingerprint, probe_fingerprint
from mae.config.kinds import ProbeKind
from mae.config.probe_sections import LinearProbeConfig, ProbeConfig
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.augmentation import normalise
from mae.data.dataset import CachedImages, ImageData, Split
from mae.models.vit import build_encoder, pool
from mae.pretext.registry import new_pretext
from mae.probing import kinds
from mae.probing.features import extract, raw_pixels
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.probing.knn import knn_predict
from mae.probing.linear import (
    choose_penalty,
    fit_lars,
    fit_logistic,
    lars,
    lars_predict,
    lbfgs_predict,
    principal_axes,
)
from mae.probing.online import evaluate_online
from mae.probing.pieces import Pieces, Rows
from mae.probing.probe import PREDICT, baseline, probe, probe_all, subjects, wilson_interval
from mae.probing.subject import Setup, Subject, holdout
from mae.runs.directory import RunDirectory
from mae.runs.metrics import ONLINE
from mae.runtime.interruption import Interrupted, StoppableTask, StopRequest
from mae.runtime.progress import Silent
from mae.training.loop import pretrain, weights_digest
from tests.conftest import DIGITS, TINY
from tests.helpers.pretexts import around

CPU = torch.device("cpu")
SILENT, NOT_SAVED = StoppableTask(Silent(), StopRequest()), FitCheckpoints()


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping classes in 5 dimensions, unevenly scaled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    centres = 1.5 * torch.randn(3, 5, generator=generator)
    noise = torch.randn(600, 5, generator=generator)
    return (centres[labels] + noise) * torch.tensor([1.0, 10.0, 0.1, 1.0, 5.0]) + 3, labels


class Counting(Silent):
    """Counts the units it is told of, and how often it is told."""

    def __init__(self) -> None:
        self.done = self.calls = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.calls += 1


def standardise(train: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Return features as the L-BFGS probe sees them, by the moments of `train`."""
    rows = [Rows(each, torch.arange(len(each)), 3, CPU) for each in (train, *others)]
    moments = rows[0].moments()
    return [torch.cat([*each.standardised(moments)]) for each in rows]


def test_logistic_regression_equals_scikit_learns(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    (features,), labels = standardise(blobs[0]), blobs[1]
    principal = principal_axes([features])
    simpler = fit_logistic([features], labels, 3, 1.0, principal, Silent().advance)
    ours = fit_logistic([features], labels, 3, 1e-2, principal, Silent().advance, simpler)
    theirs = LogisticRegression(C=1 / (1e-2 * 600), tol=1e-8, max_iter=1000).fit(features.numpy(), labels.numpy())
    assert np.allclose(ours[:, :-1], theirs.coef_, atol=2e-3)
    # Neither bias is penalised, so that a constant may be added to all.
    assert np.allclose(ours[:, -1] - ours[:, -1].mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_features_that_are_nearly_equal_cost_few_steps() -> None:
    """As neighbouring pixels are; along the features themselves, the search takes 78 steps."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    own = F.one_hot(labels, 3).float() @ torch.randn(3, 20, generator=draws) + torch.randn(300, 20, generator=draws)
    (features,) = standardise(torch.randn(300, 1, generator=draws) + 0.03 * own)
    task = Counting()
    fit_logistic([features], labels, 3, 1e-4, principal_axes([features]), task.advance)
    assert task.calls < 30


def penalised_loss(weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return what logistic regression minimises, of weights (classes, D + 1) with the bias last."""
    own, bias = weights[:, :-1].to(features), weights[:, -1].to(features)
    return F.cross_entropy(features @ own.T + bias, labels) + penalty / 2 * own.square().sum()


def test_a_weak_penalty_is_fitted_to_the_minimum_though_that_is_far() -> None:
    """Classes that can be told apart without an error: 20 steps end 1 % above the least loss."""
    draws, labels = torch.Generator().manual_seed(0), torch.arange(100) % 3
    centres, noise = torch.randn(3, 10, generator=draws), torch.randn(100, 10, generator=draws)
    (features,) = standardise(centres[labels] + noise)
    ours = fit_logistic([features], labels, 3, 1e-5, principal_axes([features]), Silent().advance)
    exact = features.double()
    found = LogisticRegression(C=1 / (1e-5 * 100), tol=1e-10, max_iter=10_000).fit(exact.numpy(), labels.numpy())
    theirs = torch.from_numpy(np.column_stack([found.coef_, found.intercept_]))
    least = penalised_loss(theirs, exact, labels, 1e-5).item()
    assert penalised_loss(ours, exact, labels, 1e-5).item() == pytest.approx(least, rel=1e-3)


def test_a_fit_that_begins_at_its_minimum_stays_there_and_is_soon_done(
    blobs: tuple[torch.Tensor, torch.Tensor],
) -> None:
    (features,), first, second = standardise(blobs[0].double()), Counting(), Counting()
    principal, zero = principal_axes([features]), torch.zeros(3, 6, dtype=torch.float64)
    minimum = fit_logistic([features], blobs[1], 3, 1e-2, principal, first.advance, zero)
    again = fit_logistic([features], blobs[1], 3, 1e-2, principal, second.advance, minimum)
    assert torch.allclose(again, minimum, atol=1e-4)
    assert second.calls < first.calls / 2


def test_the_search_is_in_units_of_the_curvature_at_its_beginning(
    blobs: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    (features,), labels, penalty = standardise(blobs[0]), blobs[1], 0.05
    spied: list[torch.Tensor] = []

    def minimise(weights: torch.Tensor, *others: Any) -> torch.Tensor:
        spied.extend(others[3:5])
        return weights

    monkeypatch.setattr("mae.probing.linear._minimise", minimise)
    begin = fit_logistic([features], labels, 3, penalty, principal_axes([features]), Silent().advance)
    axes, units = spied

    def loss(place: torch.Tensor) -> torch.Tensor:
        return penalised_loss(torch.cat([place * units @ axes.T, begin[:, -1:]], 1), features, labels, penalty)

    hessian = torch.autograd.functional.hessian(loss, begin[:, :-1])
    for label in range(3):
        assert torch.allclose(hessian[label, :, label], torch.eye(5), atol=1e-4)


def test_features_that_follow_from_others_are_fitted_under_the_weakest_penalty(
    blobs: tuple[torch.Tensor, torch.Tensor],
) -> None:
    features, labels = blobs
    (alone,), (twice,) = standardise(features), standardise(features.repeat(1, 2))
    expected = fit_logistic([alone], labels, 3, 1e-10, principal_axes([alone]), Silent().advance)
    found = fit_logistic([twice], labels, 3, 1e-10, principal_axes([twice]), Silent().advance)
    assert torch.allclose(found[:, :5] + found[:, 5:-1], expected[:, :-1], atol=1e-2)


def test_variances_along_the_principal_axes_are_those_of_the_features() -> None:
    (features,) = standardise(torch.randn(50, 4) @ torch.randn(4, 4))
    features = torch.cat([features, features[:, :1]], dim=1)  # along one axis there is nothing
    variances, axes = principal_axes([features])
    assert torch.allclose(axes.T @ axes, torch.eye(5), atol=1e-5)
    assert torch.allclose((features @ axes).var(0, unbiased=False), variances, atol=1e-5)
    assert variances.min() >= 0


def test_few_images_have_as_many_axes_and_the_weights_of_scikit_learn() -> None:
    draws = torch.Generator().manual_seed(0)
    labels, centres = torch.arange(30) % 3, torch.randn(3, 200, generator=draws)
    (features,) = standardise(centres[labels] + 3 * torch.randn(30, 200, generator=draws))
    variances, axes = principal_axes(features.split(20))
    assert torch.allclose(axes.T @ axes, torch.eye(30), atol=1e-5)
    assert torch.allclose(features @ axes @ axes.T, features, atol=1e-4)
    assert torch.allclose((features @ axes).var(0, unbiased=False), variances, atol=1e-4)
    ours = fit_logistic([features], labels, 3, 1e-3, (variances, axes), Silent().advance)
    theirs = LogisticRegression(C=1 / (1e-3 * 30), tol=1e-10, max_iter=10_000).fit(features.numpy(), labels.numpy())
    assert np.allclose(ours[:, :-1], theirs.coef_, atol=1e-3)


def test_a_feature_that_is_always_the_same_is_standardised_to_0() -> None:
    (features,) = standardise(torch.full((5, 2), 3.0))
    assert torch.equal(features, torch.zeros(5, 2))


def test_standardised_training_features_have_mean_0_and_deviation_1(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    train, shifted = standardise(blobs[0], blobs[0] + blobs[0].std(0, unbiased=False))
    assert torch.allclose(train, F.batch_norm(blobs[0], None, None, training=True, eps=1e-6), atol=1e-4)
    assert torch.allclose(train.std(0, unbiased=False), torch.ones(5), atol=1e-3)
    assert torch.allclose(shifted.mean(0), torch.ones(5), atol=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "lars"])
def test_linear_probes_find_a_linear_rule(solver: str, blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = blobs
    train, test = features[:400], features[400:]
    config = LinearProbeConfig(lars_batch_size=100, lars_epochs=30, lars_base_lr=50.0)
    if solver == "lbfgs":
        predicted, _ = lbfgs_predict(train, labels[:400], test, 3, config, holdout(400, ProbeConfig()), SILENT)
    else:
        predicted, _ = lars_predict(lambda epoch: train, labels[:400], test, 3, config, 0, SILENT, NOT_SAVED)
    best = LogisticRegression().fit(standardise(train)[0].numpy(), labels[:400].numpy())
    reference = best.score(standardise(train, test)[1].numpy(), labels[400:].numpy())
    assert (predicted == labels[400:]).float().mean() > reference - 0.05


def test_lars_takes_the_published_steps() -> None:
    """You et al., 2017, algorithm 1, without weight decay; vectors as in the official release's `util/lars.py`."""
    draws = torch.Generator().manual_seed(0)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    expected = {"weight": layer.weight.detach().clone(), "bias": layer.bias.detach().clone()}
    momentum = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = lars(layer)
    for rate in (0.0, 2.0, 5.0, 1.0, 0.5):
        for name, parameter in layer.named_parameters():
            gradient = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
            trust = 0.001 * expected[name].norm() / gradient.norm() if name == "weight" else 1.0
            momentum[name] = 0.9 * momentum[name] + trust * gradient
            expected[name] = expected[name] - rate * momentum[name]
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, parameter in layer.named_parameters():
            assert torch.allclose(parameter, expected[name], rtol=1e-12, atol=0), (rate, name)


def test_the_lars_probe_moves_its_weights_by_a_thousandth_of_the_learning_rate(
    blobs: tuple[torch.Tensor, torch.Tensor],
) -> None:
    features, labels = blobs
    head = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
    before = head[1].weight.detach().clone()
    config = LinearProbeConfig(lars_epochs=1, lars_warmup_epochs=0.0, lars_base_lr=0.1)  # one step
    fit_lars(head, lambda epoch: features, labels, config, 0, SILENT, NOT_SAVED)
    moved = (head[1].weight - before).norm() / before.norm()
    assert moved.item() == pytest.approx(0.001 * 0.1 * 600 / 256, rel=1e-3)


class Batches(nn.Module):
    """A linear layer that keeps which features it was shown, by their first column."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes)
        self.shown: list[list[int]] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.shown.append(features[:, 0].int().tolist())
        return self.layer(features)


def test_lars_goes_over_all_whole_batches_in_another_order_each_epoch_and_by_the_seed() -> None:
    features, labels = torch.arange(11.0)[:, None].expand(-1, 3), torch.arange(11) % 2
    config = LinearProbeConfig(lars_epochs=2, lars_batch_size=4)
    shown = []
    for seed in (0, 0, 1):
        head, task, epochs = Batches(3, 2), Counting(), []

        def views(epoch: int, epochs: list[int] = epochs) -> torch.Tensor:
            epochs.append(epoch)
            return features

        fit_lars(head, views, labels, config, seed, StoppableTask(task, StopRequest()), NOT_SAVED)
        assert (epochs, task.done) == ([0, 1], 2)
        shown.append(head.shown)
    first = shown[0]
    assert [len(batch) for batch in first] == [4, 4, 4, 4]  # of 11, three are left over
    assert all(len({*first[at], *first[at + 1]}) == 8 for at in (0, 2))
    assert first[:2] != first[2:]
    assert shown[1] == first
    assert shown[2] != first


def test_the_order_of_images_in_the_lars_probe_is_that_of_earlier_versions() -> None:
    """Another changes results: `mae.config.fingerprint.ARITHMETIC` is raised with it."""
    head, config = Batches(3, 2), LinearProbeConfig(lars_epochs=2)
    features, labels = torch.arange(8.0)[:, None].expand(-1, 3), torch.arange(8) % 2
    fit_lars(head, lambda epoch: features, labels, config, 0, SILENT, NOT_SAVED)
    assert head.shown == [[7, 2, 1, 3, 4, 0, 6, 5], [1, 7, 5, 4, 3, 2, 0, 6]]


def test_lars_follows_warm_up_and_cosine_within_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 10: linear from 0 over the warm-up, then half a cosine to 0; at its peak the base rate * batch / 256."""
    rates: list[float] = []

    class Kept(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])
            assert all(parameter.grad is not None for parameter in self.param_groups[0]["params"])

    monkeypatch.setattr("mae.probing.linear.lars", lambda head: Kept(head.parameters()))
    features, labels = torch.randn(8, 3), torch.arange(8) % 2
    config = LinearProbeConfig(lars_epochs=3, lars_warmup_epochs=1.0, lars_batch_size=4, lars_base_lr=64.0)
    fit_lars(nn.Linear(3, 2), lambda epoch: features, labels, config, 0, SILENT, NOT_SAVED)
    assert rates == pytest.approx([0.0, 0.5, *(0.5 * (1 + math.cos(math.pi * part)) for part in (0, 0.25, 0.5, 0.75))])


def test_the_lars_probe_leaves_the_draws_of_others_alone(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = blobs
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    lars_predict(lambda epoch: features, labels, features, 3, LinearProbeConfig(lars_epochs=1), 0, SILENT, NOT_SAVED)
    assert torch.equal(torch.rand(1), expected)


def test_the_lars_probe_begins_near_0_by_its_seed(
    blobs: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official release: weights of a deviation of 0.01, batch norm without affine and with an epsilon of 1e-6."""
    heads: list[Any] = []
    seeds: list[int] = []

    def fit(head: nn.Module, views: Any, labels: Any, config: Any, seed: int, *others: Any) -> None:
        heads.append(head.train())
        seeds.append(seed)

    monkeypatch.setattr("mae.probing.linear.fit_lars", fit)
    wide = torch.randn(8, 4000)
    for seed in (0, 0, 1):
        lars_predict(lambda epoch: wide, blobs[1][:8], wide, 3, LinearProbeConfig(), seed, SILENT, NOT_SAVED)
    norm, classifier = heads[0]
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert classifier.weight.shape == (3, 4000)
    assert torch.equal(classifier.bias, torch.zeros(3))
    assert (norm.affine, norm.eps) == (False, 1e-6)
    assert torch.equal(classifier.weight, heads[1][1].weight)
    assert not torch.equal(classifier.weight, heads[2][1].weight)
    assert not norm.training  # images are judged by the statistics of training, whichever others are beside them
    assert seeds == [0, 0, 1]  # the order of the images is by it too


class Watched(nn.Module):
    """Keeps every image that it is shown; its tokens are the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images.flatten(1)[:, None].expand(-1, 2, -1)


def views_of_lars(digits: ImageData, settings: dict[str, Any]) -> torch.Tensor:
    """Return the training images (n, 1, 8, 8) that the LARS probe saw in its single epoch, as 0 to 1."""
    encoder = Watched()
    config = build(DIGITS | {"probe.linear.solver": "lars", "probe.linear.lars_epochs": 1} | settings)
    known = {"train": torch.randn(len(digits.train.labels), 64), "test": torch.randn(len(digits.test.labels), 64)}
    probe(
        "linear",
        Subject("pretrained", "0123", around(encoder, config, digits), known),
        Setup(config, digits, CPU, Silent()),
    )
    return torch.cat(encoder.seen) * digits.std[0] + digits.mean[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"data.augmentation": "none"},
        {"data.augmentation": "color_jitter", "data.crop_scale": (0.9, 1.0)},
        {"data.flip": True},
    ],
)
def test_the_lars_probe_augments_in_its_own_way_whatever_the_pretraining_did(
    settings: dict[str, Any], digits: ImageData
) -> None:
    assert torch.equal(views_of_lars(digits, settings), views_of_lars(digits, {}))


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_the_lars_probe_mirrors_every_other_image_unless_told_not_to(
    flip: bool, share: float, digits: ImageData
) -> None:
    whole = {"probe.linear.lars_crop_scale": (1.0, 1.0), "probe.linear.lars_flip": flip}
    views, images = views_of_lars(digits, whole), digits.train.images.pixels.float() / 255
    mirrored = torch.isclose(views, images.flip(3), atol=1e-5).flatten(1).all(1)
    assert torch.allclose(views[~mirrored], images[~mirrored], atol=1e-5)
    assert mirrored.float().mean().item() == pytest.approx(share, abs=0.05)


def test_the_defaults_of_the_lars_probe_are_the_papers() -> None:
    """Table 10; crops and flips as in the official release's `main_linprobe.py`."""
    linear = LinearProbeConfig()
    assert (linear.lars_epochs, linear.lars_warmup, linear.lars_batch_size, linear.lars_base_lr) == (90, 10, 16384, 0.1)
    assert (linear.lars_augment, linear.lars_crop_scale, linear.lars_flip) == (True, (0.08, 1.0), True)


def test_the_knn_probe_is_measured_on_training_images_that_are_no_references(tiny: Config, digits: ImageData) -> None:
    labels, noise = digits.train.labels, torch.Generator().manual_seed(0)
    config = build(TINY | {"probe.knn.k": 1, "probe.holdout_fraction": 0.25})
    held, _ = holdout(len(labels), config.probe)
    wrong, seen = held[: len(held) // 3], labels.clone()
    seen[wrong] = (seen[wrong] + 1) % 10
    # As references they would find themselves, and every other image the class that it seems to be of.
    train = F.one_hot(seen, 10) + 1e-3 * torch.randn(len(labels), 10, generator=noise)
    subject = Subject("pretrained", "0123", None, {"train": train, "test": F.one_hot(digits.test.labels, 10).float()})
    found = probe("knn", subject, Setup(config, digits, CPU, Silent()))
    assert found["holdout_top1"] == pytest.approx(100 * (1 - len(wrong) / len(held)))


LARS = {"solver": "lars", "lars_epochs": 10, "lars_batch_size": 100, "lars_base_lr": 50.0}
PROBES: dict[str, tuple[ProbeKind, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "lbfgs": ("linear", {"probe.linear.penalties": (0.01, 0.1)}),
    "lars": ("linear", {f"probe.linear.{key}": value for key, value in LARS.items()}),
}
CHOSEN = {"knn": {"holdout_top1": 100.0}, "lbfgs": {"holdout_top1": 100.0, "penalty": 0.1}, "lars": {}}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_tells_the_share_of_test_images_that_it_gets_right_with_its_interval(
    name: str, digits: ImageData
) -> None:
    kind, settings = PROBES[name]
    seen = digits.test.labels.clone()
    seen[:80] = (seen[:80] + 1) % 10
    noise = torch.randn(len(digits.train.labels), 10)
    train = F.one_hot(digits.train.labels, 10) + 1e-2 * noise
    subject = Subject("pixels", "0123", None, {"train": train, "test": F.one_hot(seen, 10).float()})
    found = probe(kind, subject, Setup(build(TINY | settings), digits, CPU, Silent()))
    right, count = len(seen) - 80, len(seen)
    low, high = wilson_interval(right, count)
    assert found == pytest.approx({"top1": 100 * right / count, "low": low, "high": high} | CHOSEN[name])


@pytest.mark.parametrize("encoded", [True, False])
def test_features_are_of_the_labelled_training_images_and_of_all_test_images(
    encoded: bool, tiny: Config, digits: ImageData
) -> None:
    labels = torch.where(torch.arange(len(digits.train.labels)) % 3 == 0, -1, digits.train.labels)
    data = replace(digits, train=replace(digits.train, labels=labels))
    encoder = build_encoder(tiny)
    subject = Subject("untrained", "0123", around(encoder, tiny, data) if encoded else None)
    probe("knn", subject, Setup(tiny, data, CPU, Silent()))
    for split, chosen in (("train", (labels >= 0).nonzero()[:, 0]), ("test", torch.arange(len(data.test.labels)))):
        images = normalise(getattr(data, split).images.pixels[chosen].float() / 255, data)
        expected = encoder(images)[:, 1:].mean(1) if encoded else images.flatten(1)
        assert torch.allclose(subject.features[split], expected, atol=1e-4)


class Recorded(Silent):
    """Keeps how much was to be done in each task, and how much was done."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int, Counting]] = {}

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "") -> Iterator[Counting]:
        self.tasks[description] = (total, Counting())
        yield self.tasks[description][1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("knn", {"features of train images, pixels": 1437, "features of test images, pixels": 360}),
        ("lars", {"linear probe, pixels": 10}),
        ("lbfgs", {"linear probe, pixels": 3}),
    ],
)
def test_the_progress_of_a_probe_is_in_images_epochs_or_fits(
    name: str, expected: dict[str, int], digits: ImageData
) -> None:
    kind, settings = PROBES[name]
    known = {"train": torch.randn(1437, 4), "test": torch.randn(360, 4)} if kind == "linear" else {}
    progress = Recorded()
    probe(kind, Subject("pixels", "0123", None, known), Setup(build(TINY | settings), digits, CPU, progress))
    assert {description: total for description, (total, _) in progress.tasks.items()} == expected
    done = {description: task.done for description, (_, task) in progress.tasks.items()}
    assert done == {description: total - (name == "lbfgs") for description, total in expected.items()}  # less the last


def test_images_held_out_are_a_share_of_at_least_one_and_drawn_by_the_probes_seed() -> None:
    config = ProbeConfig(holdout_fraction=0.25)
    held, rest = holdout(40, config)
    assert len(held) == 10
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(40))
    assert torch.equal(held, holdout(40, config)[0])
    assert not torch.equal(held, holdout(40, ProbeConfig(holdout_fraction=0.25, seed=1))[0])
    assert [len(part) for part in holdout(3, ProbeConfig(holdout_fraction=0.1))] == [1, 2]


def test_the_images_that_probes_hold_out_and_a_run_is_watched_by_are_those_of_earlier_versions(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others change results: `ARITHMETIC` is raised with them."""
    assert holdout(10, ProbeConfig(holdout_fraction=0.3))[0].tolist() == [0, 3, 2]
    monkeypatch.setattr("mae.probing.online.extract", lambda pretext, images, chosen, *others: chosen[:, None].float())
    voted: list[list[float]] = []

    def vote(references: Pieces, labels: torch.Tensor, queries: Pieces, *others: Any) -> torch.Tensor:
        voted.append(torch.cat([*queries, *references])[:, 0].tolist())
        return torch.zeros(len(next(iter(queries))))

    monkeypatch.setattr("mae.probing.online.knn_predict", vote)
    data = replace(digits, train=replace(digits.train, labels=torch.zeros(10)))
    evaluate_online(new_pretext(build(TINY), digits), data)
    assert voted == [[0, 7, 2, 3, 8, 6, 9, 4, 1, 5]]


def test_the_lars_probe_augments_anew_each_epoch_and_by_its_seed(digits: ImageData) -> None:
    count = len(digits.train.labels)
    views = views_of_lars(digits, {"probe.linear.lars_epochs": 2})
    assert not torch.equal(views[:count], views[count:])
    assert torch.equal(views[:count], views_of_lars(digits, {}))
    assert not torch.equal(views[:count], views_of_lars(digits, {"probe.seed": 1}))


def test_the_lars_probe_takes_features_once_where_it_is_not_to_augment(digits: ImageData) -> None:
    encoder = Watched()
    known = {"train": torch.randn(len(digits.train.labels), 4), "test": torch.randn(len(digits.test.labels), 4)}
    config = build({"probe.linear.solver": "lars", "probe.linear.lars_epochs": 1, "probe.linear.lars_augment": False})
    probe(
        "linear",
        Subject("pretrained", "0123", around(encoder, config, digits), known),
        Setup(config, digits, CPU, Silent()),
    )
    assert encoder.seen == []


@pytest.mark.parametrize(
    ("accuracies", "grid", "chosen"),
    [
        ({1e-1: 1, 1e-2: 2, 1e-3: 3, 1e-4: 4, 1e-5: 3}, (1e-3, 1e-2, 1e-1), 1e-4),  # beyond the weak end
        ({1e-3: 1, 1e-2: 1, 1e-1: 2, 1e0: 3, 1e1: 2}, (1e-3, 1e-2, 1e-1), 1e0),  # beyond the strong end
        ({1e-1: 1, 1e-2: 2, 1e-3: 2, 1e-4: 9}, (1e-3, 1e-2, 1e-1), 1e-2),  # inside: no more are tried
        ({1e-1: 3, 1e-2: 2, 1e-3: 2, 1e-4: 9, 1e0: 1}, (1e-4, 1e-3, 1e-2, 1e-1), 1e-1),  # two in a row no better
        ({1e-3: 1}, (1e-3,), 1e-3),  # a single one is no grid
    ],
)
def test_penalties_are_tried_beyond_the_end_that_is_best(
    accuracies: dict[float, float], grid: tuple[float, ...], chosen: float
) -> None:
    def accuracy_of(penalty: float) -> float:
        return next(value for known, value in accuracies.items() if math.isclose(known, penalty))

    assert choose_penalty(grid, accuracy_of) == (pytest.approx(chosen), accuracy_of(chosen))


@pytest.mark.parametrize(
    ("accuracies", "tried"),
    [
        ([1, 2, 2, 2], [1e-1, 1e-2, 1e-3, 1e-4]),  # two in a row are no better than the second
        ([2, 1, 1, 9], [1e-1, 1e-2, 1e-3, 1.0]),  # ... than the first, which is an end
        ([1, 1, 1, 9], [1e-1, 1e-2, 1e-3, 1.0]),
        ([1, 3, 2, 4, 1], [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]),  # one that is no better stops nothing
    ],
)
def test_penalties_are_tried_from_the_strongest_until_two_in_a_row_are_no_better(
    accuracies: list[float], tried: list[float]
) -> None:
    asked: list[float] = []

    def accuracy_of(penalty: float) -> float:
        asked.append(penalty)
        assert len(asked) < 20
        return accuracies[len(asked) - 1] if len(asked) <= len(accuracies) else 0

    choose_penalty((1e-3, 1e-4, 1e-1, 1e-2, 1e-1), accuracy_of)
    assert asked[: len(tried)] == pytest.approx(tried)


@pytest.mark.parametrize(
    ("grid", "sign", "end"), [((1e-2, 1e-1), -1, 1e-10), ((1e-9, 1e-8), -1, 1e-10), ((1e-2, 1e-1), 1, 10.0)]
)
def test_penalties_that_never_get_worse_have_an_end(grid: tuple[float, ...], sign: int, end: float) -> None:
    asked: list[float] = []

    def accuracy_of(penalty: float) -> float:
        asked.append(penalty)
        assert len(asked) < 20
        return sign * penalty

    assert choose_penalty(grid, accuracy_of)[0] == pytest.approx(end)


def test_the_linear_probe_takes_a_penalty_beyond_its_grid(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = blobs
    config, split = LinearProbeConfig(penalties=(3.0, 10.0)), holdout(600, ProbeConfig(holdout_fraction=0.5))
    _, found = lbfgs_predict(features, labels, features, 3, config, split, SILENT)
    assert found["penalty"] < 1


def test_each_fit_begins_where_the_one_before_ended_and_the_last_at_the_best(
    blobs: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[torch.Tensor | None] = []
    ended: dict[float, torch.Tensor] = {}

    def fitted(features: Any, labels: Any, classes: int, penalty: float, *others: Any) -> torch.Tensor:
        began.append(others[2])
        return ended.setdefault(penalty, fit_logistic(features, labels, classes, penalty, *others))

    monkeypatch.setattr("mae.probing.linear.fit_logistic", fitted)
    features, labels = blobs
    config = LinearProbeConfig(penalties=(1e-3, 1e-2, 1.0, 3.0))
    _, found = lbfgs_predict(features, labels, features, 3, config, holdout(600, ProbeConfig()), SILENT)
    assert began[0] is None
    assert [start is end for start, end in zip(began[1:-1], ended.values(), strict=False)] == [True] * 3
    assert began[-1] is ended[found["penalty"]]
    assert found["penalty"] != [*ended][-1]


@pytest.mark.parametrize(("share", "held"), [(0.1, 7), (0.3, 21)])
def test_the_penalty_is_chosen_on_the_share_held_out(
    share: float, held: int, blobs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    features, labels = blobs[0][:70], (torch.arange(70) % 3 + (torch.arange(70) % 4 == 0)) % 3  # a quarter are wrong
    split = holdout(70, ProbeConfig(holdout_fraction=share))
    _, chosen = lbfgs_predict(features, labels, features, 3, LinearProbeConfig(), split, SILENT)
    right = chosen["holdout_top1"] / 100 * held
    assert 0 < right < held
    assert right == pytest.approx(round(right), abs=1e-4)  # an accuracy on so many images


@pytest.mark.parametrize("temperature", [0.07, 0.005])  # exp(1 / 0.005) is more than a 32-bit float holds
def test_knn_equals_scikit_learns_weighted_vote(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    references, queries = (torch.randn(n, 8, generator=generator) for n in (200, 50))
    labels = torch.arange(200) % 4
    theirs = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(references.double().numpy(), labels.numpy())
    ours = knn_predict([references], labels, [queries], 20, temperature, 4)
    assert ours.tolist() == theirs.predict(queries.double().numpy()).tolist()


def online(digits: ImageData, labels: torch.Tensor, shown: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the online accuracy on noisy training images (n, 1, 8, 8) in which the column `shown` is bright, and the
    images that the encoder saw."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 80, (len(labels), 1, 8, 8), generator=draws, dtype=torch.uint8)
    pixels[torch.arange(len(labels)), 0, :, shown] = 250
    encoder = Watched()
    data = replace(digits, train=Split(CachedImages(pixels), labels))
    return evaluate_online(around(encoder, build(TINY), data), data)[ONLINE], torch.cat(encoder.seen)


def test_the_evaluate_online_is_in_percent_and_finds_what_the_encoder_tells_apart(digits: ImageData) -> None:
    labels = torch.arange(60) % 4
    assert online(digits, labels, labels)[0] == 100
    assert online(digits, labels, labels * 0)[0] < 70  # images tell nothing; as references, all would know themselves


def test_the_evaluate_online_is_of_a_fifth_of_the_labelled_images_and_never_of_more_than_its_limits(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(90) % 3 - 1  # a third is not labelled
    accuracy, seen = online(digits, labels, torch.randint(0, 2, (90,)))
    assert len(seen) == 60 + 6 * 10  # and views of a tenth of the images
    assert accuracy * 12 / 100 == pytest.approx(round(accuracy * 12 / 100), abs=1e-4)
    monkeypatch.setattr("mae.probing.online.REFERENCES", 30)
    monkeypatch.setattr("mae.probing.online.QUERIES", 7)
    accuracy, seen = online(digits, labels, torch.randint(0, 2, (90,)))
    assert len(seen) == 37 + 4 * 10
    assert accuracy * 7 / 100 == pytest.approx(round(accuracy * 7 / 100), abs=1e-4)


def test_the_evaluate_online_is_of_the_same_images_in_every_run(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae.probing.online.REFERENCES", 20)
    labels = torch.arange(60) % 4
    seen = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        seen.append(online(digits, labels, labels)[1])
    assert torch.equal(*seen)


def test_the_evaluate_online_does_not_depend_on_how_a_run_is_probed(digits: ImageData, tmp_path: Path) -> None:
    curves = []
    for name, probed in (("as is", {}), ("other", {"probe.features": "both", "probe.knn.k": 400})):
        run = RunDirectory(tmp_path / name)
        config = build(TINY | {"train.epochs": 1, "run.picture_every": 0} | probed)
        pretrain(config, digits, run, CPU, Silent(), StopRequest(), evaluate_online)
        curves.append([point["metrics"].get(ONLINE) for point in run.read_metrics()])
    assert curves[0] == curves[1]
    assert curves[0][-1] is not None


def test_knn_with_more_neighbours_than_references_asks_them_all() -> None:
    assert knn_predict([torch.eye(2)], torch.tensor([0, 1]), [torch.eye(2)], 20, 0.07, 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("correct", "count", "interval"),
    [(81, 263, (25.53, 36.62)), (15, 148, (6.24, 16.05)), (0, 20, (0, 16.11)), (1, 29, (0.61, 17.18))],
)
def test_the_interval_is_wilsons(correct: int, count: int, interval: tuple[float, float]) -> None:
    """Newcombe, 1998, table I, method 3; and mirrored, where all but so many are correct."""
    low, high = interval
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=0.006)
    assert wilson_interval(count - correct, count) == pytest.approx((100 - high, 100 - low), abs=0.006)


def test_features_are_of_whole_unaugmented_images(tiny: Config, digits: ImageData) -> None:
    pretext, index = new_pretext(tiny, digits), torch.tensor([5, 2])
    features = extract(pretext, digits.test.images, index, "both", CPU, Silent())
    images = normalise(digits.test.images.pixels[index].float() / 255, digits)
    assert torch.allclose(features, pool(pretext.encoder(images), "both"), atol=1e-5)
    assert features.shape == (2, 32)


@pytest.mark.parametrize(
    ("kind", "expected"), [("class_token", [[1.0]]), ("patch_mean", [[3.0]]), ("both", [[1.0, 3.0]])]
)
def test_a_class_token_and_a_patch_mean_are_read_where_they_are(kind: str, expected: list[list[float]]) -> None:
    tokens = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert pool(tokens, kind).tolist() == expected


def test_every_channel_is_normalised_by_its_own_mean_and_deviation(digits: ImageData) -> None:
    data = replace(digits, mean=(0.25, 0.5, 0.0), std=(0.5, 0.25, 2.0))
    normalised = normalise(torch.full((1, 3, 2, 2), 0.5), data)
    assert normalised[0, :, 0, 0].tolist() == [0.5, 0.0, 0.25]
    assert normalised.shape == (1, 3, 2, 2)


@pytest.mark.parametrize("kind", ["class_token", "patch_mean", "both"])
def test_features_keep_no_other_token_in_memory(kind: str) -> None:
    features = pool(torch.zeros(4, 100, 8), kind)
    assert features.untyped_storage().nbytes() == features.nbytes


def test_raw_pixels_of_small_images_are_all_of_them_in_the_order_asked_for(tiny: Config, digits: ImageData) -> None:
    indexes = torch.arange(300).flip(0)
    raw = raw_pixels(digits.train.images.batches(indexes.split(200)), tiny.data, digits)
    expected = normalise(digits.train.images.pixels[indexes].float() / 255, digits).flatten(1)
    assert torch.allclose(torch.cat([*raw]), expected, atol=1e-6)


def test_features_are_told_of_as_they_are_there(tiny: Config, digits: ImageData) -> None:
    task, indexes = Counting(), torch.arange(300)
    extract(new_pretext(tiny, digits), digits.train.images, indexes, "both", CPU, task)
    assert task.done == 300


@pytest.mark.parametrize(("size", "kept"), [((64, 8), 32 * 8), ((8, 64), 8 * 32), ((33, 33), 32 * 32)])
def test_only_sides_longer_than_32_are_averaged_down(size: tuple[int, int], kept: int, digits: ImageData) -> None:
    images = torch.zeros(1, 1, *size, dtype=torch.uint8)
    config = DataConfig(image_size=size, channels=1, mean=(0.0,), std=(1.0,))
    assert next(raw_pixels([images], config, digits)).shape == (1, kept)


def test_raw_pixels_of_large_images_are_averaged_down(digits: ImageData) -> None:
    pixels = torch.arange(64 * 64).remainder(251).to(torch.uint8).view(1, 1, 64, 64)
    config = DataConfig(image_size=(64, 64), channels=1, mean=(0.0,), std=(1.0,))
    raw = next(raw_pixels([pixels], config, replace(digits, mean=(0.0,), std=(1.0,))))
    quarters = pixels.float().view(32, 2, 32, 2).mean(dim=(1, 3)) / 255
    assert torch.allclose(raw, quarters.view(1, -1), atol=1e-6)


def test_probing_changes_no_weight(tiny: Config, digits: ImageData, tmp_path: Path) -> None:
    pretext = new_pretext(tiny, digits)
    before = {name: value.clone() for name, value in pretext.state_dict().items()}
    extract(pretext, digits.test.images, torch.arange(10), "class_token", CPU, Silent())
    assert all(before[name].equal(value) for name, value in pretext.state_dict().items())
    assert pretext.encoder.training


def test_an_untrained_encoder_is_made_without_reading_an_image(digits: ImageData) -> None:
    config = build(TINY | {"target.kind": "pca"})
    pretrained = new_pretext(config, digits)
    away = Split(CachedImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)), digits.train.labels)
    untrained = subjects(config, replace(digits, train=away), pretrained)[1].pretext
    assert untrained is not None
    assert weights_digest(untrained.state_dict()) == weights_digest(pretrained.state_dict())


def test_the_pretrained_encoder_is_probed_beside_an_untrained_one_and_raw_pixels(digits: ImageData) -> None:
    config = build(TINY | {"train.seed": 5})
    pretext = new_pretext(config, digits)
    pretrained, untrained, pixels = subjects(config, digits, pretext)
    assert [pretrained.name, untrained.name, pixels.name] == ["pretrained", "untrained", "pixels"]
    assert (pretrained.pretext, pixels.pretext) == (pretext, None)
    assert pretrained.fingerprint == pretrain_fingerprint(config, digits.digest)
    torch.manual_seed(5)
    assert untrained.pretext is not None
    for ours, theirs in zip(untrained.pretext.encoder.parameters(), build_encoder(config).parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "digest", "same"),
    [
        ({}, "other", [False, False, False]),
        ({"mask.ratio": 0.5}, "d", [False, True, True]),
        ({"train.seed": 1}, "d", [False, False, True]),
        ({"model.encoder.depth": 1}, "d", [False, False, True]),
        ({"model.decoder.depth": 2}, "d", [False, True, True]),
    ],
)
def test_runs_share_the_baselines_that_are_the_same_for_them(
    settings: dict[str, Any], digest: str, same: list[bool], digits: ImageData
) -> None:
    """Of the pretrained encoder, the untrained one and raw pixels."""
    pretext = new_pretext(build(TINY), digits)
    first = subjects(build(TINY), replace(digits, digest="d"), pretext)
    other = subjects(build(TINY | settings), replace(digits, digest=digest), pretext)
    assert [a.fingerprint == b.fingerprint for a, b in zip(first, other, strict=True)] == same
    assert len({each.fingerprint for each in first}) == 3


def test_the_metrics_of_a_probe_are_the_encoders_and_those_of_its_baselines(
    tiny: Config, digits: ImageData, tmp_path: Path
) -> None:
    setup = Setup(tiny, digits, CPU, Silent())
    pretrained = Subject("pretrained", "01", None)
    baselines = [Subject("untrained", "02", new_pretext(tiny, digits)), Subject("pixels", "03", None)]
    expected = {f"knn/{name}": value for name, value in probe("knn", pretrained, setup).items()}
    for subject in baselines:
        for name, value in probe("knn", subject, setup).items():
            expected[f"knn/{subject.name}_{name}"] = value
    assert (
        probe_all("knn", [pretrained, *baselines], setup, tmp_path, RunDirectory(tmp_path / "saved"), last=False)
        == expected
    )
    assert set(expected) >= {"knn/top1", "knn/low", "knn/high", "knn/holdout_top1", "knn/pixels_top1"}
    assert sorted(path.name for path in (tmp_path / "baselines").iterdir()) == sorted(
        f"knn-{probe_fingerprint(tiny, 'knn', name)}" for name in ("02", "03")
    )
    for file in tmp_path.glob("baselines/*/result.json"):
        assert "holdout_top1" in file.read_text()
        file.write_text('{"top1": 12.5}')
    again = probe_all(
        "knn", [pretrained, *baselines], setup, tmp_path, RunDirectory(tmp_path / "saved"), last=False
    )  # what is known is not probed again
    assert (again["knn/top1"], again["knn/pixels_top1"]) == (expected["knn/top1"], 12.5)


def test_a_baseline_that_another_run_is_probing_is_waited_for(tiny: Config, digits: ImageData, tmp_path: Path) -> None:
    setup, pixels = Setup(tiny, digits, CPU, Silent()), Subject("pixels", "0123", None)
    directory = RunDirectory(tmp_path / "baselines" / f"knn-{probe_fingerprint(tiny, 'knn', '0123')}")
    found: list[dict[str, float]] = []
    waiting = threading.Thread(target=lambda: found.append(baseline("knn", pixels, setup, tmp_path)))
    with directory.locked():
        waiting.start()
        waiting.join(0.2)
        directory.write_json("result.json", {"top1": 12.5})
    waiting.join()
    assert found == [{"top1": 12.5}]


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_stops_when_asked_to(kind: ProbeKind, tiny: Config, digits: ImageData) -> None:
    stop = StopRequest()
    stop.number = signal.SIGTERM
    setup = Setup(tiny, digits, CPU, Silent(), stop)
    with pytest.raises(Interrupted):
        probe(kind, Subject("pixels", "0123", None), setup)


class StopAtCheck(StopRequest):
    """Asks to stop when it is looked at the `check`-th time."""

    def __init__(self, check: int) -> None:
        super().__init__()
        self.left = check

    def check(self) -> None:
        self.left -= 1
        if not self.left:
            raise Interrupted(signal.SIGTERM)


def test_a_probe_stops_in_the_middle_of_a_fit(tiny: Config, digits: ImageData) -> None:
    known = {"train": torch.randn(len(digits.train.labels), 3), "test": torch.randn(len(digits.test.labels), 3)}
    progress = Counting()
    with pytest.raises(Interrupted):
        probe("linear", Subject("pixels", "0123", None, known), Setup(tiny, digits, CPU, progress, StopAtCheck(3)))
    assert progress.done == 0  # of the penalties


def test_waiting_for_a_baseline_of_another_run_stops_when_asked_to(
    tiny: Config, digits: ImageData, tmp_path: Path
) -> None:
    directory = RunDirectory(tmp_path / "baselines" / f"knn-{probe_fingerprint(tiny, 'knn', '0123')}")
    setup = Setup(tiny, digits, CPU, Silent(), StopAtCheck(1))
    with directory.locked(), pytest.raises(Interrupted):
        baseline("knn", Subject("pixels", "0123", None), setup, tmp_path)


def test_every_kind_of_probe_has_a_setting_a_name_and_a_mark_of_its_own() -> None:
    assert list(get_args(ProbeKind)) == list(kinds.PROBES) == list(PREDICT)
    assert len({probe.marker for probe in kinds.PROBES.values()}) == len(kinds.PROBES)
