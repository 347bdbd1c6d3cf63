"""Features a piece of rows at a time: they may lie in memory, in a file or on a GPU, and no second copy is made.

A million images of 1,024 features and 1,000 classes have 5 GB of features and 5 GB of logits. Sums over pieces need
neither copies of the one nor all of the other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 2**25
"""Most features and logits of a piece, in numbers: 128 MB, of which an evaluation of a loss holds a few at once."""

KEPT = 2**28
"""Features of so many numbers, 1 GB, are standardised once for all evaluations: that is faster where there are few
classes, and CIFAR-10's raw pixels are not more."""

Pieces = Iterable[Tensor]
"""Features (n, D) as pieces of consecutive rows (b, D) on the device. It can be gone over again and again."""


class Moments(NamedTuple):
    """Mean and deviation (D,) of features."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Rows:
    """The rows `indexes` (n,) of features (N, D), wherever these are, as pieces on `device`.

    Given `by`, less its mean over its deviation: batch norm without affine. Each piece is centred before it is
    multiplied with anything: moments in the weights instead would cancel where a mean is large beside its deviation.
    """

    features: Tensor
    indexes: Tensor
    classes: int
    device: torch.device
    by: Moments | None = None

    def __iter__(self) -> Iterator[Tensor]:
        rows = max(1, PIECE // (self.features.shape[1] + self.classes))
        for chosen in self.indexes.split(rows):
            piece = self.features[chosen].to(self.device)
            yield piece if self.by is None else piece.sub_(self.by.mean).div_(self.by.std)

    def moments(self) -> Moments:
        """Return the moments over all rows."""
        count = len(self.indexes)
        mean = reduce(torch.add, (piece.sum(dim=0) for piece in self)) / count
        variance = reduce(torch.add, (piece.sub_(mean).square_().sum(dim=0) for piece in self)) / count
        return Moments(mean, (variance + 1e-6).sqrt())

    def standardised(self, moments: Moments) -> Pieces:
        """Return the pieces under `moments`, made once if they are small."""
        made = Rows(self.features, self.indexes, self.classes, self.device, moments)
        return list(made) if len(self.indexes) * self.features.shape[1] <= KEPT else made
