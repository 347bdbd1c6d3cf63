"""Images ready for training: a memory-mapped uint8 cache keyed by content, built once; or streamed, if too large."""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from mae.config.data_section import DataConfig
from mae.config.fingerprint import ARITHMETIC
from mae.config.tree import RunConfig
from mae.data.decode_workers import Examined, Workers, examine_in_threads
from mae.data.image_files import shown
from mae.data.sources import Source, SourceSplit, cache_folder, found_in_words, open_source
from mae.data.streaming import StreamedImages
from mae.data.video_files import decoder_version
from mae.errors import RunError, UserError
from mae.runtime.distributed import launched
from mae.runtime.progress import Progress

Splits = dict[str, SourceSplit]
"""What is decoded into a cache, by name: `train` and `test`."""


class Images(Protocol):
    """uint8 images (N, C, H, W), or clips (N, C, T, H, W), of one split, at their stored size."""

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 (n, C, H, W) for each 1-D int64 tensor of indexes, in order."""


@dataclass(frozen=True)
class CachedImages:
    """Images kept decoded: `pixels` is uint8 (N, C, H, W), memory-mapped or on a GPU, where batches then are too."""

    pixels: Tensor

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        shape, pinned = self.pixels.shape[1:], torch.cuda.is_initialized()
        for chosen in indexes:
            if self.pixels.device.type != "cpu" or not self.pixels.is_contiguous():  # NumPy would copy all images first
                yield self.pixels[chosen.to(self.pixels.device)]
                continue
            batch = torch.empty((len(chosen), *shape), dtype=torch.uint8, pin_memory=pinned)
            # NumPy copies whole images, PyTorch byte by byte: ten times slower. "raise" would copy twice.
            np.take(self.pixels.numpy(), chosen.numpy(), axis=0, out=batch.numpy(), mode="clip")
            yield batch


@dataclass(frozen=True)
class Split:
    """Images and their labels, int64 (N,), -1 where there is none."""

    images: Images
    labels: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set: mean and standard deviation are per channel, of training pixels in 0..1.

    `digest` identifies images and split, by every byte or, where that takes too long, by less: see `identified_by`.
    `left_out` has a line per file that could not be read, `remarks` what people should know of the rest.
    """

    source: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    digest: str
    identified_by: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether there are labels: images that have none can be pretrained on, and not be probed on."""
        return bool(self.classes)

    def told(self) -> str:
        """Return what was found, in one line."""
        counts = {"train": len(self.train.labels), "test": len(self.test.labels)}
        return found_in_words(self.source, counts, len(self.classes), self.remarks, len(self.left_out))

    def on(self, device: torch.device) -> "ImageData":
        """Return the data with the training images on a GPU if they take less than half of its free memory.

        Else, and on a CPU, they stay where they are. A batch gathered on a GPU need not come from disk or memory.
        """
        images = self.train.images
        if not isinstance(images, CachedImages) or images.pixels.nbytes >= _free_bytes(device) / 2:
            return self
        return replace(self, train=replace(self.train, images=CachedImages(images.pixels.to(device))))

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data, and all of `DataFacts`, for a run's record."""
        return {
            "source": self.source,
            "digest": self.digest,
            "identified_by": self.identified_by,
            "train_images": len(self.train.labels),
            "test_images": len(self.test.labels),
            "classes": len(self.classes),
            "skipped": len(self.left_out),
            "mean": self.mean,
            "std": self.std,
            "class_names": [shown(Path(name)) for name in self.classes],
        }


def load_data(data: DataConfig, run: RunConfig, progress: Progress) -> ImageData:
    """Return the data set; the first use decodes every image once, in one process, while others wait for it.

    Pixels are kept in the cache folder if they take at most `run.cache_limit_gb`, otherwise decoded again at each use.
    """
    source = open_source(data, progress)
    splits = {"train": source.train, "test": source.test}
    decoded_gb = sum(len(split.labels) for split in splits.values()) * math.prod(_shape(data)) / 1e9
    streamed = decoded_gb > run.cache_limit_gb
    folder = cache_folder() / f"{'survey' if streamed else 'pixels'}-{_cache_key(data, source)}"
    image_bytes = 0 if streamed else math.prod(_shape(data))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workers = _workers(splits, run, folder.parent) if streamed else None
        meta = _finished(folder, splits, image_bytes)
        if meta is None:
            with open(folder.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                meta = _finished(folder, splits, image_bytes) or _build(folder, data, run, splits, workers, progress)
    except OSError as error:
        raise RunError(f"cannot write the image cache {folder}: {error.strerror}; set MAE_CACHE_DIR") from error
    with suppress(OSError):  # a folder that may only be read
        (folder / "meta.json").touch()  # tells `mae.runs.housekeeping` when the cache was last used
    opened = {}
    for name, split in splits.items():
        readable = np.delete(np.arange(len(split.labels)), [index for index, _ in meta["bad"][name]])
        images = StreamedImages(workers, name, readable) if workers else _map(folder / name, len(readable), data)
        opened[name] = Split(images, torch.from_numpy(split.labels[readable]))
    return ImageData(
        source=data.source,
        train=opened["train"],
        test=opened["test"],
        classes=source.classes,
        digest=source.digest,
        identified_by=source.identity.covers,
        mean=data.mean or tuple(meta["mean"]),
        std=data.std or tuple(meta["std"]),
        left_out=source.left_out + _named(splits, meta),
        remarks=source.remarks,
    )


def _named(splits: Splits, meta: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{splits[name].name(index)}: {why}" for name, bad in meta["bad"].items() for index, why in bad)


def data_digest(data: DataConfig, progress: Progress) -> str:
    """Return what identifies the content of a data set, without decoding it."""
    return open_source(data, progress).digest


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _shape(data: DataConfig) -> tuple[int, ...]:
    return data.channels, *data.stored


def _cache_key(data: DataConfig, source: Source) -> str:
    """Return what decides which pixels there are: images, settings, and the code here and in libraries."""
    decoders = [PIL.__version__, *map(features.version, ("jpg", "libjpeg_turbo", "webp"))]
    bad = "left out, with reasons" if data.skip_bad_images else False
    parts = [source.digest, data.stored, data.channels, bad, ARITHMETIC, decoders]
    if data.has_clips:
        parts += [data.frame_stride, decoder_version(), "turned as held"]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _workers(splits: Splits, run: RunConfig, folder: Path) -> Workers:
    count = run.loader_workers or max(1, run.workers // launched().local_count)  # every process has its own
    return Workers({name: split.decode for name, split in splits.items()}, count, folder)


def _finished(folder: Path, splits: Splits, image_bytes: int) -> dict[str, Any] | None:
    """Return the cache's `meta.json`, or None where there is no cache or a file of it is missing, torn or cut off."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        for name, split in splits.items():
            if (folder / name).stat().st_size != image_bytes * (len(split.labels) - len(meta["bad"][name])):
                return None
    except (FileNotFoundError, ValueError):
        return None
    return meta


def _build(
    folder: Path, data: DataConfig, run: RunConfig, splits: Splits, workers: Workers | None, progress: Progress
) -> dict[str, Any]:
    """Write every split's pixels and `meta.json`, which is returned; with workers, which are there to stream, the
    pixels are left out."""
    if folder.exists():
        progress.warn(f"the image cache {folder} is damaged; decoding again")
    meta: dict[str, Any] = {"bad": {}}
    with _in_place_of(folder) as building:
        for name, split in splits.items():
            count = len(split.labels)
            examined = (
                workers.examine(name, count, data.skip_bad_images)
                if workers
                else examine_in_threads(split.decode, count, data.skip_bad_images, run.workers)
            )
            bad, sums = _examine(building / name, name, examined, count, progress)
            if len(bad) == count:
                raise UserError(f"data.source={data.source}: no {name} image can be read")
            meta["bad"][name] = list(bad.items())
            if name == "train":
                meta["mean"], meta["std"] = _moments(sums, (count - len(bad)) * math.prod(data.stored))
        (building / "meta.json").write_text(json.dumps(meta))
    return meta


@contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """Give a folder that takes the place of `folder` in the end: a build that was killed leaves nothing in use.

    A build that failed leaves nothing at all: a disk that it has filled is empty again.
    """
    building = folder.with_suffix(".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        yield building
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _examine(
    path: Path, name: str, examined: Iterator[Examined], count: int, progress: Progress
) -> tuple[dict[int, str], np.ndarray]:
    """Write what pixels there are to `path`; return why images are bad, by index, and the sums over all others."""
    bad: dict[int, str] = {}
    sums: np.ndarray | int = 0
    with progress.task(f"decoding {name} images", count, unit="images") as task, open(path, "wb") as file:
        for chunk in examined:
            file.write(chunk.pixels.data)
            bad |= chunk.bad
            sums = sums + chunk.sums
            task.advance(chunk.count)
        file.flush()
        os.fsync(file.fileno())  # so that no power cut leaves a finished cache without its pixels
    if bad:
        progress.warn(f"left out {len(bad)} unreadable {name} image(s)")
    return bad, np.asarray(sums)


def _map(path: Path, count: int, data: DataConfig) -> CachedImages:
    # Mapped copy-on-write: torch wants writable memory, the file stays as it is.
    return CachedImages(torch.from_numpy(np.memmap(path, np.uint8, "c", shape=(count, *_shape(data)))))


def _moments(sums: np.ndarray, count: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, of pixels in 0..1, from `Examined.sums` over `count` pixels.

    Whole numbers until the last division: the order of summation, and so the number of workers, changes no bit.
    """
    totals, squares = sums.tolist()
    variances = [
        (count * square - total**2) / (255 * count) ** 2 for total, square in zip(totals, squares, strict=True)
    ]
    return [total / (255 * count) for total in totals], [math.sqrt(max(variance, 1e-12)) for variance in variances]
