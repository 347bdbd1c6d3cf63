"""Weighted k-nearest-neighbour vote by cosine similarity on frozen features."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.probing.features import extract
from mae.probing.pieces import Pieces
from mae.runtime.progress import Silent
from mae.runtime.rng import generator

REFERENCES, QUERIES = 10_000, 2_000
"""Most training images of the online evaluation. It never sees a test image, so it may steer a search."""

ONLINE_FEATURES, ONLINE_K, ONLINE_TEMPERATURE = "patch_mean", 20, 0.07
"""Settings of the online evaluation, the same in every run, so that curves of all runs can be compared.

A run's curves are part of its pretraining, which probe settings do not identify. The mean over patches, as the loss
reads what comes of patches and never the class token. The temperature is that of instance discrimination (Wu et al.,
2018).
"""


BLOCK = 1024, 2**16
"""Queries and references that are compared at a time, 256 MB of similarities: all of ImageNet's would take 260 GB."""


def knn_predict(
    references: Pieces,
    labels: Tensor,
    queries: Pieces,
    k: int,
    temperature: float,
    classes: int,
    check: Callable[[], object] = lambda: None,
) -> Tensor:
    """Return the class (m,) of queries (m, D) from references (n, D) with labels (n,).

    Each of the k most similar references votes with weight exp(similarity / temperature); k is at most n. `check` is
    called before each block of similarities; what it raises ends the search.
    """
    predictions = []
    for asked in queries:
        similarity, voters = _nearest(F.normalize(asked, dim=1), references, labels, k, check)
        votes = similarity.new_zeros(len(asked), classes)
        # Less 1, so that the exponential cannot overflow at a small temperature.
        votes.scatter_add_(1, voters, ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def _nearest(
    queries: Tensor, references: Pieces, labels: Tensor, k: int, check: Callable[[], object]
) -> tuple[Tensor, Tensor]:
    """Return similarities and labels, (m, k) each, of the references nearest to queries (m, D) of length 1."""
    parts, done = queries.split(BLOCK[0]), 0
    found = [(part.new_zeros(len(part), 0), labels.new_zeros(len(part), 0)) for part in parts]
    for piece in references:
        for block in F.normalize(piece, dim=1).split(BLOCK[1]):
            its_labels = labels[done : done + len(block)]
            for index, part in enumerate(parts):
                check()
                found[index] = _nearer(found[index], part @ block.T, its_labels, k)
            done += len(block)
    similarity, voters = zip(*found, strict=True)
    return torch.cat(similarity), torch.cat(voters)


def _nearer(found: tuple[Tensor, Tensor], similarity: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest, similarities and labels, of those found so far and of a block (m, b) with labels (b,)."""
    similarity, nearest = similarity.topk(min(k, len(labels)), dim=1)
    similarity, voters = torch.cat([found[0], similarity], 1), torch.cat([found[1], labels[nearest]], 1)
    similarity, kept = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return similarity, voters.gather(1, kept)


def online_accuracy(pretext: Pretext, data: ImageData) -> float:
    """Return k-NN top-1, in percent, on a held-out part of the training images, whatever the probe settings are."""
    labelled = (data.train.labels >= 0).nonzero()[:, 0]
    chosen = labelled[torch.randperm(len(labelled), generator=generator(0, "online k-NN"))[: REFERENCES + QUERIES]]
    queries = min(QUERIES, len(chosen) // 5)
    features = extract(pretext, data.train.images, chosen, ONLINE_FEATURES, pretext.mean.device, Silent())
    labels = data.train.labels[chosen]
    predicted = knn_predict(
        [features[queries:]], labels[queries:], [features[:queries]], ONLINE_K, ONLINE_TEMPERATURE, len(data.classes)
    )
    return 100 * (predicted == labels[:queries]).float().mean().item()
