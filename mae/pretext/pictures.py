"""Pictures of a pretext task, for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.data.dataset import ImageData
from mae.runs.locks_and_writes import replacing
from mae.runtime.rng import generator, on_device

if TYPE_CHECKING:
    from mae.pretext.base import Pretext

SHOWN = 8

BESIDE = 2
"""Clips beside one another in a picture; the frames of one are beside one another too."""


def shown_images(data: ImageData) -> Tensor:
    """Return the test images of the pictures, uint8 (n, C, h, w), or clips (n, C, T, h, w): always the same ones."""
    chosen = torch.linspace(0, len(data.test.labels) - 1, SHOWN).long()
    return next(iter(data.test.images.batches([chosen])))


@torch.inference_mode()
def draw(pretext: "Pretext", images: Tensor, path: Path) -> bool:
    """Draw a task on the centres of stored images, or clips, as a PNG; with the same draws every time.

    Says whether there is a picture: a task may have none.
    """
    device = pretext.mean.device
    draws = pretext.draw(len(images), generator(pretext.config.train.seed, "picture"))
    figure = pretext.picture(pretext.pictured(images.to(device)), on_device(draws, device))
    if figure is None:
        return False
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Return a figure with a titled row per entry, of images (n, C, H, W) in 0..1, C being 1 or 3.

    Of clips (n, C, T, H, W) it shows the frame in the middle.
    """
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.1 * count + 1.2, 1.2 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images.cpu(), strict=True):
            still = image[:, image.shape[1] // 2] if image.ndim == 4 else image
            pixels = still.permute(1, 2, 0).squeeze(-1).numpy()
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title)
    return figure


def clip_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Return a figure with a titled row per entry and clip, of clips (n, C, T, H, W) in 0..1: frame beside frame."""
    count, _, frames, height, width = next(iter(rows.values())).shape
    blocks = -(-count // BESIDE)
    figure = Figure(
        figsize=(0.5 * BESIDE * frames * width / height + 1, 0.55 * blocks * len(rows)), dpi=150, layout="constrained"
    )
    axes = figure.subplots(blocks * len(rows), BESIDE, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for place, (title, clips) in enumerate(rows.items()):
        for number, clip in enumerate(clips.cpu()):
            axis = axes[number // BESIDE * len(rows) + place, number % BESIDE]
            gaps = F.pad(clip, (0, 1), value=1)  # white, between frames
            strip = gaps.permute(2, 1, 3, 0).flatten(1, 2)[:, :-1].squeeze(-1)  # (H, T * (W + 1) - 1, C)
            axis.imshow(strip.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if number % BESIDE == 0:
                axis.set_ylabel(title, rotation=0, ha="right", va="center")
    return figure
