"""Several seeds of one small model at once: stacked into batched weights in one process, or a process per seed.

Images/s of all seeds together, without crops: medians of turns, with the smallest and largest value. "Stacked" is
`torch.func.stack_module_state` with `vmap` over seeds: each kernel does the work of all. Every seed has its own images
and masks. The processes share one device, as with `mae-cli ablate --per-gpu K`; on a CPU each has a thread.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from sides import start, take_turns
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from training_step import as_data, config_of, with_training

from mae.config.tree import Config
from mae.pretext.base import Batch
from mae.runtime.autocast import mixed
from mae.runtime.distributed import ALONE
from mae.runtime.machine import environment
from mae.runtime.rng import generator, on_device
from mae.training.step import Trainer

Step = Callable[[int], object]


def images_of(config: Config) -> Tensor:
    return torch.randint(0, 256, (config.train.batch_size, config.data.channels, *config.data.image_size)).byte()


def trainer_of(config: Config, seed: int, device: torch.device) -> Trainer:
    config = with_training(config, seed=seed)
    return Trainer(config, as_data(config, images_of(config)), device)


def stacked(config: Config, count: int, device: torch.device) -> Step:
    trainers = [trainer_of(config, seed, device) for seed in range(count)]
    pretexts = [trainer.pretext for trainer in trainers]
    weights, buffers = stack_module_state(pretexts)
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    template = pretexts[0]
    indexes = torch.arange(config.train.batch_size)
    batch = on_device(
        Batch(
            torch.stack([images_of(config) for _ in range(count)]), indexes.repeat(count, 1), indexes.repeat(count, 1)
        ),
        device,
    )

    def loss(weights: Any, buffers: Any, batch: Batch, mask: Tensor, crops: Any) -> Tensor:
        draws = type(first)(type(first.crops)(*crops, None), mask)
        found: dict[str, Tensor] = functional_call(template, (weights, buffers), (batch, draws))
        return found["loss"]

    first: Any = template.draw(1, generator(0, "step"))
    each = vmap(grad_and_value(loss))

    def step(index: int) -> None:
        drawn: list[Any] = [
            template.draw(config.train.batch_size, generator(seed, "step", index)) for seed in range(count)
        ]
        mask = torch.stack([draws.mask for draws in drawn]).to(device)
        crops = [torch.stack([draws.crops[part] for draws in drawn]).to(device) for part in range(2)]
        with mixed(config.train.precision, device):
            gradients, _ = each(weights, buffers, batch, mask, crops)
        for name, value in weights.items():
            value.grad = gradients[name]
        optimizer.step()

    return step


def alone(config: Config, seed: int, device: torch.device) -> Step:
    trainer = trainer_of(config, seed, device)
    indexes = torch.arange(config.train.batch_size)
    batch = Batch(images_of(config), indexes, indexes)
    return lambda index: trainer.step((on_device(each, device) for each in trainer.pieces(batch, index)), index)


def serve(config: Config, seed: int, count: int, device_name: str, steps: int, line: Connection) -> None:
    """Take turns with steps of one seed, or of `count` stacked ones if that is not 0."""
    device = torch.device(device_name)
    if device.type == "cpu" and not count:
        torch.set_num_threads(1)
    take_turns(stacked(config, count, device) if count else alone(config, seed, device), steps, device, line)


def turn(lines: list[Connection]) -> float:
    for line in lines:
        line.send(True)
    return max(line.recv() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", default="cifar10-tiny")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, else fp32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=5, help="per turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--json", type=Path, help="also write all turns and the machine to this file")
    options = parser.parse_args()
    precision = options.precision or ("fp32" if options.device == "cpu" else "bf16")
    config = config_of(options.preset, precision, options.batch)
    found = []
    for count in options.seeds:
        how = options.device, options.steps
        sides = {
            "stacked": start(serve, [(config, 0, count, *how)]),
            "processes": start(serve, [(config, seed, 0, *how) for seed in range(count)]),
        }
        images = options.steps * count * options.batch
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, lines in sides.items():
                speeds[side].append(images / turn(lines))
        for lines in sides.values():
            for line in lines:
                line.send(False)
        ratios = [one / other for one, other in zip(speeds["stacked"], speeds["processes"], strict=True)]
        texts = [
            f"{statistics.median(each):.4g} ({min(each):.4g} to {max(each):.4g})" for each in (*speeds.values(), ratios)
        ]
        print(f"{count} seeds: stacked {texts[0]} images/s, processes {texts[1]}, ratio {texts[2]}", flush=True)
        found.append({"seeds": count, **speeds})
    if options.json:
        machine = environment(torch.device(options.device), ALONE)
        options.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
