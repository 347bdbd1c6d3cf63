"""The online evaluation without labels: which images, which views, and what it leaves as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import CachedImages, ImageData, Split
from mae.pretext.registry import new_pretext
from mae.probing.effective_rank import rankme
from mae.probing.features import extract
from mae.probing.online import encoded, evaluate_online
from mae.runs.directory import RunDirectory
from mae.runs.metrics import LIDAR, RANKME
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.training.loop import pretrain
from tests.conftest import TINY
from tests.helpers.pretexts import around

CPU = torch.device("cpu")
QUICK = TINY | {"run.picture_every": 0}


class Watched(nn.Module):
    """Keeps every image that it is shown; its tokens are the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.flatten(1)[:, None].expand(-1, 2, -1)


def unlabelled(data: ImageData, count: int) -> ImageData:
    """The first training images without their labels."""
    images = CachedImages(data.train.images.pixels[:count])
    return replace(data, train=Split(images, torch.full((count,), -1)))


def images_and_views(config: Config, data: ImageData) -> tuple[Tensor, Tensor]:
    """Return the images that an evaluation encodes, (n, 1, 8, 8), and the views of LiDAR, (n / 10, 10, 1, 8, 8)."""
    encoder = Watched()
    evaluate_online(around(encoder, config, data), data)
    seen, count = torch.cat(encoder.seen), len(data.train.labels)
    return seen[:count], seen[count:].unflatten(0, (-1, 10))


def train(config: Config, data: ImageData, folder: Path, evaluate: Any = evaluate_online) -> dict[str, Any]:
    return pretrain(config, data, RunDirectory(folder), CPU, Silent(), StopRequest(), evaluate)


def test_a_training_tracks_both_ranks_beside_the_k_nn(digits: ImageData, tmp_path: Path) -> None:
    train(build(QUICK | {"run.knn_every": 1}), digits, tmp_path)
    points = [point["metrics"] for point in RunDirectory(tmp_path).read_metrics() if RANKME in point["metrics"]]
    assert len(points) == 2
    assert all(1 <= point[name] <= 16 for point in points for name in (RANKME, LIDAR))
    assert points[0][RANKME] != points[1][RANKME]
    assert points[0][LIDAR] != points[1][LIDAR]


def test_evaluations_leave_the_weights_and_the_losses_of_a_training_as_they_are(
    digits: ImageData, tmp_path: Path
) -> None:
    config = build(QUICK | {"run.knn_every": 1})
    results = [train(config, digits, tmp_path / "with"), train(config, digits, tmp_path / "without", lambda *_: {})]
    losses = [
        [point["metrics"]["train/loss"] for point in RunDirectory(tmp_path / name).read_metrics()]
        for name in ("with", "without")
    ]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert losses[0] == losses[1]


def test_an_evaluation_draws_nothing_from_the_generator_of_all(digits: ImageData) -> None:
    pretext, before = new_pretext(build(TINY), digits), torch.get_rng_state()
    first = evaluate_online(pretext, digits)
    assert torch.equal(torch.get_rng_state(), before)
    assert evaluate_online(pretext, digits) == first


def test_rankme_is_of_the_features_that_vote(digits: ImageData) -> None:
    pretext = new_pretext(build(TINY), digits)
    features = extract(
        pretext, digits.train.images, torch.arange(len(digits.train.labels)), "patch_mean", CPU, Silent()
    )
    assert evaluate_online(pretext, digits)[RANKME] == pytest.approx(rankme(features), rel=1e-6)


def test_images_without_a_label_have_ranks_and_no_accuracy(digits: ImageData) -> None:
    assert evaluate_online(new_pretext(build(TINY), digits), unlabelled(digits, 60)).keys() == {RANKME, LIDAR}


def test_a_training_without_labels_is_not_pruned(digits: ImageData, tmp_path: Path) -> None:
    data, folder = unlabelled(digits, 256), RunDirectory(tmp_path)
    config = build(QUICK | {"run.knn_every": 1})
    pretrain(config, data, folder, CPU, Silent(), StopRequest(), evaluate_online, watch=lambda *_: "it was asked")
    assert RANKME in folder.read_metrics()[-1]["metrics"]


def test_views_are_ten_of_each_image(digits: ImageData) -> None:
    brightness = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 1, 8, 8).contiguous()
    data = replace(digits, train=Split(CachedImages(brightness), torch.full((60,), -1)))
    images, views = images_and_views(build(TINY), data)
    assert views.shape == (6, 10, 1, 8, 8)
    assert torch.allclose(views, images[:6, None].expand_as(views), atol=1e-5)


def test_views_of_an_image_differ(digits: ImageData) -> None:
    _, views = images_and_views(build(TINY), unlabelled(digits, 60))
    assert all(len(each.flatten(1).unique(dim=0)) >= 6 for each in views)  # of 8 x 8 pixels some crops are the same


def test_views_are_the_same_in_every_run_and_at_every_batch_size(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed, at_once in ((0, 128), (1, 20)):
        monkeypatch.setattr("mae.probing.features.BATCH", at_once)
        found.append(images_and_views(build(TINY | {"train.seed": seed}), unlabelled(digits, 60))[1])
    assert torch.equal(*found)


def bright_on_the_left(data: ImageData) -> ImageData:
    pixels = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    pixels[..., :2] = 250
    return replace(data, train=Split(CachedImages(pixels), torch.full((60,), -1)))


@pytest.mark.parametrize("augmentation", ["none", "fixed_crop", "random_resized_crop"])
@pytest.mark.parametrize("flip", [False, True])
def test_views_are_mirrored_only_where_the_pretrainings_images_are(
    augmentation: str, flip: bool, digits: ImageData
) -> None:
    config = build(TINY | {"data.augmentation": augmentation, "data.flip": flip})
    _, views = images_and_views(config, bright_on_the_left(digits))
    columns = views.mean(dim=(2, 3)).flatten(0, 1)
    mirrored = (columns[:, 4:].sum(1) > columns[:, :4].sum(1)).float().mean().item()
    assert 0.3 < mirrored < 0.7 if flip else mirrored == 0


def test_without_augmentation_views_are_crops_of_the_default_scale_whatever_the_scale_that_does_not_act(
    digits: ImageData,
) -> None:
    config, data = build(TINY), unlabelled(digits, 60)
    cropped = config.data.model_copy(update={"augmentation": "random_resized_crop", "crop_scale": (0.5, 1.0)})
    plain = config.data.model_copy(update={"augmentation": "none", "crop_scale": (0.1, 0.2)})
    found = [images_and_views(config.model_copy(update={"data": each}), data)[1] for each in (cropped, plain)]
    assert torch.equal(*found)


def test_views_of_colour_jitter_are_jittered(digits: ImageData) -> None:
    settings = TINY | {"data.augmentation": "color_jitter"}
    data = replace(
        digits, train=Split(CachedImages(torch.full((60, 1, 8, 8), 120, dtype=torch.uint8)), torch.zeros(60) - 1)
    )
    _, views = images_and_views(build(settings), data)
    assert len(views.mean(dim=(2, 3, 4)).unique()) > 50


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, (1, 10)), (1437, (1437, 1440)), (50_000, (12_000, 10_000)), (1_281_167, (12_000, 10_000))],
)
def test_views_are_about_as_many_as_images_and_never_more_than_ten_thousand(
    images: int, expected: tuple[int, int]
) -> None:
    assert encoded(images) == expected
