"""Where images come from. To add a data set, enter its name in `SOURCES`."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from mae.config.data_section import DataConfig, local_path
from mae.config.resolve import nearest
from mae.data.clip_folders import read_clip_folder
from mae.data.decode_workers import Decoder
from mae.data.image_files import PathList, Pixels, decode, shown, to_pixels
from mae.data.image_folders import ImageFolder, Part, read_folder, read_images
from mae.data.moving_digits import SPEEDS, Motions, frames_of, motions
from mae.data.video_files import decode_video, files_of_video
from mae.errors import RunError, UserError, first_line
from mae.runs.locks_and_writes import replacing
from mae.runtime.progress import Progress

HASHED_BYTES = 4 << 30
"""Folders up to this size are identified by every byte in them, larger ones by names and sizes: in these, an image put
in the place of another of the same size goes unnoticed."""

Covers = Literal["every byte", "names and sizes", "names and labels"]
Read = TypeVar("Read")


@dataclass(frozen=True)
class SourceSplit:
    """Undecoded images: labels int64 (N,), -1 where there is none, how to get one as uint8 (C, H, W), and its name."""

    labels: np.ndarray
    decode: Decoder
    name: Callable[[int], str] = str


@dataclass(frozen=True)
class Identity:
    """What a data set is known by: a hash of its `content`, what that `covers`, and the split if the program makes it.

    `split` is (test_fraction, split_seed). Without labels, images are no less known.
    """

    content: str
    covers: Covers
    split: tuple[float, int] | None = None
    labelled: bool = True

    @property
    def digest(self) -> str:
        """SHA-256 of content and split."""
        return hashlib.sha256(f"{self.content} {self.split}".encode()).hexdigest() if self.split else self.content

    def split_as(self, data: DataConfig) -> "Identity":
        """Return the identity of the same images, split as `data` says."""
        return replace(self, split=(data.test_fraction, data.split_seed))


@dataclass(frozen=True)
class Source:
    """A data set before decoding.

    `classes` are none where no image has a label; `remarks` say what people should know of it; `left_out` has a line
    per file that cannot be opened.
    """

    train: SourceSplit
    test: SourceSplit
    classes: tuple[str, ...]
    identity: Identity
    remarks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What identifies its images and their split."""
        return self.identity.digest

    def told(self, source: str) -> str:
        """Return what was found, in one line; files that turn out to be broken inside still count."""
        counts = {"train": len(self.train.labels), "test": len(self.test.labels)}
        return found_in_words(source, counts, len(self.classes), self.remarks, len(self.left_out))


def found_in_words(source: str, counts: Mapping[str, int], classes: int, remarks: Iterable[str], left_out: int) -> str:
    """Return in one line what a `data.source` has: images by split, classes, what else there is to know."""
    numbers = [f"{count:,} {name}" for name, count in counts.items()]
    has = ", ".join([*numbers, f"{classes:,} classes" if classes else "no labels"])
    bad = [f"{left_out:,} file(s) left out that cannot be read"] if left_out else []
    return f"{shown(Path(source))}: {'; '.join([has, *remarks, *bad])}"


def _is_there(location: str) -> bool:
    try:
        return local_path(location).exists()
    except OSError:  # too long for a name, or in a folder that may not be read
        return False


def open_source(data: DataConfig, progress: Progress) -> Source:
    """Return the source that `data.source` names; `UserError` if there is no such one."""
    name, _, location = data.source.partition(":")
    if name not in SOURCES:
        meant = f", did you mean folder:{data.source}?" if _is_there(data.source) else nearest(name, list(SOURCES))
        known = f"known: {', '.join(SOURCES)} (folder:PATH, images:PATH, clips:PATH)"
        raise UserError(f"data.source={data.source}: unknown source{meant}; {known}")
    return SOURCES[name](data, location, progress)


def identify(data: DataConfig, progress: Progress) -> Identity:
    """Return what `open_source` knows a data set by, without its second or more of imports and of reading pixels.

    It is remembered in the cache folder until one of the files that decide it changes, or the library that reads them.
    """
    name, _, location = data.source.partition(":")
    if not (decided_by := DECIDED_BY.get(name)) or not (seen := decided_by(_torchvision_root(location))):
        return open_source(data, progress).identity
    key = hashlib.sha256(repr((data.source, seen)).encode()).hexdigest()
    memo = cache_folder() / "digests" / f"{key}.json"
    try:
        identity = Identity(**json.loads(memo.read_text()))
    except (OSError, ValueError, TypeError):
        identity = open_source(data, progress).identity
        with suppress(OSError, RunError), replacing(memo) as temporary:  # without it only time is lost
            temporary.write_text(json.dumps(asdict(identity)))
    return identity.split_as(data) if identity.split else identity


def cache_folder() -> Path:
    """Return where decoded and downloaded data are kept: $MAE_CACHE_DIR, or mae-cli in the user's cache folder."""
    if chosen := os.environ.get("MAE_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae-cli"


def _digits(data: DataConfig, location: str, progress: Progress) -> Source:
    """scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels."""
    pixels, labels = _embedded_digits()
    whole, names = SourceSplit(labels, partial(_decode_array, pixels, data)), tuple("0123456789")
    train, test = _hold_out(whole, data, names)
    content = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Source(train, test, names, Identity(content, "every byte").split_as(data))


def _embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (1797, 8, 8) and their classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def _moving_digits(data: DataConfig, location: str, progress: Progress) -> Source:
    """A clip of each of these digits, which moves: see `mae.data.moving_digits`."""
    pixels, _ = _embedded_digits()
    moving = motions(len(pixels))
    names = tuple(f"{down} down, {across} across" for down, across in SPEEDS)
    whole = SourceSplit(moving.classes, partial(_decode_moving, pixels, moving, data))
    train, test = _hold_out(whole, data, names)
    content = hashlib.sha256(b"".join(each.tobytes() for each in (pixels, *moving))).hexdigest()
    return Source(train, test, names, Identity(content, "every byte").split_as(data))


def _clips(data: DataConfig, location: str, progress: Progress) -> Source:
    """Videos of one's own in class folders, each a file or a folder of frames."""
    found = read_clip_folder(data, location)

    def split(part: Part) -> SourceSplit:
        paths = PathList.of(part.files)
        return SourceSplit(part.labels, partial(_decode_video, paths, data), partial(_name_below, found.root, paths))

    videos = found.train.files + (found.test.files if found.test else [])
    files = [file for video in videos for file in files_of_video(video)]
    identity = _identify_files(found.root, files, progress)
    if found.test:
        return Source(split(found.train), split(found.test), found.classes, identity)
    train, test = _hold_out(split(found.train), data, found.classes)
    return Source(train, test, found.classes, identity.split_as(data))


def _folder(data: DataConfig, location: str, progress: Progress) -> Source:
    """Images of one's own, with classes or without, in any of the layouts of `mae.data.image_folders`."""
    found = read_folder(data, location)
    # Earlier versions took every folder for a class, and split and probed accordingly.
    return _of_files(found, " some unlabelled" if (found.train.labels < 0).any() else "", data, progress)


def _images(data: DataConfig, location: str, progress: Progress) -> Source:
    """All images of one's own in a folder or below it, without labels, whatever the folders are."""
    return _of_files(read_images(data, location), " all unlabelled", data, progress)


def _of_files(found: ImageFolder, labels: str, data: DataConfig, progress: Progress) -> Source:
    """Return a source of image files; `labels` tells those apart that are split in other ways on the same files."""

    def split(part: Part) -> SourceSplit:
        paths = PathList.of(part.files)
        return SourceSplit(part.labels, partial(_decode_file, paths, data), partial(_name_below, found.root, paths))

    train = split(found.train)
    files = found.train.files + (found.test.files if found.test else [])
    identity = replace(_identify_files(found.root, files, progress), labelled=bool(found.classes))
    if labels:
        identity = replace(identity, content=hashlib.sha256(f"{identity.content}{labels}".encode()).hexdigest())
    if found.test:
        test = split(found.test)
    else:
        train, test = _hold_out(train, data, found.classes)
        identity = identity.split_as(data)
    return Source(train, test, found.classes, identity, found.remarks, found.left_out)


def _torchvision(
    name: str, train: list[dict[str, Any]], test: dict[str, Any], downloads: bool = True
) -> Callable[..., Source]:
    """Return a source for a torchvision class; `train`, joined, and `test` are its arguments for the two splits.

    It is identified by its name, labels and, where the class holds all pixels as an array (CIFAR, STL-10), the pixels.
    Of classes that read files (Flowers102, Food101, ImageNet) the names of the files count, and the pixels are taken to
    be the published ones.
    """

    def open_it(data: DataConfig, location: str, progress: Progress) -> Source:
        from torchvision import datasets

        root = _torchvision_root(location)
        try:
            if downloads:
                progress.say(f"{name}: using {root}, downloading what is missing")
                root.mkdir(parents=True, exist_ok=True)
            download = {"download": True} if downloads else {}
            parts = [getattr(datasets, name)(str(root), **split, **download) for split in (*train, test)]
        except Exception as error:  # each class fails in its own way
            raise RunError(
                f"{name} cannot be read from {root}: {first_line(error)}; or give images as folder:PATH"
            ) from error
        labels = [_labels(part) for part in parts]
        names = getattr(parts[0], "classes", None) or range(max(each.max() for each in labels) + 1)
        return Source(
            SourceSplit(np.concatenate(labels[:-1]), _torchvision_decoder(parts[:-1], data)),
            SourceSplit(labels[-1], _torchvision_decoder(parts[-1:], data)),
            tuple(str(each) for each in names),
            _identify_torchvision(name, root, parts, labels),
        )

    return open_it


def _torchvision_root(location: str) -> Path:
    return local_path(location) if location else cache_folder() / "downloads"


def _torchvision_decoder(parts: list[Any], data: DataConfig) -> Decoder:
    """Return a decoder of joined data sets that leaves these behind: ImageNet's takes a gigabyte, and needs torch."""
    if all(map(_holds_pixels, parts)):
        arrays = [part.data for part in parts]
        return partial(_decode_array, arrays[0] if len(arrays) == 1 else np.concatenate(arrays), data)
    return _file_decoder([path for part in parts for path in _torchvision_files(part)], data)


def _identify_torchvision(name: str, root: Path, parts: list[Any], labels: list[np.ndarray]) -> Identity:
    digest = hashlib.sha256(name.encode())
    for part, part_labels in zip(parts, labels, strict=True):
        digest.update(b"%d" % len(part) + part_labels.tobytes())
        if _holds_pixels(part):
            for image in part.data:
                digest.update(np.ascontiguousarray(image).data)
        else:
            names = (str(path).removeprefix(str(root)) for path in _torchvision_files(part))
            digest.update(b"\0".join(map(os.fsencode, names)))
    covers: Covers = "every byte" if all(map(_holds_pixels, parts)) else "names and labels"
    return Identity(digest.hexdigest(), covers)


def _holds_pixels(dataset: Any) -> bool:
    return isinstance(getattr(dataset, "data", None), np.ndarray)


def _torchvision_files(dataset: Any) -> Sequence[str | Path]:
    if (samples := getattr(dataset, "samples", None)) is not None:
        return [path for path, _ in samples]
    return _attribute(dataset, "files", "_image_files")


def _labels(dataset: Any) -> np.ndarray:
    return np.asarray(_attribute(dataset, "labels", "targets", "labels", "_labels"), dtype=np.int64)


def _attribute(dataset: Any, what: str, *names: str) -> Any:
    for name in names:
        if (value := getattr(dataset, name, None)) is not None:
            return value
    raise RunError(f"{type(dataset).__name__} of this torchvision version does not tell its {what}")


# Decoders are partial applications of these. They go to worker processes, which share the arrays in them.


def _decode_array(pixels: np.ndarray, data: DataConfig, index: int) -> Pixels:
    image = pixels[index]
    if image.ndim == 3 and image.shape[2] != 3:  # STL-10 has its channels first
        image = image.transpose(1, 2, 0)
    return to_pixels(Image.fromarray(image), data.stored_sides, data.channels)


def _decode_moving(pixels: np.ndarray, moving: Motions, data: DataConfig, index: int) -> Pixels:
    times = data.frame_stride * np.arange(data.stored[0])
    frames = frames_of(pixels[index], moving.phases[index], moving.classes[index], times)
    return np.stack([to_pixels(Image.fromarray(each), data.stored_sides, data.channels) for each in frames], axis=1)


def _decode_file(files: PathList, data: DataConfig, index: int) -> Pixels:
    return decode(files[index], data.stored_sides, data.channels)


def _decode_video(videos: PathList, data: DataConfig, index: int) -> Pixels:
    return decode_video(videos[index], data)


def _decode_chosen(decode_at: Decoder, chosen: np.ndarray, index: int) -> Pixels:
    return decode_at(int(chosen[index]))


def _name_below(root: Path, files: PathList, index: int) -> str:
    return shown(files[index].relative_to(root))


def _name_chosen(name: Callable[[int], str], chosen: np.ndarray, index: int) -> str:
    return name(int(chosen[index]))


def _file_decoder(files: Sequence[str | Path], data: DataConfig) -> Decoder:
    return partial(_decode_file, PathList.of(files), data)


def _hold_out(whole: SourceSplit, data: DataConfig, classes: Sequence[str]) -> tuple[SourceSplit, SourceSplit]:
    """Return train and test, every class in the same share, images in the order that they had.

    If there are classes, images without one are all for training. `UserError` if there are too few images.
    """
    from sklearn.model_selection import train_test_split

    labelled = np.flatnonzero(whole.labels >= 0) if len(classes) else np.arange(len(whole.labels))
    labels = whole.labels[labelled] if len(classes) else None
    _check_enough(whole.labels[labelled], data, classes)
    split = {"test_size": data.test_fraction, "random_state": data.split_seed, "stratify": labels}
    test = train_test_split(labelled, **split)[1]
    train = np.setdiff1d(np.arange(len(whole.labels)), test)

    def part(chosen: np.ndarray) -> SourceSplit:
        decode_at, name = partial(_decode_chosen, whole.decode, chosen), partial(_name_chosen, whole.name, chosen)
        return SourceSplit(whole.labels[chosen], decode_at, name)

    return part(train), part(np.sort(test))


def _check_enough(labels: np.ndarray, data: DataConfig, classes: Sequence[str]) -> None:
    """Raise `UserError` unless images with `labels` (N,) can be split with some of every class on both sides."""
    source = f"data.source={shown(Path(data.source))}"
    alone = [shown(Path(name)) for number, name in enumerate(classes) if (labels == number).sum() == 1]
    if alone:
        more = f" and {len(alone) - 10} more" if len(alone) > 10 else ""
        folder = data.source.startswith("folder:")
        unlabelled = ", or pretrain without labels: images:PATH in place of folder:PATH" if folder else ""
        raise UserError(
            f"{source}: class folders with a single image: {', '.join(alone[:10])}{more}; a part of every class is "
            "held out for testing, so each needs two: add images, take these folders away, give PATH/train and "
            f"PATH/test{unlabelled}"
        )
    test, sides = math.ceil(len(labels) * data.test_fraction), max(1, len(classes))
    if min(test, len(labels) - test) < sides:
        splits = "" if data.source.startswith("images:") else ", or give PATH/train and PATH/test"
        needed = f"one of each of {len(classes)} classes" if len(classes) else "one"
        raise UserError(
            f"{source}: data.test_fraction={data.test_fraction:g} of {len(labels)} image(s) leaves "
            f"{len(labels) - test} for training and {test} for testing; expected at least {needed} on both sides: add "
            f"images or set another data.test_fraction{splits}"
        )


def _identify_files(root: Path, files: list[Path], progress: Progress) -> Identity:
    """Hash names, sizes and, up to `HASHED_BYTES` in all, every byte.

    The hash is remembered in the cache folder until a file's size or time of change differs.
    """
    names = [os.fsencode(path.relative_to(root)) for path in files]
    stats = [_reading(path, Path.stat) for path in files]
    whole = sum(it.st_size for it in stats) <= HASHED_BYTES
    covers: Covers = "every byte" if whole else "names and sizes"
    # ctime too, because tools that copy and unpack set mtime back; the folder, because another may have the same times.
    seen = [(name, it.st_size, it.st_mtime_ns, it.st_ctime_ns) for name, it in zip(names, stats, strict=True)]
    key = hashlib.sha256(repr((os.fsencode(root.resolve()), whole, seen)).encode()).hexdigest()
    memo = cache_folder() / "digests" / key
    if memo.exists():
        return Identity(memo.read_text(), covers)
    digest = _hash_files(files, names, [it.st_size for it in stats], whole, progress)
    with suppress(OSError, RunError), replacing(memo) as temporary:  # without it only time is lost
        temporary.write_text(digest)
    return Identity(digest, covers)


def _hash_files(files: list[Path], names: list[bytes], sizes: list[int], whole: bool, progress: Progress) -> str:
    """Return a SHA-256 over every file's name, size and, if `whole`, bytes."""
    digest = hashlib.sha256()
    with progress.task("identifying images", len(files), unit="files") as task, ThreadPoolExecutor(8) as pool:
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


SOURCES: dict[str, Callable[[DataConfig, str, Progress], Source]] = {
    "digits": _digits,
    "folder": _folder,
    "images": _images,
    "cifar10": _torchvision("CIFAR10", [{"train": True}], {"train": False}),
    "cifar100": _torchvision("CIFAR100", [{"train": True}], {"train": False}),
    "stl10": _torchvision("STL10", [{"split": "train+unlabeled"}], {"split": "test"}),
    "flowers102": _torchvision("Flowers102", [{"split": "train"}, {"split": "val"}], {"split": "test"}),
    "food101": _torchvision("Food101", [{"split": "train"}], {"split": "test"}),
    "moving_digits": _moving_digits,
    "clips": _clips,
    "imagenet": _torchvision("ImageNet", [{"split": "train"}], {"split": "val"}, downloads=False),
}


def _scikit_learn_version(root: Path) -> Any:
    return version("scikit-learn")  # the digits lie in it


def _files(pattern: str) -> Callable[[Path], Any]:
    """Return a function that tells of torchvision's version and of the files under a root that match `pattern`."""

    def seen(root: Path) -> Any:
        stats = [(str(path.resolve()), path.stat()) for path in sorted(root.glob(pattern))]
        files = [(path, it.st_size, it.st_mtime_ns, it.st_ctime_ns) for path, it in stats]
        return files and (version("torchvision"), files)

    return seen


DECIDED_BY: dict[str, Callable[[Path], Any]] = {
    "digits": _scikit_learn_version,
    "moving_digits": _scikit_learn_version,
    "cifar10": _files("cifar-10-batches-py/*"),
    "cifar100": _files("cifar-100-python/*"),
    "stl10": _files("stl10_binary/*"),
    "flowers102": _files("flowers-102/*.mat"),
    "food101": _files("food-101/meta/*"),
}
"""What decides the identity of a data set, as a function of the folder that torchvision has it in: seen within
milliseconds, while to open it takes seconds. False where there is nothing yet."""
