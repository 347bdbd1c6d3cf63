"""Tensors in nested dicts and lists, as the state of a training is one."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def each_tensor(nested: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same nested dicts and lists, new ones, with each tensor changed, in order; other values stay."""
    if isinstance(nested, Tensor):
        return change(nested)
    if isinstance(nested, dict):
        return {key: each_tensor(value, change) for key, value in nested.items()}
    if isinstance(nested, list):
        return [each_tensor(value, change) for value in nested]
    return nested
