"""What Apple's GPUs (PyTorch's device `mps`) are not asked to do. Nobody has run this program on one."""

from typing import NamedTuple

import torch

from mae.config.resolve import acts, flatten
from mae.config.tree import Config
from mae.errors import ImpossibleSettings


class Refused(NamedTuple):
    """Values of a key that are refused, why, and what to give in their place."""

    values: tuple[str, ...]
    reason: str
    instead: str


_FLOAT64 = "it computes in float64, which MPS has not"

REFUSED = {
    "train.precision": Refused(("bf16", "fp16"), "no mixed precision has been compared with fp32 on MPS", "fp32"),
    "train.compile": Refused(
        ("default", "max-autotune", "cudagraphs"), "PyTorch's compiler for MPS is a prototype", "off"
    ),
    "mask.sampling": Refused(("colored_noise",), _FLOAT64, "random"),
    "inpaint.region": Refused(("shapes",), _FLOAT64, "blocks"),
}


def check(config: Config, device: torch.device) -> None:
    """Raise `ImpossibleSettings` if a pretraining is to do on MPS what is refused there."""
    if device.type != "mps":
        return
    values = flatten(config.model_dump())
    for key, refused in REFUSED.items():
        if values[key] in refused.values and acts(key, values):
            raise ImpossibleSettings(
                f"{key}={values[key]} on --device mps: {refused.reason}; give {key}={refused.instead}, or --device cpu"
            )
