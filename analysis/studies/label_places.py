"""Where names of points stand in a panel, so that none lies on another one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

RADII = (6, 9, 13, 18, 25, 34, 45, 60, 80)
"""Distances of a name from its point that are tried, points."""

LED = 13
"""From this distance on a thin line leads from a name to its point."""

ANGLES = np.deg2rad([20, 340, 160, 200, 60, 300, 120, 240, 90, 270, 0, 180])
"""Directions that are tried, those beside the point first."""

COVERS_A_NAME, LEAVES_THE_PANEL, COVERS_A_POINT = 1000.0, 1000.0, 100.0
NEARER_TO_ANOTHER, COVERS_A_LINE = 12.0, 4.0
"""How bad a place is, beside its distance from the point in points."""

MARK = 4
"""Radius of a point's mark, points."""

SIZE = 7
"""Of the names' font."""


def place_labels(
    panel: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    lines: Sequence[np.ndarray] = (),
) -> list[Annotation]:
    """Name the points (x, y) of a panel whose limits are final; `lines` are upright or level ones, their ends (2, 2).

    A point whose name is empty has none, but is not covered either.
    A name goes to the nearest place in the panel where it covers no other name and no point; where that can be, it
    stands nearer to its own point than to another one, and covers no line.
    """
    figure = panel.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # the layout, and with it every size, is settled
    scale = figure.dpi / 72
    where = panel.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2)) / scale
    ends = [panel.transData.transform(line) / scale for line in lines]
    drawn = [Bbox.from_extents(*(each.min(axis=0) - 1), *(each.max(axis=0) + 1)) for each in ends]
    inside = Bbox(panel.get_window_extent().get_points() / scale)
    taken: list[Bbox] = []
    labels = []
    for index, (name, point) in enumerate(zip(names, points, strict=True)):
        if not name:
            continue
        size = np.asarray(_size(panel, name, scale))
        tried = [_place(where[index], size, radius, angle) for radius in RADII for angle in ANGLES]
        bad = [
            radius
            + LEAVES_THE_PANEL * (not (inside.contains(*box.min) and inside.contains(*box.max)))
            + COVERS_A_NAME * box.count_overlaps(taken)
            + _beside_others(box, where, index, radius)
            + COVERS_A_LINE * box.count_overlaps(drawn)
            for radius, _, box in tried
        ]
        radius, offset, box = tried[int(np.argmin(bad))]
        taken.append(box)
        arrow = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkA": 0, "shrinkB": 3}
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "va": "center",
            "fontsize": SIZE,
            "zorder": 5,
        }
        led = arrow if radius >= LED else None
        labels.append(panel.annotate(name, point, xytext=tuple(offset), arrowprops=led, **style))
        labels[-1].set_in_layout(False)
        labels[-1].set_path_effects([withStroke(linewidth=2, foreground="white")])  # where it must cover a line
    return labels


def _place(spot: np.ndarray, size: np.ndarray, radius: float, angle: float) -> tuple[float, np.ndarray, Bbox]:
    """Return radius, offset of the centre from the point, and the box of a name in one direction, in points."""
    offset = np.array([np.cos(angle), np.sin(angle)]) * (radius + size / 2)
    return radius, offset, Bbox.from_bounds(*(spot + offset - size / 2), *size)


def _size(panel: Axes, name: str, scale: float) -> tuple[float, float]:
    """Return width and height of a name, points."""
    text = panel.text(0, 0, name, fontsize=SIZE)
    extent = text.get_window_extent()
    text.remove()
    return extent.width / scale, extent.height / scale


def _beside_others(box: Bbox, where: np.ndarray, index: int, radius: float) -> float:
    """Return how bad it is what a name is to other points than its own: it hides one, or is nearer and without line."""
    distances = _distances(box, where)
    hidden = np.delete(distances, index).min(initial=np.inf) < MARK
    return COVERS_A_POINT * hidden + NEARER_TO_ANOTHER * (distances.argmin() != index and radius < LED)


def _distances(box: Bbox, points: np.ndarray) -> np.ndarray:
    """Return how far points (n, 2) are from the edge of a box, 0 inside it."""
    return np.hypot(*np.maximum(0, np.maximum(box.min - points, points - box.max)).T)
