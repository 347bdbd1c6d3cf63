"""Work of the host per training step: all draws of a batch, on one thread, in milliseconds (medians).

Everything else of a step is done where the batch is. A line per mask sampler and augmentation, at 512 images of 32
pixels and 1,024 of 224; with --json one object as the last line.
"""

import argparse
import json
import statistics
import time

import torch

from mae.config.resolve import build
from mae.config.tree import Config
from mae.pretext.base import Surroundings
from mae.pretext.masking import SAMPLERS
from mae.pretext.registry import PRETEXTS
from mae.runtime.rng import generator, on_device, piece

AUGMENTATIONS = ("none", "fixed_crop", "random_resized_crop", "color_jitter")
SIZES = {"512x32": (512, 32, 4, 32), "1024x224": (1024, 224, 16, 256)}
"""Images, their side, patch and stored side, in pixels."""


class Statistics:
    mean = std = (0.5, 0.5, 0.5)


def milliseconds(config: Config, repetitions: int) -> float:
    """Return the time of a step's work on the host."""
    with torch.device("meta"):
        pretext = PRETEXTS["mae"](config, Surroundings(1, 1, Statistics(), lambda count: torch.empty(0)))
    count, cpu, times = config.train.batch_size, torch.device("cpu"), []
    for step in range(repetitions):
        began = time.perf_counter()
        draws = pretext.draw(count, generator(0, "step", step))
        on_device(piece(draws, slice(0, count)), cpu)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(images: int, side: int, patch: int, stored: int, repetitions: int) -> dict[str, float]:
    found = {}
    common = {"data.channels": 3, "data.image_size": side, "data.stored_size": stored, "model.patch_size": patch}
    common |= {"train.batch_size": images, "data.flip": True}
    for name in AUGMENTATIONS:
        found[name] = milliseconds(build(common | {"data.augmentation": name}), repetitions)
    for name in SAMPLERS:
        found[f"mask {name}"] = milliseconds(build(common | {"mask.sampling": name}), repetitions)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(*size, options.repetitions) for name, size in SIZES.items()}
    for size, times in found.items():
        for name, each in times.items():
            print(f"{size:10}{name:24}{each:8.2f} ms")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
