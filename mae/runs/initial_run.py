"""The finished run whose weights another one begins with: `train.init_from` names it."""

from pathlib import Path

from mae.config.fingerprint import PRETRAIN_SECTIONS
from mae.config.resolve import flatten, inert_keys
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.named_runs import check_same, finished_run, in_words

ENCODER = ("data.channels", "model.encoder.dim", "model.encoder.depth", "model.encoder.heads", "model.norm_eps")
"""What two runs have to agree on, so that an encoder's weights mean the same in both; `heads` is in no shape."""

OF_PATCHES, OF_PIXELS = ("model.patch_size",), ("data.image_size", "igpt.side", "igpt.colors")
"""And what besides: positions of patches are interpolated, those of pixels are not."""

NOT_OF_THE_TASK = ("train", "mask", "loss", "beit")
"""Sections that say how a task is trained, not what it is made of."""

OF_THE_DATA = ("data.image_size", "data.channels")


def initial_run(config: Config, runs_dir: Path) -> RunDirectory | None:
    """Return the run that a config begins from, None if it begins with random weights.

    `UserError` if it is not there or not finished, or if its encoder is not of this config's shape.
    """
    key, name = "train.init_from", config.train.init_from
    if name is None:
        return None
    advice = "pretrain it there first, or `mae-cli import` a checkpoint and name the run that it gives"
    run, its = finished_run(key, name, runs_dir, advice)
    if config.pixel_tokens != its.pixel_tokens:
        reads = {True: "pixels of a palette", False: "patches"}
        raise UserError(
            f"{key}={name}: its encoder reads {reads[its.pixel_tokens]}, expected one of {reads[config.pixel_tokens]} "
            f"as pretext.kind={config.pretext.kind} needs"
        )
    check_same(key, name, config, its, (*ENCODER, *(OF_PIXELS if config.pixel_tokens else OF_PATCHES)))
    return run


def task_differences(config: Config, its: Config) -> list[str]:
    """Return as `key=value` the settings of another run in which its task is made otherwise than this config's.

    Where there are none, all weights of the task have the same names, shapes and meaning.
    """
    if config.pretext.kind != its.pretext.kind:
        return [f"pretext.kind={its.pretext.kind}"]
    own, other = (flatten(each.model_dump()) for each in (config, its))
    inert = inert_keys(config) & inert_keys(its)
    sections = [each for each in PRETRAIN_SECTIONS if each not in ("data", *NOT_OF_THE_TASK)]
    made_of = [key for key in own if key.split(".")[0] in sections or key in OF_THE_DATA]
    return [f"{key}={in_words(other[key])}" for key in made_of if key not in inert and own[key] != other[key]]
