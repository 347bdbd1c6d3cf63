"""One training step of ours against Hugging Face's ViTMAEForPreTraining: images/s and peak memory.

The same sizes, mask ratio, AdamW, weight decay, clip norm off, and uint8 images in, which both normalise. Ours is
`Trainer.step` without crops, so it includes drawing the masks, the gradient norm and the check for finite numbers,
which Hugging Face's loop here leaves out. Needs `pip install 'mae-cli[benchmarks]'`.

Each side lives in a process of its own, for its own peak memory, and they take turns.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from mae.config.resolve import build, preset_overrides
from mae.config.tree import Config
from mae.data.dataset import CachedImages, ImageData, Split
from mae.pretext.base import Batch
from mae.runtime.system_metrics import system_metrics
from mae.training.step import Trainer

SIZES = {"cifar10-tiny": 256, "imagenet-vit-b": 8}
"""Preset and its batch size on a CPU."""

Step = Callable[[int], object]


def ours(config: Config, images: Tensor, device: torch.device) -> Step:
    data = _as_data(config, images)
    work = Trainer(config, data, device)
    batch = Batch(images, torch.arange(len(images)), data.train.labels)
    return lambda index: work.step(batch, index)


def hugging_face(config: Config, images: Tensor, device: torch.device) -> Step:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    encoder, decoder = config.model.encoder, config.model.decoder
    sizes = ViTMAEConfig(
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=4 * encoder.dim,
        image_size=config.data.image_size[0],
        patch_size=config.model.patch_size[0],
        num_channels=config.data.channels,
        decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.dim,
        mask_ratio=config.mask.ratio,
    )
    model = ViTMAEForPreTraining(sizes).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=config.train.weight_decay, fused=True
    )
    bf16 = config.train.precision == "bf16"

    def step(index: int) -> None:
        pixels = (images.to(device).float() / 255 - 0.5) / 0.25
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(pixels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _as_data(config: Config, images: Tensor) -> ImageData:
    """Wrap noise as a data set of one batch."""
    split = Split(CachedImages(images), torch.zeros(len(images), dtype=torch.int64))
    channels = config.data.channels
    return ImageData("noise", split, split, ("one",), "", "", (0.5,) * channels, (0.25,) * channels, 0)


def serve(side: str, config: Config, device_name: str, steps: int, line: Connection) -> None:
    """Answer each message with (images/s over `steps` steps, peak memory in MB), after two steps to warm up."""
    device = torch.device(device_name)
    shape = (config.train.batch_size, config.data.channels, *config.data.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    step: Any = {"ours": ours, "Hugging Face": hugging_face}[side](config, images, device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for index in range(2):
        step(index)
    line.send("ready")
    while line.recv():
        wait()
        started = time.perf_counter()
        for index in range(steps):
            step(index)
        wait()
        speed = steps * len(images) / (time.perf_counter() - started)
        line.send((speed, system_metrics(device)["system/peak_memory_mb"]))


def compare(config: Config, device: str, steps: int, repeats: int) -> tuple[list[float], list[float], float, float]:
    """Return images/s of both sides, in turns, and their peak memory."""
    context = multiprocessing.get_context("spawn")
    lines = []
    for side in ("ours", "Hugging Face"):
        here, there = context.Pipe()
        context.Process(target=serve, args=(side, config, device, steps, there), daemon=True).start()
        here.recv()
        lines.append(here)
    answers: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repeats):
        for line, answer in zip(lines, answers, strict=True):
            line.send(True)
            answer.append(line.recv())
    for line in lines:
        line.send(False)
    (a, b) = ([speed for speed, _ in answer] for answer in answers)
    return a, b, answers[0][-1][1], answers[1][-1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=SIZES, action="append", help="default: all")
    parser.add_argument("--batch", type=int, help="images per step; default: 256, and 8 for imagenet-vit-b")
    parser.add_argument("--steps", type=int, default=3, help="per turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    options = parser.parse_args()
    print(f"{'':28}{'images/s, median (range)':^54}{'':22}{'peak memory, MB':>18}")
    print(f"{'preset, precision':28}{'ours':>27}{'Hugging Face':>27}{'ratio':>22}{'ours':>9}{'HF':>9}")
    for preset in options.preset or SIZES:
        for precision in ("fp32", "bf16") if options.device.startswith("cuda") else ("fp32",):
            settings = {"data.augmentation": "none", "train.precision": precision, "train.micro_batches": 1}
            batch = {"train.batch_size": options.batch or SIZES[preset]}
            unused = {"data.crop_scale", "data.stored_size", "data.flip"}
            kept = {key: value for key, value in preset_overrides(preset).items() if key not in unused}
            config = build(kept | settings | batch)
            a, b, ours_mb, other_mb = compare(config, options.device, options.steps, options.repeats)
            ratios = [x / y for x, y in zip(a, b, strict=True)]
            cells = [f"{statistics.median(row):.2f} ({min(row):.2f} to {max(row):.2f})" for row in (a, b, ratios)]
            print(f"{preset + ', ' + precision:28}{cells[0]:>27}{cells[1]:>27}{cells[2]:>22}", end="")
            print(f"{ours_mb:9.0f}{other_mb:9.0f}", flush=True)


if __name__ == "__main__":
    main()
