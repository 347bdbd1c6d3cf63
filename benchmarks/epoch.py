"""From image files to the end of an epoch, against a DataLoader with PIL and torchvision that feeds the same step.

Three tables. Decoding: images/s on one thread, of JPEGs (quality 90, gradients under noise) to the size of the cache.
Epochs: the first, with what decodes into the cache before it, and later ones; and the share of the time that lies in
training steps, which is the share that a CPU is busy with them (on a GPU steps do not wait: read its own counters).
Gathering: GB/s of random batches out of a cache on disk, cold (its pages dropped from memory) and warm. The two sides
take turns; a ratio is taken within a turn. With --json one object as the last line.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from mae.config.resolve import resolve
from mae.data.dataset import CachedImages, load_data
from mae.data.image_files import decode, to_pixels
from mae.pretext.base import Batch
from mae.runtime.distributed import ALONE
from mae.runtime.machine import environment
from mae.runtime.progress import Silent
from mae.training.loader import micro_batches
from mae.training.step import Piece, Trainer

SIZES = {"500x375 to 256": (375, 500, 256), "500x375 to 64": (375, 500, 64), "32x32 to 32": (32, 32, 32)}
"""Height, width, and side in the cache, in pixels."""


def write_jpegs(folder: Path, count: int, height: int, width: int) -> list[Path]:
    """Write made-up photographs: a gradient under noise coarser than a pixel."""
    folder.mkdir(parents=True)
    random, paths = np.random.default_rng(count), [folder / f"{index}.jpg" for index in range(count)]
    slope = np.linspace(0, 255, width)[None, :, None]
    for path in paths:
        coarse = random.integers(0, 256, (max(2, height // 4), max(2, width // 4), 3), np.uint8)
        noise = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float)
        Image.fromarray((0.6 * noise + 0.4 * slope).astype(np.uint8)).save(path, quality=90)
    return paths


def decode_whole(path: Path, side: int) -> np.ndarray:
    """PIL without DCT scaling."""
    with Image.open(path) as image:
        return to_pixels(image, (side, side), 3)


def decode_by_torchvision(path: Path, side: int) -> torch.Tensor:
    image = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
    image = v2.functional.resize(image, [side], v2.InterpolationMode.BICUBIC, antialias=True)
    return v2.functional.center_crop(image, [side, side])


def rates(folder: Path, count: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return images/s per size and way to decode, one number per turn."""
    ways: dict[str, Callable[[Path, int], Any]] = {
        "ours": lambda path, side: decode(path, (side, side), 3),
        "PIL, whole": decode_whole,
        "torchvision.io": decode_by_torchvision,
    }
    found: dict[str, dict[str, list[float]]] = {}
    for size, (height, width, side) in SIZES.items():
        paths = write_jpegs(folder / size, count, height, width)
        found[size] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, read in ways.items():
                began = time.perf_counter()
                for path in paths:
                    read(path, side)
                found[size][way].append(count / (time.perf_counter() - began))
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def train(trainer: Trainer, pieces: Iterator[Piece]) -> dict[str, float]:
    """Train an epoch; return its seconds and those that lay in steps: in the others, they waited for images."""
    began, busy = time.perf_counter(), 0.0
    for _ in range(trainer.steps_per_epoch):
        ready = list(islice(pieces, trainer.config.train.micro_batches))
        busy += _seconds(partial(trainer.step, ready, trainer.position.step))
    return {"seconds": time.perf_counter() - began, "busy": busy}


def peers(trainer: Trainer, root: Path, workers: int) -> Iterator[Piece]:
    """An epoch by PyTorch's DataLoader, as its users write it, into the same step."""
    config = trainer.config
    size = config.data.stored
    transform = v2.Compose([v2.Resize(size[0], v2.InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.PILToTensor()])
    files = ImageFolder(str(root / "train"), transform)
    loader = DataLoader(files, config.train.batch_size, shuffle=True, num_workers=workers, drop_last=True)
    for images, labels in loader:
        yield from trainer.pieces(Batch(images, torch.zeros_like(labels), labels), trainer.position.step)


def epochs(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return per turn the seconds of decoding into the cache, and per side what `train` says of each epoch."""
    root = folder / "images"
    for split, count in (("train", options.images), ("test", 8)):
        for name in "ab":
            write_jpegs(root / split / name, count // 2, options.height, options.width)
    settings = {"data.source": f"folder:{root}", "data.image_size": options.side, "data.stored_size": options.side}
    settings |= {"train.batch_size": options.batch, "run.loader_workers": options.workers}
    settings["train.epochs"] = 2 + options.later
    config, turns = resolve(options.preset, settings=[f"{key}={value}" for key, value in settings.items()]), []
    for _ in range(options.repeats):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        os.environ["MAE_CACHE_DIR"] = str(folder / "cache")
        began = time.perf_counter()
        data = load_data(config.data, config.run, Silent())
        decoding = time.perf_counter() - began
        turn: dict[str, Any] = {"decoding": decoding, "ours": [], "peer": []}
        mine, others = (Trainer(config, data, torch.device("cpu")) for _ in range(2))
        with closing(micro_batches(mine)) as pieces:
            mine.step(islice(pieces, config.train.micro_batches), 0)  # whatever the first step of a process sets up
            for _ in range(1 + options.later):
                turn["ours"].append(train(mine, pieces))
                turn["peer"].append(train(others, peers(others, root, options.workers)))
        turns.append(turn)
    return turns


def gathering(folder: Path, gigabytes: float, side: int, batch: int) -> dict[str, float]:
    """Return GB/s of random batches out of a file of pixels, first from disk and then from memory."""
    path, count = folder / "pixels", int(gigabytes * 1e9 / (3 * side * side))
    with open(path, "wb") as file:
        some = np.random.default_rng(0).integers(0, 256, (max(1, count // 50), 3, side, side), np.uint8)
        for start in range(0, count, len(some)):
            file.write(some[: count - start].data)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    images = CachedImages(torch.from_numpy(np.memmap(path, np.uint8, "c", shape=(count, 3, side, side))))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).split(batch)
    speeds = {}
    for state in ("cold", "warm"):
        taken = _seconds(lambda: [len(each) for each in images.batches(order)])
        speeds[state] = images.pixels.nbytes / taken / 1e9
    path.unlink()
    return speeds


def _spread(values: list[float], digits: str = ".2f") -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def report(found: dict[str, Any]) -> None:
    print("images/s on one thread, and ours over it")
    for size, ways in found["decoding"].items():
        for way, speeds in ways.items():
            ratios = [mine / other for mine, other in zip(ways["ours"], speeds, strict=True)]
            print(f"{size:18}{way:18}{_spread(speeds, '.0f'):28}{_spread(ratios)}")
    turns = found["epochs"]
    print("\nseconds, and DataLoader over ours; share of the time in steps, %: ours, DataLoader")
    rows = {"first epoch": [0], "a later epoch": list(range(1, len(turns[0]["ours"])))}
    for name, which in rows.items():
        before = [turn["decoding"] if name == "first epoch" else 0.0 for turn in turns for _ in which]
        mine = [turn["ours"][epoch] for turn in turns for epoch in which]
        other = [turn["peer"][epoch] for turn in turns for epoch in which]
        seconds = [each["seconds"] + more for each, more in zip(mine, before, strict=True)]
        ratios = [theirs["seconds"] / each for theirs, each in zip(other, seconds, strict=True)]
        busy = [[100 * each["busy"] / each["seconds"] for each in side] for side in (mine, other)]
        print(f"{name:18}{_spread(seconds):28}{_spread(ratios):28}{_spread(busy[0], '.1f')}, {_spread(busy[1], '.1f')}")
    for side, speeds in found["gathering"].items():
        print(f"\ngathered at {side} px: {speeds['cold']:.2f} GB/s cold, {speeds['warm']:.2f} GB/s warm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="cifar10-tiny")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--side", type=int, default=32, help="in the cache and in training")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--later", type=int, default=2, help="epochs after the first")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the cache that is gathered from")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        torch.set_num_threads(1)
        found["decoding"] = rates(Path(name) / "rates", 100, options.repeats)
        torch.set_num_threads(threads)
        found["epochs"] = epochs(Path(name), options)
        found["gathering"] = {side: gathering(Path(name), options.gigabytes, side, 256) for side in (32, 256)}
    report(found)
    if options.json:
        machine = environment(torch.device("cpu"), ALONE) | {"PIL": PIL.__version__, "load": os.getloadavg()}
        print(json.dumps(found | {"settings": vars(options), "machine": machine}))


if __name__ == "__main__":
    main()
