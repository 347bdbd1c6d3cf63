"""Weights of a finished run that a task begins with, in place of random ones (`train.init_from`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae.pretext.base import Pretext

POSITIONS, MASK_TOKEN = "encoder.pos_embed", "encoder.encoder_mask_token"


@dataclass(frozen=True)
class Beginning:
    """The state of another run's task, its rows and columns of patches, and whether all of it is begun with, or the
    encoder alone."""

    state: Mapping[str, Tensor]
    grid: tuple[int, int]
    whole: bool


def begin(task: Pretext, beginning: Beginning) -> None:
    """Give a task, just built, the weights of another run; what that lacks stays as it is.

    Positions of another grid are interpolated, bicubic. An encoder's mask token is taken over if both have one.
    """
    given = dict(beginning.state)
    if beginning.grid != task.config.grid:
        grids = list(task.config.grid), list(beginning.grid)
        given[POSITIONS] = resample_abs_pos_embed(given[POSITIONS], *grids).contiguous()
    own = task.state_dict()
    kept = {MASK_TOKEN, *task.schedule_state}.intersection(own)
    kept -= {MASK_TOKEN}.intersection(given)
    if not beginning.whole:
        given = {name: value for name, value in given.items() if name.startswith("encoder.")}
        kept |= {name for name in own if not name.startswith("encoder.")}
    if MASK_TOKEN not in own:
        given.pop(MASK_TOKEN, None)
    task.load_state_dict(given | {name: own[name] for name in kept})
