"""Weighted k-nearest-neighbour vote by cosine similarity on frozen features."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mae.probing.pieces import Pieces

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
