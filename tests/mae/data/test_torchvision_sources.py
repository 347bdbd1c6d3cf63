"""With small classes in the place of torchvision's, of the same constructors and attributes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mae.config.resolve import build
from mae.data.dataset import ImageData, load_data
from mae.data.image_files import to_pixels
from mae.errors import RunError
from mae.probing.probe import probe
from mae.probing.subject import Setup, Subject
from mae.runtime.progress import Silent


class Cifar:
    """Twelve images whose value is their index, 100 more for testing; CIFAR10's interface."""

    classes = ("cat", "dog", "owl")

    def __init__(self, root: str, train: bool = True, download: bool = False):
        self.data = np.zeros((12, 8, 8, 3), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None]
        if not train:
            self.data += 100
        self.targets = [index % 3 for index in range(12)]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), self.targets[index]


class OtherCifar(Cifar):
    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        self.data[0, 0, 0, 0] += 1


class Stl(Cifar):
    """STL10's interface: channels first, and a quarter of the training images has no label."""

    def __init__(self, root: str, split: str = "train", download: bool = False):
        super().__init__(root, split != "test", download)
        self.data = self.data.transpose(0, 3, 1, 2)
        self.data[:, 1] = 7  # green
        self.labels = np.array(self.targets)
        if split == "train+unlabeled":
            self.labels[9:] = -1
        del self.targets

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index].transpose(1, 2, 0)), int(self.labels[index])


class Flowers:
    """Flowers102's interface: three splits, image files, no names of classes."""

    def __init__(self, root: str, split: str = "train", download: bool = False):
        self._image_files = []
        self._labels = [0, 10]
        for value in {"train": (10, 11), "val": (20, 21), "test": (30, 31)}[split]:
            path = Path(root) / f"{value}.png"
            Image.new("RGB", (8, 8), (value,) * 3).save(path)
            self._image_files.append(path)

    def __len__(self) -> int:
        return len(self._image_files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return datasets.folder.default_loader(self._image_files[index]), self._labels[index]


class Food(Flowers):
    """Food101's interface: as Flowers102's, without `val`; here of photographs as they are found."""

    classes = ("apple_pie", "waffles")

    def __init__(self, root: str, split: str = "train", download: bool = False):
        self._image_files = [Path(root) / f"{split}-{mode}.jpg" for mode in ("RGB", "L", "CMYK")]
        self._labels = [0, 1, 1]
        for path in self._image_files:
            photograph(path, path.stem.split("-")[1])


class ImageNet(datasets.ImageFolder):
    """ImageNet's interface; it is an ImageFolder there too."""

    def __init__(self, root: str, split: str):
        for name in ("n01", "n02"):
            (Path(root) / split / name).mkdir(parents=True, exist_ok=True)
            photograph(Path(root) / split / name / f"{name}_1.JPEG", "RGB")
        super().__init__(str(Path(root) / split))


def photograph(path: Path, mode: str) -> None:
    """Write a JPEG of 20 x 30 noise pixels that says it lies on its side."""
    noise = np.random.default_rng(len(str(path))).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise).convert(mode).save(path, "JPEG", exif=exif)


CLASSES = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "stl10": "STL10",
    "flowers102": "Flowers102",
    "food101": "Food101",
    "imagenet": "ImageNet",
}


def load(source: str, fake: type, monkeypatch: pytest.MonkeyPatch, channels: int = 3, **run: float) -> ImageData:
    monkeypatch.setattr(datasets, CLASSES[source.split(":")[0]], fake)
    images = {"data.source": source, "data.image_size": 8, "data.channels": channels}
    config = build(images | {f"run.{key}": value for key, value in run.items()})
    return load_data(config.data, config.run, Silent())


def values(data: ImageData, split: str) -> list[int]:
    part = getattr(data, split)
    return next(iter(part.images.batches([torch.arange(len(part.labels))])))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("source", "fake", "split"),
    [
        ("cifar10", Cifar, {"train": True}),
        ("stl10", Stl, {"split": "train+unlabeled"}),
        ("flowers102", Flowers, {"split": "train"}),
        ("food101", Food, {"split": "train"}),
        ("imagenet", ImageNet, {"split": "train"}),
    ],
)
@pytest.mark.parametrize(("channels", "limit"), [(1, 1.0), (3, 0.0)])
def test_pixels_are_those_of_the_data_set(
    channels: int,
    source: str,
    fake: Any,
    split: dict[str, Any],
    limit: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    data = load(f"{source}:{tmp_path}", fake, monkeypatch, channels, cache_limit_gb=limit, loader_workers=1)
    direct = fake(str(tmp_path), **split)
    expected = np.stack([to_pixels(direct[index][0], (8, 8), channels) for index in range(len(direct))])
    first = next(iter(data.train.images.batches([torch.arange(len(direct))])))
    assert first.numpy().tobytes() == expected.tobytes()


def test_both_splits_have_their_images_labels_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("cifar10", Cifar, monkeypatch)
    assert values(data, "train") == list(range(12))
    assert values(data, "test") == list(range(100, 112))
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2] * 4
    assert data.classes == ("cat", "dog", "owl")


def test_a_torchvision_data_set_can_be_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("cifar10", Cifar, monkeypatch, cache_limit_gb=0.0, loader_workers=1)
    assert values(data, "train") == list(range(12))


def test_flowers_train_on_their_two_small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("flowers102", Flowers, monkeypatch)
    assert values(data, "train") == [10, 11, 20, 21]
    assert data.train.labels.tolist() == [0, 10, 0, 10]
    assert data.classes == tuple(str(label) for label in range(11))


def test_images_without_label_are_trained_on_but_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("stl10", Stl, monkeypatch)
    assert data.train.labels.tolist() == [0, 1, 2] * 3 + [-1] * 3
    assert values(data, "train") == list(range(12))
    config = build({"data.source": "stl10", "data.image_size": 8, "probe.knn.k": 12})
    result = probe("knn", Subject("pixels", "", None), Setup(config, data, torch.device("cpu"), Silent()))
    assert 0 <= result["top1"] <= 100


def test_the_digest_is_of_name_and_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [("cifar10", Cifar), ("cifar100", Cifar), ("cifar10", OtherCifar)]
    assert len({load(source, fake, monkeypatch).digest for source, fake in sets}) == 3


def test_a_failed_download_fails_the_run_with_its_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(root: str, train: bool, download: bool) -> None:
        raise RuntimeError("<urlopen error: no route to host>")

    with pytest.raises(RunError, match=r"CIFAR10 .*no route to host.*folder:PATH"):
        load("cifar10", unreachable, monkeypatch)  # type: ignore[arg-type]
