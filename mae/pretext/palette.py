"""The colours that images are told in."""

import torch
from torch import Tensor


def fit_palette(pixels: Tensor, colors: int, seed: int) -> Tensor:
    """Return a palette, float32 (colors, C), of pixels (n, C): centres found by k-means.

    If the pixels have no more colours than that, the palette has exactly these, and the last one as often as it takes.
    """
    palette = pixels.unique(dim=0)
    if len(palette) > colors:
        from sklearn.cluster import MiniBatchKMeans

        found = MiniBatchKMeans(colors, batch_size=4096, n_init=1, random_state=seed).fit(pixels.numpy())
        palette = torch.from_numpy(found.cluster_centers_).float()
    return torch.cat([palette, palette[-1:].expand(colors - len(palette), -1)])
