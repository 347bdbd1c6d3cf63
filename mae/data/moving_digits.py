"""Clips without a download: the embedded digits, each moving at a constant speed between four walls.

A clip's class is its speed across and down, in pixels per frame: a bounce changes the direction but not the speed, so
that every part of a clip has the same class, and so has its mirror image. No single frame tells it, as a digit's class
would be told: a probe of it asks what an encoder knows of time.
"""

from typing import NamedTuple

import numpy as np

SIDE = 16
"""Height and width of a frame, pixels; a digit has half of them."""

SPEEDS = [(down, across) for down in range(3) for across in range(3) if down or across]
"""The classes: pixels per frame, down and across."""


class Motions(NamedTuple):
    """How N digits move: phases (N, 2), down and across, and classes (N,), int64 all."""

    phases: np.ndarray
    classes: np.ndarray


def motions(count: int) -> Motions:
    """Return the motions of `count` digits: always the same ones, all classes equally often."""
    draws = np.random.default_rng(0)
    return Motions(draws.integers(0, SIDE, (count, 2)), draws.permutation(count) % len(SPEEDS))


def frames_of(digit: np.ndarray, phase: np.ndarray, label: int, times: np.ndarray) -> np.ndarray:
    """Return uint8 (T, SIDE, SIDE) of a digit (8, 8) on black, at `times` (T,) in frames of the video."""
    room = SIDE - len(digit)
    there_and_back = (phase + times[:, None] * np.array(SPEEDS[label])) % (2 * room)
    corners = np.minimum(there_and_back, 2 * room - there_and_back)
    frames = np.zeros((len(times), SIDE, SIDE), np.uint8)
    for frame, (top, left) in zip(frames, corners, strict=True):
        frame[top : top + len(digit), left : left + len(digit)] = digit
    return frames
