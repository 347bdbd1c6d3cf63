"""Where features lie: in memory, or in a file where memory is short; on a GPU while a probe learns from them.

They are float32 everywhere: ImageNet's, 5 GB of each encoder and 16 GB of raw pixels, need no rounding to be probed in
24 GB of memory and 40 GB of a GPU, as what does not fit in memory is in the file.
"""

import os
from collections.abc import Iterable
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from mae.data.sources import cache_folder
from mae.errors import RunError
from mae.runtime.system_metrics import free_memory


def gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """Return the `count` rows of all parts, (count, D), float32 on the CPU, without a second copy of them."""
    features, done = torch.empty(0), 0
    for part in parts:
        if not done:
            features = _room(count, part.shape[1])
        features[done : done + len(part)] = part
        done += len(part)
    return features


def near(features: Tensor, device: torch.device) -> Tensor:
    """Return features on `device` if they take less than half of its free memory, else where they are."""
    return features.to(device) if features.nbytes < free_memory(device) / 2 else features


def _room(rows: int, columns: int) -> Tensor:
    """Return float32 (rows, columns), in a file if they would take more than half of the free memory.

    The file has no name: the system removes it with the tensor or the process, however that ends. The system also moves
    what is in memory of it to disk and back as others need memory.
    """
    size = 4 * rows * columns
    if size <= free_memory(torch.device("cpu")) / 2:
        return torch.empty(rows, columns)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk full later would end the process
            return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(rows, columns)))
    except OSError as error:
        raise RunError(
            f"features take {size / 1e9:.1f} GB, more than half of the free memory, and cannot be kept in {folder}: "
            f"{error.strerror or error}; free memory or disk, or set MAE_CACHE_DIR to a folder on another disk"
        ) from error
