"""The same test images as the encoders of a study's finished runs see them: features of a few hundred."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.studies.encoded_images import NOTHING, EncodedImages
from mae.config.tree import Config
from mae.data.augmentation import centre
from mae.data.dataset import ImageData
from mae.errors import RunError, UserError, first_line
from mae.pipeline import Workplace, images_of, load_pretext, stored_config
from mae.probing.features import centred, encode, raw_pixels
from mae.runs.directory import ENCODER, RunDirectory
from mae.runs.weights import read_weights, write_weights
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Progress
from mae.tracking.mlflow_store import NONE

IMAGES = 300
"""Most test images that are encoded: enough for neighbours and similarities, and seconds of work for a small model."""


def encode_study(frame: pd.DataFrame, runs_dir: Path, progress: Progress) -> EncodedImages:
    """Return the features that the finished runs of one study have of test images, evenly spaced over the test set.

    They are computed in float32 on the CPU, and kept in the runs' folders for the next time. A run that is not under
    `runs_dir`, or is damaged, is left out with the reason; where no run or image is there, all is empty.
    """
    where = Workplace(runs_dir, NONE, torch.device("cpu"), progress, StopRequest())
    trials = frame[frame["status"] == "finished"].sort_values(["order", "seed"]).drop_duplicates(["cell", "seed"])
    images: tuple[ImageData, Config] | None = None
    features, left_out = {}, []
    with progress.task("encoding test images", len(trials)) as task:
        for trial in trials.to_dict("records"):
            run, name = RunDirectory(runs_dir / trial["run"]), f"{trial['cell']}, seed {trial['seed']} ({trial['run']})"
            try:
                config = _as_probed(run, f"{trial['base_probe']} {trial['cell_probe']}")
                images = images or (images_of(run, config, where), config)
                features[str(trial["cell"]), int(trial["seed"])] = _features(run, config, images[0]).numpy()
            except Exception as error:  # whatever a damaged run does: the report is about the others
                left_out.append(f"{name}: {first_line(error)}")
            task.advance()
    if images is None:
        return EncodedImages(**{**vars(NOTHING), "left_out": left_out})
    data, config = images
    chosen = _stored(data)
    shown = centre(chosen, config.data).permute(0, 2, 3, 1).numpy()
    pixels = torch.cat(list(raw_pixels([chosen], config.data, data))).numpy()
    return EncodedImages(shown, data.test.labels[_chosen(data)].numpy(), pixels, features, left_out)


def _as_probed(run: RunDirectory, probe: str) -> Config:
    """Return a run's config, with those probe settings of a study, in words, that say what is read of an encoder."""
    if not (run.path / ENCODER).exists():
        raise UserError(f"there is no {ENCODER} in {run.path}")
    defaults = Config().probe
    read: dict[str, Any] = {"features": defaults.features, "layer": defaults.layer}
    read |= dict(re.findall(r"probe\.(features|layer)=(\S+)", probe))
    settings = tuple(f"probe.{key}={'unset' if value is None else value}" for key, value in read.items())
    return stored_config(run, settings, ("probe",))


def _chosen(data: ImageData) -> Tensor:
    count = len(data.test.labels)
    return torch.linspace(0, count - 1, min(IMAGES, count)).long()


def _stored(data: ImageData) -> Tensor:
    """Return the chosen test images as they are stored, uint8 (n, C, h, w)."""
    return torch.cat([batch.cpu() for batch in data.test.images.batches([_chosen(data)])])


def _features(run: RunDirectory, config: Config, data: ImageData) -> Tensor:
    """Return features (n, D) of the chosen images: kept ones, or computed now and kept where that can be."""
    probe = config.probe
    kept = run.path / "features" / f"{IMAGES}-images-{probe.features}-{probe.layer or 'last'}.safetensors"
    with suppress(UserError, RunError, KeyError):
        if len(known := read_weights(kept)["features"]) == len(_chosen(data)):
            return known
    pretext = load_pretext(run, config, torch.device("cpu"))
    batches = centred(pretext, _stored(data).split(64), torch.device("cpu"))
    features = torch.cat(list(encode(pretext, batches, probe.features, probe.layer)))
    if not features.isfinite().all():
        raise UserError("its features are not all numbers")
    with suppress(OSError, RunError):  # a folder that cannot be written to
        write_weights(kept, {"features": features})
    return features
