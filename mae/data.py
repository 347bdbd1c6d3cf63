"""Decoded images, ready for training: a memory-mapped uint8 cache keyed by content, built once."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.config import DataConfig, RunConfig
from mae.errors import RunError, UserError
from mae.image_files import Pixels
from mae.progress import Progress
from mae.sources import Source, SourceSplit, cache_folder, open_source


@dataclass(frozen=True)
class Images:
    """uint8 images (N, C, H, W) of one split, at their stored size; memory-mapped."""

    pixels: Tensor

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 (n, C, H, W) for each 1-D int64 tensor of indexes, in order."""
        for chosen in indexes:
            yield self.pixels[chosen]


@dataclass(frozen=True)
class Split:
    """Images and their labels, int64 (N,), -1 where there is none."""

    images: Images
    labels: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set: mean and standard deviation are per channel, of training pixels in 0..1."""

    source: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: int

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data, for a run's record."""
        return {
            "source": self.source,
            "digest": self.digest,
            "train_images": len(self.train.labels),
            "test_images": len(self.test.labels),
            "classes": len(self.classes),
            "skipped": self.skipped,
        }


def load_data(data: DataConfig, run: RunConfig, progress: Progress) -> ImageData:
    """Return the data set, decoding it into the cache on first use; one process decodes, others wait for it."""
    source = open_source(data, progress)
    folder = cache_folder() / f"images-{_cache_key(data, source)}"
    _refuse_too_large(data, run, source)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "meta.json").exists():
                _build(folder, data, run, source, progress)
    except OSError as error:
        raise RunError(f"cannot write the image cache {folder}: {error.strerror}; set MAE_CACHE_DIR") from error
    meta = json.loads((folder / "meta.json").read_text())
    train, test = (_open_split(folder, name) for name in ("train", "test"))
    return ImageData(
        source=data.source,
        train=train,
        test=test,
        classes=source.classes,
        digest=source.digest,
        mean=data.mean or tuple(meta["mean"]),
        std=data.std or tuple(meta["std"]),
        skipped=meta["skipped"],
    )


def data_digest(data: DataConfig, progress: Progress) -> str:
    """Return what identifies the content of a data set, without decoding it."""
    return open_source(data, progress).digest


def _cache_key(data: DataConfig, source: Source) -> str:
    parts = [source.digest, data.stored, data.channels, data.test_fraction, data.split_seed, data.skip_bad_images]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _refuse_too_large(data: DataConfig, run: RunConfig, source: Source) -> None:
    count = len(source.train.labels) + len(source.test.labels)
    gigabytes = count * data.channels * data.stored[0] * data.stored[1] / 1e9
    if gigabytes > run.cache_limit_gb:
        raise UserError(
            f"{data.source} takes {gigabytes:.1f} GB decoded, more than run.cache_limit_gb={run.cache_limit_gb}; "
            "raise it, or lower data.stored_size"
        )


def _build(folder: Path, data: DataConfig, run: RunConfig, source: Source, progress: Progress) -> None:
    """Decode both splits beside `folder`, then move them there: a build that was killed leaves nothing in use."""
    building = folder.with_suffix(".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    skipped = 0
    for name, split in (("train", source.train), ("test", source.test)):
        skipped += _decode_split(building, name, split, data, run.loader_workers, progress)
    mean, std = _moments(_open_split(building, "train").images.pixels)
    (building / "meta.json").write_text(json.dumps({"mean": mean, "std": std, "skipped": skipped}))
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


def _decode_split(
    folder: Path, name: str, split: SourceSplit, data: DataConfig, workers: int, progress: Progress
) -> int:
    """Write NAME.npy and NAME-labels.npy; return how many images were left out. PIL decodes outside the GIL."""
    shape = (len(split.labels), data.channels, *data.stored)
    pixels = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
    bad: list[int] = []

    def decode_at(index: int) -> Pixels | None:
        try:
            return split.decode(index)
        except UserError:
            if not data.skip_bad_images:
                raise
            return None

    with progress.task(f"decoding {name} images", len(split.labels)) as task, ThreadPoolExecutor(workers) as pool:
        try:
            for index, image in enumerate(pool.map(decode_at, range(len(split.labels)))):
                if image is None:
                    bad.append(index)
                else:
                    pixels[index] = image
                task.advance()
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    pixels.flush()
    labels = split.labels
    if bad:
        good = np.delete(np.arange(len(labels)), bad)
        np.save(folder / f"{name}.npy", pixels[good])
        labels = labels[good]
        progress.say(f"left out {len(bad)} unreadable {name} image(s)")
    np.save(folder / f"{name}-labels.npy", labels)
    return len(bad)


def _open_split(folder: Path, name: str) -> Split:
    # Mapped copy-on-write: torch wants writable memory, the file stays as it is.
    pixels = torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))
    return Split(Images(pixels), torch.from_numpy(np.load(folder / f"{name}-labels.npy")))


def _moments(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 (N, C, H, W), of pixels in 0..1."""
    count = pixels.numel() // pixels.shape[1]
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    squares = total.clone()
    for part in pixels.split(4096):
        scaled = part.double() / 255
        total += scaled.sum(dim=(0, 2, 3))
        squares += scaled.square().sum(dim=(0, 2, 3))
    mean = total / count
    return mean.tolist(), (squares / count - mean.square()).clamp(min=1e-12).sqrt().tolist()
