"""One training step of ours, eager, compiled and with CUDA graphs, against Hugging Face's and lightly's.

Images/s, their ratio, the share of a matrix product's speed that the model's own products reach (counted as in
`cost/gflops_per_image`; the product is measured between the turns), and peak memory. The same sizes, mask ratio, AdamW,
weight decay, clip norm off, and uint8 images in, which all normalise. Ours is `Trainer.step` without crops, so it
includes drawing the masks, the gradient norm and the check for finite numbers, which the others' loops leave out.
Needs `pip install 'mae-cli[benchmarks]'`; a library that is not there is left out.

Each side lives in a process of its own, for its own peak memory, and they take turns.
"""

import argparse
import importlib.util
import json
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Step
from sides import start, take_turns, wait_for
from torch import Tensor

from mae.config.resolve import build, preset_overrides
from mae.config.tree import Config
from mae.data.dataset import CachedImages, ImageData, Split
from mae.pretext.base import Batch
from mae.runs.metrics import PEAK_MEMORY
from mae.runtime.distributed import ALONE
from mae.runtime.machine import environment
from mae.runtime.rng import on_device
from mae.runtime.system_metrics import system_metrics
from mae.training.step import Trainer

BATCHES = {
    "cifar10-tiny": {"cpu": 256, "cuda": 1024},
    "imagenet-vit-b": {"cpu": 8, "cuda": 128},
    "imagenet-vit-l": {"cpu": 2, "cuda": 64},
    "cifar10-vit-t": {"cpu": 32, "cuda": 1024},
}
"""Images per step of each preset, by device."""

OURS = {"ours": "off", "ours, compiled": "default", "ours, cudagraphs": "cudagraphs"}
"""Each side of ours, and its `train.compile`."""

MATRIX = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the product that stands for the device's peak."""


def with_training(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def ours(config: Config, images: Tensor, device: torch.device) -> Step:
    data = as_data(config, images)
    trainer = Trainer(config, data, device)
    batch = Batch(images, torch.arange(len(images)), data.train.labels)
    return lambda index: trainer.step((on_device(each, device) for each in trainer.pieces(batch, index)), index)


def as_data(config: Config, images: Tensor) -> ImageData:
    """Wrap noise as a data set of one batch."""
    split = Split(CachedImages(images), torch.zeros(len(images), dtype=torch.int64))
    channels = config.data.channels
    return ImageData("noise", split, split, ("one",), "", "", (0.5,) * channels, (0.25,) * channels)


def matmul_flops(device: torch.device, precision: str) -> float:
    """Return FLOP/s of a square matrix product, the better of two."""
    size, dtype = MATRIX[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    speeds = []
    for _ in range(3):  # the first warms up
        started = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        wait_for(device)
        speeds.append(8 * size**3 / (time.perf_counter() - started))
    return max(speeds[1:])


def serve(side: str, config: Config, device_name: str, steps: int, line: Connection) -> None:
    """Take turns; at the end send the peak memory in MB."""
    device = torch.device(device_name)
    shape = (config.train.batch_size, config.data.channels, *config.data.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    if side in OURS:
        step = ours(with_training(config, compile=OURS[side]), images, device)
    else:
        step = PEERS[side][1](config, images, device)
    take_turns(step, steps, device, line)
    line.send(system_metrics(device)[PEAK_MEMORY])


def compare(config: Config, sides: list[str], device: str, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row per side: images/s of each turn, FLOP/s of the product beside it, peak memory in MB."""
    lines = start(serve, [(side, config, device, steps) for side in sides])
    images = steps * config.train.batch_size
    speeds: list[list[float]] = [[] for _ in sides]
    peaks = []
    for _ in range(repeats):
        peaks.append(matmul_flops(torch.device(device), config.train.precision))
        for line, found in zip(lines, speeds, strict=True):
            line.send(True)
            found.append(images / line.recv())
    rows = []
    for side, line, found in zip(sides, lines, speeds, strict=True):
        line.send(False)
        rows.append({"side": side, "images_per_second": found, "matmul_flops": peaks, "memory_mb": line.recv()})
    return rows


def gflops(config: Config) -> float:
    """Return the matrix products of a training step, GFLOPs per image."""
    images = torch.zeros(1, config.data.channels, *config.data.image_size, dtype=torch.uint8)
    one = with_training(config, batch_size=1)
    return Trainer(one, as_data(one, images), torch.device("cpu")).pretext.cost()["gflops_per_image"]


def config_of(preset: str, precision: str, batch: int) -> Config:
    settings = {"data.augmentation": "none", "train.precision": precision, "train.micro_batches": 1}
    unused = {"data.crop_scale", "data.stored_size", "data.flip"}
    kept = {key: value for key, value in preset_overrides(preset).items() if key not in unused}
    return build(kept | settings | {"train.batch_size": batch})


def show(preset: str, precision: str, rows: list[dict[str, Any]], gflops_per_image: float) -> None:
    first = rows[0]["images_per_second"]
    for row in rows:
        ratios = [mine / other for mine, other in zip(first, row["images_per_second"], strict=True)]
        shares = [
            images * gflops_per_image * 1e9 / peak
            for images, peak in zip(row["images_per_second"], row["matmul_flops"], strict=True)
        ]
        speed, ratio = (
            f"{statistics.median(each):.4g} ({min(each):.4g} to {max(each):.4g})"
            for each in (row["images_per_second"], ratios)
        )
        print(
            f"{preset + ', ' + precision:24}{row['side']:18}{speed:>30}{ratio:>24}"
            f"{statistics.median(shares):>12.0%}{row['memory_mb']:>10.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=BATCHES, action="append", help="default: all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, else fp32")
    parser.add_argument("--batch", type=int, help="images per step; default: of each preset its own")
    parser.add_argument("--side", choices=[*OURS, *PEERS], action="append", help="default: all that are installed")
    parser.add_argument("--steps", type=int, default=3, help="per turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--json", type=Path, help="also write all turns and the machine to this file")
    options = parser.parse_args()
    installed = [side for side, (package, _) in PEERS.items() if importlib.util.find_spec(package)]
    there = [side for side in OURS if side != "ours, cudagraphs" or options.device.startswith("cuda")] + installed
    sides = [side for side in options.side or there if side in there]
    heads = f"{'images/s, median (range)':>30}{'first over it':>24}{'of matmul':>12}{'MB':>10}"
    print(f"{'preset, precision':24}{'':18}{heads}")
    found = []
    kind = torch.device(options.device).type
    precision = options.precision or {"cpu": "fp32", "cuda": "bf16"}[kind]
    for preset in options.preset or BATCHES:
        config = config_of(preset, precision, options.batch or BATCHES[preset][kind])
        rows = compare(config, sides, options.device, options.steps, options.repeats)
        show(preset, precision, rows, gflops(config))
        found += [{"preset": preset, "precision": precision, **row} for row in rows]
        if options.json:
            machine = environment(torch.device(options.device), ALONE)
            options.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
