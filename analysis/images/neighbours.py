"""Images beside those that an encoder finds most similar to them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from analysis.images.files import class_of
from mae.config.tree import Config
from mae.data.image_files import decode, shown
from mae.runtime.fonts import in_any_script

CAPTION = 16
"""Most characters under a picture, which is an inch wide."""

QUERIES = 256
"""Images whose similarity to all others is in memory at a time."""


class Neighbours(NamedTuple):
    """Indexes (Q, n) of the images most similar to each of Q others, the most similar first, and the similarities."""

    indexes: Tensor
    similarity: Tensor


def most_similar(queries: Tensor, features: Tensor, count: int, own: Tensor | None = None) -> Neighbours:
    """Return for each of features (Q, D) the `count` most similar of features (N, D), by the cosine.

    `own` (Q,) is each query's own index among the N, -1 where it is not there: none is its own neighbour.
    """
    others, found = F.normalize(features, dim=1), []
    own = torch.full((len(queries),), -1) if own is None else own
    count = max(1, min(count, len(features) - int((own >= 0).any())))
    for asked, excluded in zip(queries.split(QUERIES), own.split(QUERIES), strict=True):
        similarity = F.normalize(asked, dim=1) @ others.T
        there = (excluded >= 0).nonzero()[:, 0]
        similarity[there, excluded[there]] = -2
        found.append(similarity.topk(count))
    return Neighbours(torch.cat([each.indices for each in found]), torch.cat([each.values for each in found]))


def evenly(count: int, most: int = 8) -> list[int]:
    """Return at most `most` of the numbers below `count`, far from each other."""
    return [round(number * (count - 1) / max(1, min(most, count) - 1)) for number in range(min(most, count))]


@in_any_script
def neighbour_figure(rows: Sequence[Tensor], captions: Sequence[Sequence[str]] = ()) -> Figure:
    """Return a row of pictures for each of uint8 images (1 + n, C, H, W): an image, then its neighbours."""
    count = max(map(len, rows))
    figure = Figure(figsize=(count, len(rows) * (1.2 if captions else 1)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for number, images in enumerate(rows):
        for place, (axis, image) in enumerate(zip(axes[number], images, strict=False)):
            axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            if captions:
                axis.set_xlabel(captions[number][place], fontsize=6)
    axes[0, 0].set_title("image")
    axes[0, 1].set_title("most similar", loc="left")
    return figure


def file_figure(rows: Sequence[Sequence[Path]], folder: Path, config: Config) -> Figure:
    """Return a row per list of files, an image and its neighbours, each with its class, or its name without one."""
    how = config.data.stored_sides, config.data.channels
    images = [torch.stack([torch.from_numpy(decode(file, *how).copy()) for file in row]) for row in rows]
    return neighbour_figure(images, [[_caption(file, folder) for file in row] for row in rows])


def _caption(file: Path, folder: Path) -> str:
    inside = file.resolve().is_relative_to(folder.resolve())
    text = (class_of(file.resolve(), folder.resolve()) if inside else "") or shown(Path(file.stem))
    return text if len(text) <= CAPTION else f"{text[: CAPTION - 1]}…"
