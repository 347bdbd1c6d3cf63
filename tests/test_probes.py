import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from mae.config import Config, DataConfig, LinearProbeConfig, ProbeKind
from mae.data import CachedImages, ImageData
from mae.features import extract, normalise, pool, raw_pixels
from mae.fingerprint import probe_fingerprint
from mae.interruption import Interrupted, StoppableProgress, StopRequest
from mae.knn import knn_predict
from mae.linear_probe import fit_logistic, lars_predict, lbfgs_predict, standardise
from mae.model import build_encoder
from mae.probing import Setup, Subject, baseline, bootstrap_interval, probe
from mae.progress import Silent
from mae.run_directory import RunDirectory

CPU = torch.device("cpu")


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping classes in 5 dimensions, unevenly scaled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    centres = 1.5 * torch.randn(3, 5, generator=generator)
    noise = torch.randn(600, 5, generator=generator)
    return (centres[labels] + noise) * torch.tensor([1.0, 10.0, 0.1, 1.0, 5.0]) + 3, labels


def test_logistic_regression_equals_scikit_learns(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    (features,), labels = standardise(blobs[0]), blobs[1]
    *_, ours = fit_logistic(features, labels, 3, [1.0, 1e-2], Silent())
    theirs = LogisticRegression(C=1 / (1e-2 * 600), tol=1e-8, max_iter=1000).fit(features.numpy(), labels.numpy())
    assert np.allclose(ours[:, :-1], theirs.coef_, atol=2e-3)


def test_standardised_training_features_have_mean_0_and_deviation_1(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    train, shifted = standardise(blobs[0], blobs[0] + blobs[0].std(0, unbiased=False))
    assert torch.allclose(train.std(0, unbiased=False), torch.ones(5), atol=1e-3)
    assert torch.allclose(shifted.mean(0), torch.ones(5), atol=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "lars"])
def test_linear_probes_find_a_linear_rule(solver: str, blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, labels = blobs
    train, test = features[:400], features[400:]
    config = LinearProbeConfig(lars_batch_size=100, lars_epochs=30, lars_warmup_epochs=1.0, lars_base_lr=20.0)
    if solver == "lbfgs":
        predicted, _ = lbfgs_predict(train, labels[:400], test, 3, config, 0, Silent())
    else:
        predicted, _ = lars_predict(lambda epoch: train, labels[:400], test, 3, config, 0, Silent())
    best = LogisticRegression().fit(standardise(train)[0].numpy(), labels[:400].numpy())
    reference = best.score(standardise(train, test)[1].numpy(), labels[400:].numpy())
    assert (predicted == labels[400:]).float().mean() > reference - 0.05


@pytest.mark.parametrize(("share", "held"), [(0.1, 7), (0.3, 21)])
def test_the_penalty_is_chosen_on_the_share_held_out(
    share: float, held: int, blobs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    features, labels = blobs[0][:70], (torch.arange(70) % 3 + (torch.arange(70) % 4 == 0)) % 3  # a quarter are wrong
    config = LinearProbeConfig(holdout_fraction=share)
    _, chosen = lbfgs_predict(features, labels, features, 3, config, 0, Silent())
    right = chosen["holdout_top1"] / 100 * held
    assert 0 < right < held
    assert right == pytest.approx(round(right), abs=1e-4)  # an accuracy on so many images


def test_knn_equals_scikit_learns_weighted_vote() -> None:
    generator = torch.Generator().manual_seed(0)
    references, queries = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (200, 50))
    labels = torch.arange(200) % 4
    theirs = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(references.numpy(), labels.numpy())
    ours = knn_predict(references, labels, queries, 20, 0.07, 4)
    assert ours.tolist() == theirs.predict(queries.numpy()).tolist()


def test_knn_with_more_neighbours_than_references_asks_them_all() -> None:
    assert knn_predict(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), 20, 0.07, 2).tolist() == [0, 1]


def test_the_bootstrap_interval_is_that_of_resampling() -> None:
    resampled = np.random.default_rng(0).binomial(200, 0.8, 200_000) / 2
    assert bootstrap_interval(160, 200) == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.51)


def test_features_are_of_whole_unaugmented_images(tiny: Config, digits: ImageData) -> None:
    encoder, index = build_encoder(tiny), torch.tensor([5, 2])
    features = extract(encoder, digits.test.images, index, tiny.data, digits, "both", CPU, Silent())
    images = normalise(digits.test.images.pixels[index].float() / 255, digits)
    assert torch.allclose(features, pool(encoder(images), "both"), atol=1e-5)
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


class Counting(Silent):
    """Counts the images it is told of."""

    def __init__(self) -> None:
        self.images = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.images += amount


def test_raw_pixels_of_small_images_are_all_of_them_in_the_order_asked_for(tiny: Config, digits: ImageData) -> None:
    indexes, task = torch.arange(300).flip(0), Counting()
    raw = raw_pixels(digits.train.images, indexes, tiny.data, digits, task)
    expected = normalise(digits.train.images.pixels[indexes].float() / 255, digits).flatten(1)
    assert torch.allclose(raw, expected, atol=1e-6)
    assert task.images == 300


@pytest.mark.parametrize(("size", "kept"), [((64, 8), 32 * 8), ((8, 64), 8 * 32), ((33, 33), 32 * 32)])
def test_only_sides_longer_than_32_are_averaged_down(size: tuple[int, int], kept: int, digits: ImageData) -> None:
    images = CachedImages(torch.zeros(1, 1, *size, dtype=torch.uint8))
    config = DataConfig(image_size=size, mean=(0.0,), std=(1.0,))
    assert raw_pixels(images, torch.tensor([0]), config, digits, Silent()).shape == (1, kept)


def test_raw_pixels_of_large_images_are_averaged_down(digits: ImageData) -> None:
    pixels = torch.arange(64 * 64).remainder(251).to(torch.uint8).view(1, 1, 64, 64)
    config = DataConfig(image_size=(64, 64), mean=(0.0,), std=(1.0,))
    raw = raw_pixels(
        CachedImages(pixels), torch.tensor([0]), config, replace(digits, mean=(0.0,), std=(1.0,)), Silent()
    )
    quarters = pixels.float().view(32, 2, 32, 2).mean(dim=(1, 3)) / 255
    assert torch.allclose(raw, quarters.view(1, -1), atol=1e-6)


def test_probing_changes_no_weight(tiny: Config, digits: ImageData, tmp_path: Path) -> None:
    encoder = build_encoder(tiny)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    extract(encoder, digits.test.images, torch.arange(10), tiny.data, digits, "class_token", CPU, Silent())
    assert all(before[name].equal(value) for name, value in encoder.state_dict().items())
    assert encoder.training


def test_a_baseline_that_another_run_is_probing_is_waited_for(tiny: Config, digits: ImageData, tmp_path: Path) -> None:
    setup, pixels = Setup(tiny, digits, CPU, Silent()), Subject("pixels", "0123", None)
    shelf = RunDirectory(tmp_path / "baselines" / f"knn-{probe_fingerprint(tiny, 'knn', '0123')}")
    found: list[dict[str, float]] = []
    waiting = threading.Thread(target=lambda: found.append(baseline("knn", pixels, setup, tmp_path)))
    with shelf.locked():
        waiting.start()
        waiting.join(0.2)
        shelf.write_json("result.json", {"top1": 12.5})
    waiting.join()
    assert found == [{"top1": 12.5}]


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_probe_stops_when_asked_to(kind: ProbeKind, tiny: Config, digits: ImageData) -> None:
    stop = StopRequest()
    stop.number = signal.SIGTERM
    setup = Setup(tiny, digits, CPU, StoppableProgress(Silent(), stop))
    with pytest.raises(Interrupted):
        probe(kind, Subject("pixels", "0123", None), setup)
