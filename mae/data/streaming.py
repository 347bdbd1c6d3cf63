"""Images too many to keep decoded: decoded at each use, by worker processes, ahead of their use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mae.data.decode_workers import CHUNK, Workers, chunks


@dataclass(frozen=True)
class StreamedImages:
    """The images of one split: those of decoder `name` at the indexes `readable` (N,)."""

    workers: Workers
    name: str
    readable: np.ndarray

    def batches(self, indexes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 (n, C, H, W) for each 1-D int64 tensor of indexes, in order; pinned when CUDA is in use.

        While one batch is used, the next is decoded. `RunError` if a worker dies.
        """
        largest = max((len(chosen) for chosen in indexes), default=0)
        pieces = (piece for chosen in indexes for piece in chunks(self.readable[chosen.numpy()].tolist()))
        decoded = self.workers.decode(self.name, pieces, 2 * self.workers.count + -(-largest // CHUNK))
        for chosen in indexes:
            parts = list(islice(decoded, -(-len(chosen) // CHUNK)))
            batch = torch.empty(
                (len(chosen), *parts[0].shape[1:]), dtype=torch.uint8, pin_memory=torch.cuda.is_initialized()
            )
            np.concatenate(parts, out=batch.numpy())
            yield batch
