"""How large and how fast trainings are, on made-up images: what they show costs no time. Runs where workers run."""

import itertools
import time
from collections.abc import Callable

import torch

from ablations.studies.forecast_speeds import FitSpeed, Size, Speed, seconds_per_image
from mae.config.pretext_sections import TargetConfig
from mae.config.tree import Config
from mae.data.dataset import CachedImages, ImageData, Split
from mae.pretext.base import Batch
from mae.pretext.registry import made_up_tokenizer, new_pretext
from mae.probing.features import BATCH, extract
from mae.probing.linear import fit_logistic, principal_axes
from mae.runtime.progress import Silent
from mae.runtime.rng import on_device
from mae.training.step import Trainer

CONTEXT = 600e6
"""Bytes of a GPU's memory that a process takes beside its tensors, for CUDA and its kernels."""


def size_of(config: Config) -> Size:
    """Return what a training takes on any machine; with PCA's coefficients at most, as many as a patch has numbers."""
    if config.target.kind == "pca":  # how many they are hangs on images
        config = config.model_copy(update={"target": TargetConfig()})
    with torch.device("meta"):
        costs = new_pretext(config, _made_up(config), tokenizer=made_up_tokenizer(config)).cost()
    kept = 4 * int(costs["parameters"])  # float32; checkpoints are gone by then
    return Size(1e9 * costs["gflops_per_image"], 1e9 * costs["gflops_encoder"], kept)


def speed_of(config: Config, device: torch.device, seconds: float) -> Speed:
    """Return how fast a training is on `device`, from about `seconds` of it."""
    images = _made_up(config)
    train = config.train.model_copy(update={"compile": "off"})  # compiling alone takes longer than all this
    began = time.monotonic()
    work = Trainer(config.model_copy(update={"train": train}), images, device, tokenizer=made_up_tokenizer(config))
    build = time.monotonic() - began

    def step(count: int) -> None:
        """Take a step on `count` images in one piece, and wait for the device."""
        piece = train.model_copy(update={"batch_size": count, "micro_batches": 1})
        work.config = config.model_copy(update={"train": piece})
        chosen = torch.arange(count)
        batch = Batch(next(iter(work.data.train.images.batches([chosen]))), chosen, work.data.train.labels[chosen])
        work.step((on_device(each, device) for each in work.pieces(batch, 0)), 0).losses["loss"].item()

    def encode(count: int) -> None:
        kind = config.probe.features
        extract(work.pretext, work.data.train.images, torch.arange(count), kind, device, Silent())

    return Speed(
        seconds_per_image(step, train.batch_size // train.micro_batches, 0.7 * seconds, time.monotonic),
        seconds_per_image(encode, min(BATCH, train.batch_size), 0.3 * seconds, time.monotonic),
        build,
        _memory_share(device),
    )


def _memory_share(device: torch.device) -> float:
    """Return the part of a GPU's memory that this process has taken at most."""
    if device.type != "cuda":
        return 0.0
    return (torch.cuda.max_memory_reserved(device) + CONTEXT) / torch.cuda.mem_get_info(device)[1]


def _made_up(config: Config) -> ImageData:
    """Return a batch of noise: one image again and again, which takes the memory of one."""
    count, shape = config.train.batch_size, (config.data.channels, *config.data.stored)
    pixels = torch.randint(0, 256, (1, *shape), dtype=torch.uint8).expand(count, *shape)
    split = Split(CachedImages(pixels), torch.zeros(count, dtype=torch.int64))
    mean, std = ((value,) * config.data.channels for value in (0.5, 0.25))
    return ImageData("noise", split, split, ("one",), "", "every byte", mean, std)


def fit_speed(device: torch.device) -> FitSpeed:
    """Return how fast linear probes are fitted on `device`, from a second of it."""
    images, small, large, classes = 1000, 64, 512, 10
    features = torch.randn(images, small, device=device)
    labels = torch.arange(images, device=device) % classes
    evaluations = itertools.count()
    principal = principal_axes([features])
    fit = _seconds(lambda: fit_logistic([features], labels, classes, 1e-3, principal, lambda: next(evaluations)))
    wide, weights = torch.randn(images, large, device=device), torch.randn(large, classes, device=device)
    product = min(_seconds(lambda: (wide @ weights).sum().item()) for _ in range(3))
    axes = min(_seconds(lambda: torch.linalg.eigh(wide.T @ wide)[0].sum().item()) for _ in range(3))
    return FitSpeed(fit / max(1, next(evaluations)), product / (2 * images * large * classes), axes / large**3)


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
