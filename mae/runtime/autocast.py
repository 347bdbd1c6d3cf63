"""Precision of matrix products: mixed where a training asks for it, full where pixels or targets are computed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def mixed(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute matrix products within the block in fp32, bf16 or fp16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def full(device: torch.device) -> AbstractContextManager[Any]:
    """Compute within the block in float32, whatever is around it."""
    if not torch.amp.is_autocast_available(device.type):  # on the meta device nothing is computed
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def encoding_precision(device: torch.device) -> str:
    """Return bf16 for a GPU that computes in it, else fp32: features of a frozen encoder need no gradients."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
