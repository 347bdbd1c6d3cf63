"""Weighted k-nearest-neighbour vote by cosine similarity on frozen features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.data.dataset import ImageData
from mae.pretext.base import Pretext
from mae.probing.features import extract
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


def knn_predict(
    references: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int
) -> Tensor:
    """Return the class (m,) of queries (m, D) from references (n, D) with labels (n,).

    Each of the k most similar references votes with weight exp(similarity / temperature); k is at most n.
    """
    references, queries = F.normalize(references, dim=1), F.normalize(queries, dim=1)
    predictions = []
    for part in queries.split(1024):
        similarity, nearest = (part @ references.T).topk(min(k, len(references)), dim=1)
        votes = torch.zeros(len(part), classes, device=part.device)
        # Less 1, so that the exponential cannot overflow at a small temperature.
        votes.scatter_add_(1, labels[nearest], ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def online_accuracy(pretext: Pretext, data: ImageData) -> float:
    """Return k-NN top-1, in percent, on a held-out part of the training images, whatever the probe settings are."""
    labelled = (data.train.labels >= 0).nonzero()[:, 0]
    chosen = labelled[torch.randperm(len(labelled), generator=generator(0, "online k-NN"))[: REFERENCES + QUERIES]]
    queries = min(QUERIES, len(chosen) // 5)
    features = extract(pretext, data.train.images, chosen, ONLINE_FEATURES, pretext.mean.device, Silent())
    labels = data.train.labels[chosen]
    predicted = knn_predict(
        features[queries:], labels[queries:], features[:queries], ONLINE_K, ONLINE_TEMPERATURE, len(data.classes)
    )
    return 100 * (predicted == labels[:queries]).float().mean().item()
