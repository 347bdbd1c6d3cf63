"""What the models of a study's cells make of the same images: of those the data set is needed, else the runs alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.studies.figures import Pictures
from mae.data.augmentation import centre
from mae.errors import RunError, UserError
from mae.pipeline import Workplace, images_of, load_pretext, stored_config
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.pictures import shown_images
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.runtime.rng import generator
from mae.tracking.mlflow_store import NONE

IMAGES = 3
"""How many of the test images that runs draw are shown."""


def reconstruct_cells(frame: pd.DataFrame, runs_dir: Path) -> tuple[np.ndarray, dict[str, Pictures]]:
    """Return test images (n, H, W, C), and what each cell's first finished seed makes of them under its own mask.

    Cells whose runs or images are not on this machine are left out.
    """
    where = Workplace(runs_dir, NONE, torch.device("cpu"), Silent(), StopRequest())
    done = frame[frame["status"] == "finished"].sort_values(["order", "seed"])
    originals, cells = np.empty((0, 0, 0, 0)), {}
    for cell, trials in done.groupby("cell", sort=False):
        run = RunDirectory(runs_dir / str(trials["run"].iloc[0]))
        try:
            config = stored_config(run, (), ())
            pretext = load_pretext(run, config, where.device)
            images = centre(shown_images(images_of(run, config, where))[:IMAGES], config.data)
        except (RunError, UserError):
            continue
        if not isinstance(pretext, MaskedAutoencoder):
            continue
        mask = pretext.mask(pretext.draw(len(images), generator(config.train.seed, "picture")))
        originals = _channels_last(images)
        masked, completed = pretext.reconstruct(images, mask)
        cells[str(cell)] = (_channels_last(masked), _channels_last(completed))
    return originals, cells


def _channels_last(images: torch.Tensor) -> np.ndarray:
    """Of clips (n, C, T, H, W), the frame in the middle."""
    images = images[:, :, images.shape[2] // 2] if images.ndim == 5 else images
    return images.permute(0, 2, 3, 1).numpy()
