"""Reconstruction pictures: original, masked, reconstruction, side by side (Fig. 2)."""

from pathlib import Path

import torch
from torch import Tensor

from mae.config.tree import Config
from mae.data.augmentation import centre, normalise
from mae.data.dataset import ImageData
from mae.data.facts import Statistics
from mae.models.vit import gather_tokens, patchify, unpatchify
from mae.pretext.masked_autoencoder import MaskedReconstruction
from mae.pretext.targets import NormalizedPixels, PrincipalComponents
from mae.runs.directory import replacing
from mae.runtime.rng import generator

SHOWN = 8


@torch.inference_mode()
def reconstruct(
    objective: MaskedReconstruction, images: Tensor, order: Tensor, data: Statistics
) -> tuple[Tensor, Tensor]:
    """Return (masked, reconstruction), both (B, C, H, W) in 0..1, of images (B, C, H, W) in 0..1 under `order` (B, N).

    Hidden patches are grey in `masked`; in the reconstruction they hold the prediction, beside the visible patches.
    Normalised-pixel targets do not say a patch's mean and spread; they are taken from the original, as is usual.
    """
    model, config = objective.model, objective.config
    patches = patchify(normalise(images, data), model.patch)
    hidden = order[:, model.kept :]
    predicted = model(patches, order).float()
    truth = gather_tokens(patches, hidden)
    if isinstance(objective.target, NormalizedPixels):
        predicted = predicted * (truth.var(-1, keepdim=True) + 1e-6).sqrt() + truth.mean(-1, keepdim=True)
    elif isinstance(objective.target, PrincipalComponents):
        predicted = objective.target.pixels(predicted)
    where = hidden[..., None].expand(-1, -1, patches.shape[2])
    filled = unpatchify(patches.scatter(1, where, predicted), model.patch, config.grid)
    seen = torch.ones_like(order, dtype=images.dtype).scatter(1, hidden, 0.0)
    seen = unpatchify(seen[..., None].expand_as(patches), model.patch, config.grid)
    std, mean = (images.new_tensor(values).view(-1, 1, 1) for values in (data.std, data.mean))
    return images * seen + 0.5 * (1 - seen), (filled * std + mean).clamp(0, 1)


def shown_images(data: ImageData) -> Tensor:
    """Return the test images of the pictures, uint8 (n, C, h, w): always the same ones."""
    chosen = torch.linspace(0, len(data.test.labels) - 1, SHOWN).long()
    return next(iter(data.test.images.batches([chosen])))


def save_picture(
    objective: MaskedReconstruction, config: Config, data: ImageData, path: Path, device: torch.device
) -> None:
    """Draw a few test images, the same ones with the same masks every time, as a PNG."""
    draw_grid(objective, centre(shown_images(data), config.data), data, path, device)


def draw_grid(
    objective: MaskedReconstruction, images: Tensor, data: Statistics, path: Path, device: torch.device
) -> None:
    """Draw images (n, C, H, W) in 0..1 with masked version and reconstruction, a row each, as a PNG."""
    from matplotlib.figure import Figure

    images = images.to(device)
    order = objective.sample(generator(objective.config.train.seed, "picture"), len(images)).to(device)
    columns = [images, *reconstruct(objective, images, order, data)]
    figure = Figure(figsize=(1.1 * len(images) + 1.2, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots(3, len(images), squeeze=False)
    for row, (title, pictures) in enumerate(zip(("original", "masked", "reconstruction"), columns, strict=True)):
        for axis, picture in zip(axes[row], pictures.cpu(), strict=True):
            pixels = picture.permute(1, 2, 0).squeeze(-1).numpy()
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        axes[row][0].set_ylabel(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
