"""Pictures of a pretext task, for people."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mae.config.resolve import acts, flatten, name_run
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.runs.locks_and_writes import replacing
from mae.runtime.fonts import in_any_script
from mae.runtime.rng import generator, on_device

if TYPE_CHECKING:
    from mae.pretext.base import Pretext

SHOWN = 8
"""Images in a line of a picture."""

BESIDE = 2
"""Clips beside one another in a picture; the frames of one are beside one another too."""

_FIRST = "first of an image"
"""Marks the panels above which an image's name may stand."""


def shown_images(data: ImageData) -> Tensor:
    """Return the test images of the pictures, uint8 (n, C, h, w), or clips (n, C, T, h, w): always the same ones."""
    chosen = torch.linspace(0, len(data.test.labels) - 1, SHOWN).long()
    return next(iter(data.test.images.batches([chosen])))


def title_of(run: str, config: Config, note: str = "") -> str:
    """Return what stands above a picture: which run, what it is, the mask ratio it is drawn with, and a note."""
    name = name_run(config)
    if "mask.ratio=" not in name and acts("mask.ratio", flatten(config.model_dump())):
        name += f" mask.ratio={config.mask.ratio:g}"
    return f"{run}: {name}{', ' if note else ''}{note}"


@in_any_script
@torch.inference_mode()
def draw(pretext: "Pretext", images: Tensor, path: Path, title: str, names: Sequence[str] = ()) -> bool:
    """Draw a task on the centres of stored images, or clips, as a PNG; with the same draws every time.

    `title` stands above it, `names` above the images. Says whether there is a picture: a task may have none.
    """
    device = pretext.mean.device
    draws = pretext.draw(len(images), generator(pretext.config.train.seed, "picture"))
    figure = pretext.picture(pretext.pictured(images.to(device)), on_device(draws, device))
    if figure is None:
        return False
    # Names are the user's: a $ in them is no formula.
    figure.suptitle(textwrap.fill(title, int(14 * figure.get_figwidth())), fontsize=8, parse_math=False)
    for axis, name in zip((axis for axis in figure.axes if axis.get_gid() == _FIRST), names, strict=False):
        axis.set_title(name if len(name) <= 24 else f"...{name[-21:]}", fontsize=6, parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """Return a figure with a titled row per entry, of images (n, C, H, W) in 0..1, C being 1 or 3, eight in a line.

    Of clips (n, C, T, H, W) it shows the frame in the middle.
    """
    first = next(iter(rows.values()))
    count, height, width = len(first), first.shape[-2], first.shape[-1]
    lines, columns = -(-count // SHOWN), min(count, SHOWN)
    side = math.sqrt(height / width)  # cells of all shapes have one area
    size = max(1.1 * columns / side + 1.2, 3), (1.2 * len(rows) * side + 0.2) * lines
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(lines * len(rows), columns, squeeze=False)
    for place, (title, images) in enumerate(rows.items()):
        for number in range(lines * columns):
            line, column = divmod(number, columns)
            axis = axes[line * len(rows) + place, column]
            if number >= count:
                axis.remove()
                continue
            image = images[number].cpu()
            still = image[:, image.shape[1] // 2] if image.ndim == 4 else image
            axis.imshow(
                still.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axis.set(xticks=[], yticks=[])
            if place == 0:
                axis.set_gid(_FIRST)
            if column == 0:
                axis.set_ylabel(title, fontsize=8)
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
