"""Where images come from. To add a data set, enter its name in `SOURCES`."""

import difflib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mae.config import DataConfig
from mae.decoding import Decoder
from mae.errors import RunError, UserError
from mae.image_files import Pixels, decode, shown, to_pixels
from mae.progress import Progress
from mae.run_directory import replacing

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TEST_FOLDERS = ("test", "val", "validation")
HASHED_BYTES = 4 << 30
"""Folders up to this size are identified by every byte in them, larger ones by names and sizes: in these, an image put
in the place of another of the same size goes unnoticed."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class SourceSplit:
    """Undecoded images: labels int64 (N,), -1 where there is none, and how to get one as uint8 (C, H, W)."""

    labels: np.ndarray
    decode: Decoder


@dataclass(frozen=True)
class Source:
    """A data set before decoding; `digest` identifies its content."""

    train: SourceSplit
    test: SourceSplit
    classes: tuple[str, ...]
    digest: str


def open_source(data: DataConfig, progress: Progress) -> Source:
    """Return the source that `data.source` names; `UserError` if there is no such one."""
    name, _, location = data.source.partition(":")
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise UserError(f"data.source={data.source}: unknown source{hint}; known: {', '.join(SOURCES)} (folder:PATH)")
    return SOURCES[name](data, location, progress)


def cache_folder() -> Path:
    """Return where decoded and downloaded data are kept: $MAE_CACHE_DIR, or mae-cli in the user's cache folder."""
    if chosen := os.environ.get("MAE_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae-cli"


def _digits(data: DataConfig, location: str, progress: Progress) -> Source:
    """scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)

    decode_at = partial(_decode_array, pixels, data)
    labels = digits.target.astype(np.int64)
    train, test = _stratified(labels, data)
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Source(_part(labels, decode_at, train), _part(labels, decode_at, test), tuple("0123456789"), digest)


def _folder(data: DataConfig, location: str, progress: Progress) -> Source:
    """Class folders under train/ and one of test/, val/, validation/; or class folders alone, then split."""
    root = Path(location).expanduser()
    if not location or not root.is_dir():
        raise UserError(
            f"data.source={data.source}: no such folder; expected PATH/train/<class>/<image> and "
            "PATH/test/<class>/<image>, or PATH/<class>/<image>"
        )
    if not (root / "train").is_dir():
        classes = _class_names(root)
        files, labels = _list_files(root, classes)
        train, test = _stratified(labels, data)
        decode_at = _file_decoder(files, data)
        digest = _digest_files(root, files, progress)
        return Source(_part(labels, decode_at, train), _part(labels, decode_at, test), classes, digest)
    classes = _class_names(root / "train")
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test_root is None:
        raise UserError(f"{shown(root)} has train/ but none of {', '.join(TEST_FOLDERS)}; add one, or give PATH/train")
    unknown = set(_class_names(test_root, least=0)) - set(classes)
    if unknown:
        raise UserError(f"{shown(test_root)} has classes that train/ lacks: {', '.join(sorted(unknown))}")
    train_files, train_labels = _list_files(root / "train", classes)
    test_files, test_labels = _list_files(test_root, classes, needed=False)
    if not test_files:
        raise UserError(f"{shown(test_root)} holds no image, and probes need test images; add some, or give PATH/train")
    digest = _digest_files(root, train_files + test_files, progress)
    return Source(
        SourceSplit(train_labels, _file_decoder(train_files, data)),
        SourceSplit(test_labels, _file_decoder(test_files, data)),
        classes,
        digest,
    )


def _torchvision(name: str, train: list[dict[str, Any]], test: dict[str, Any]) -> Callable[..., Source]:
    """Return a source for a torchvision class; `train`, joined, and `test` are its arguments for the two splits.

    Its digest is over names, labels and, where the class holds all pixels as an array (CIFAR, STL-10), the pixels. Of
    classes that read files (Flowers102, Food101, ImageNet) the pixels are taken to be the published ones.
    """

    def open_it(data: DataConfig, location: str, progress: Progress) -> Source:
        from torch.utils.data import ConcatDataset
        from torchvision import datasets

        root = Path(location).expanduser() if location else cache_folder() / "downloads"
        try:
            if "download" in test:
                progress.say(f"{name}: using {root}, downloading what is missing")
                root.mkdir(parents=True, exist_ok=True)
            parts = [getattr(datasets, name)(str(root), **arguments) for arguments in (*train, test)]
        except Exception as error:  # each class fails in its own way
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{name} is not to be had in {root}: {line}; or give images as folder:PATH") from error
        labels = [_labels(part) for part in parts]
        names = getattr(parts[0], "classes", None) or range(max(each.max() for each in labels) + 1)
        digest = hashlib.sha256(name.encode())
        for part, part_labels in zip(parts, labels, strict=True):
            digest.update(b"%d" % len(part) + part_labels.tobytes())
            if isinstance(pixels := getattr(part, "data", None), np.ndarray):
                for image in pixels:
                    digest.update(np.ascontiguousarray(image).data)
        return Source(
            SourceSplit(np.concatenate(labels[:-1]), partial(_decode_item, ConcatDataset(parts[:-1]), data)),
            SourceSplit(labels[-1], partial(_decode_item, parts[-1], data)),
            tuple(str(each) for each in names),
            digest.hexdigest(),
        )

    return open_it


def _labels(dataset: Any) -> np.ndarray:
    for attribute in ("targets", "labels", "_labels"):
        if (labels := getattr(dataset, attribute, None)) is not None:
            return np.asarray(labels, dtype=np.int64)
    raise RunError(f"{type(dataset).__name__} of this torchvision version does not tell its labels")


# Decoders are partial applications of these: they go to worker processes. Files are strings, which pickle fast.


def _decode_array(pixels: np.ndarray, data: DataConfig, index: int) -> Pixels:
    return to_pixels(Image.fromarray(pixels[index]), data.stored, data.channels)


def _decode_item(dataset: Any, data: DataConfig, index: int) -> Pixels:
    return to_pixels(dataset[index][0], data.stored, data.channels)


def _decode_file(files: list[str], data: DataConfig, index: int) -> Pixels:
    return decode(Path(files[index]), data.stored, data.channels)


def _decode_chosen(decode_at: Decoder, chosen: np.ndarray, index: int) -> Pixels:
    return decode_at(int(chosen[index]))


def _file_decoder(files: list[Path], data: DataConfig) -> Decoder:
    return partial(_decode_file, [str(path) for path in files], data)


def _part(labels: np.ndarray, decode_at: Decoder, chosen: np.ndarray) -> SourceSplit:
    return SourceSplit(labels[chosen], partial(_decode_chosen, decode_at, chosen))


def _stratified(labels: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted train and test indexes, every class in the same share."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            np.arange(len(labels)), test_size=data.test_fraction, random_state=data.split_seed, stratify=labels
        )
    except ValueError as error:
        raise UserError(f"data.source={data.source} cannot be split by class: {error}") from None
    return np.sort(train), np.sort(test)


def _class_names(root: Path, least: int = 2) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < least:
        raise UserError(f"{shown(root)} holds {len(names)} class folder(s); expected at least {least}")
    return tuple(names)


def _list_files(root: Path, classes: tuple[str, ...], needed: bool = True) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (root / name).rglob("*")
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
        )
        if needed and not found:
            raise UserError(f"class folder {shown(root / name)} holds no image ({', '.join(sorted(EXTENSIONS))})")
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, dtype=np.int64)


def _digest_files(root: Path, files: list[Path], progress: Progress) -> str:
    """Return what `_hash_files` does, remembered in the cache folder until a file's size or time of change differs."""
    names = [os.fsencode(path.relative_to(root)) for path in files]
    stats = [_reading(path, Path.stat) for path in files]
    # ctime too, because tools that copy and unpack set mtime back; the folder, because another may have the same times.
    seen = [(name, it.st_size, it.st_mtime_ns, it.st_ctime_ns) for name, it in zip(names, stats, strict=True)]
    key = hashlib.sha256(repr((os.fsencode(root.resolve()), seen)).encode()).hexdigest()
    memo = cache_folder() / "digests" / key
    if memo.exists():
        return memo.read_text()
    digest = _hash_files(files, names, [it.st_size for it in stats], progress)
    with suppress(OSError, RunError), replacing(memo) as temporary:  # without it only time is lost
        temporary.write_text(digest)
    return digest


def _hash_files(files: list[Path], names: list[bytes], sizes: list[int], progress: Progress) -> str:
    """Return a SHA-256 over every file's name, size and, up to `HASHED_BYTES` in all, bytes."""
    whole = sum(sizes) <= HASHED_BYTES
    digest = hashlib.sha256()
    with progress.task("identifying images", len(files)) as task, ThreadPoolExecutor(8) as pool:
        contents = pool.map(
            lambda path: hashlib.sha256(_reading(path, Path.read_bytes)).digest() if whole else b"", files
        )
        for name, size, content in zip(names, sizes, contents, strict=True):
            digest.update(name + b"\0" + str(size).encode() + b"\0" + content)
            task.advance()
    return digest.hexdigest()


def _reading(path: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(path)
    except OSError as error:
        raise UserError(f"image {shown(path)} cannot be read: {error.strerror}") from None


_DOWNLOAD = {"download": True}

SOURCES: dict[str, Callable[[DataConfig, str, Progress], Source]] = {
    "digits": _digits,
    "folder": _folder,
    "cifar10": _torchvision("CIFAR10", [{"train": True, **_DOWNLOAD}], {"train": False, **_DOWNLOAD}),
    "cifar100": _torchvision("CIFAR100", [{"train": True, **_DOWNLOAD}], {"train": False, **_DOWNLOAD}),
    "stl10": _torchvision("STL10", [{"split": "train+unlabeled", **_DOWNLOAD}], {"split": "test", **_DOWNLOAD}),
    "flowers102": _torchvision(
        "Flowers102", [{"split": "train", **_DOWNLOAD}, {"split": "val", **_DOWNLOAD}], {"split": "test", **_DOWNLOAD}
    ),
    "food101": _torchvision("Food101", [{"split": "train", **_DOWNLOAD}], {"split": "test", **_DOWNLOAD}),
    "imagenet": _torchvision("ImageNet", [{"split": "train"}], {"split": "val"}),
}
