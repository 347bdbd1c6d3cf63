"""Colours in CIE Lab: lightness L in 0..100, and a (green to red) and b (blue to yellow), as far apart as people see
them. Of sRGB under D65 (IEC 61966-2-1, CIE 15), on the device that the images are on.
"""

import functools

import torch
from torch import Tensor

from mae.runtime.autocast import full

BIN = 10.0
"""Side of a bin of the ab plane (Zhang et al., 2016, section 2.1)."""

_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE = 6 / 29
"""Where the cube root of the standard goes over to a line."""


def rgb_to_lab(images: Tensor) -> Tensor:
    """Return Lab (..., 3, H, W) of sRGB images (..., 3, H, W) in 0..1."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    ratio = _through(_TO_XYZ, linear) / _column(_WHITE, images)
    x, y, z = torch.where(
        ratio > _KNEE**3, ratio.clamp(min=_KNEE**3) ** (1 / 3), ratio / (3 * _KNEE**2) + 4 / 29
    ).unbind(dim=-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_to_rgb(images: Tensor) -> Tensor:
    """Return sRGB images (..., 3, H, W) in 0..1 of Lab (..., 3, H, W); colours outside sRGB are cut off."""
    lightness, a, b = images.unbind(dim=-3)
    y = (lightness + 16) / 116
    ratio = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    ratio = torch.where(ratio > _KNEE, ratio**3, 3 * _KNEE**2 * (ratio - 4 / 29))
    linear = _through(_from_xyz(), ratio * _column(_WHITE, images)).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


@functools.cache
def gamut() -> Tensor:
    """Return the centres (Q, 2) of the bins of the ab plane that some sRGB colour of 8 bits falls into, in order.

    Which a and b there are at any lightness, the faces of the cube of colours show: from a colour inside, lighter and
    darker ones of its a and b lead to them.
    """
    levels = torch.arange(256, device="cpu", dtype=torch.float64) / 255
    one, other = torch.meshgrid(levels, levels, indexing="ij")
    faces = [
        torch.stack([one, other, torch.full_like(one, end)]).roll(axis, dims=0) for end in (0, 1) for axis in range(3)
    ]
    ab = rgb_to_lab(torch.stack(faces))[:, 1:].permute(0, 2, 3, 1).reshape(-1, 2)
    return (BIN * (ab / BIN).round()).unique(dim=0).float()


@functools.cache
def _from_xyz() -> tuple[tuple[float, ...], ...]:
    inverse = torch.tensor(_TO_XYZ, device="cpu", dtype=torch.float64).inverse()
    return tuple(map(tuple, inverse.tolist()))


def _through(matrix: tuple[tuple[float, ...], ...], images: Tensor) -> Tensor:
    """Return what a matrix (3, 3) makes of every pixel of images (..., 3, H, W), exact under mixed precision too."""
    with full(images.device):
        return torch.einsum("ij,...jhw->...ihw", images.new_tensor(matrix), images)


def _column(values: tuple[float, ...], images: Tensor) -> Tensor:
    return images.new_tensor(values).view(-1, 1, 1)
