"""Figures of what the encoders of a study have learned: neighbours in feature space, and how alike features are."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from analysis.statistics.feature_similarity import similarities
from analysis.studies.encoded_images import EncodedImages
from analysis.studies.figure_style import NARROW, PALETTE, styled

NEIGHBOURS, QUERIES = 4, 3
"""Neighbours of each image, and images, in the picture of neighbours."""

PIXELS = "raw pixels"


def neighbours_of(features: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes (n, count) of the images whose features (n, D) are most similar to each one's by cosine.

    An image is not its own neighbour; equal ones are told in the order of the images.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def queries_of(labels: np.ndarray, count: int) -> list[int]:
    """Return the indexes of `count` images or fewer, each the first of its class, spread over the classes."""
    classes, first = np.unique(labels, return_index=True)
    return first[np.linspace(0, len(classes) - 1, min(count, len(classes))).round().astype(int)].tolist()


@styled
def neighbour_figure(encoded: EncodedImages) -> Figure:
    """Return a row per cell, of its first seed, and one of raw pixels: the neighbours of the same few images.

    Neighbours of the image's own class have a frame; the number is the share of these among all images.
    """
    rows: dict[str, np.ndarray] = {}
    for (cell, _), features in encoded.features.items():
        rows.setdefault(cell, features)
    rows[PIXELS] = encoded.pixels
    queries = queries_of(encoded.labels, QUERIES)
    widths = ([1.0] * NEIGHBOURS + [0.4]) * len(queries)
    engine = ConstrainedLayoutEngine(w_pad=0.005, h_pad=0.005, wspace=0, hspace=0)
    figure = Figure(figsize=(NARROW, 0.32 * (len(rows) + 1.4) + 0.1), layout=engine)
    grid = figure.add_gridspec(
        len(rows) + 1, len(widths) + 1, width_ratios=[4.5, *widths], height_ratios=[1.4] + [1] * len(rows)
    )
    title = figure.add_subplot(grid[0, 0])
    title.set_axis_off()
    title.text(1, 0.5, "image", ha="right", va="center", fontsize=7)
    for place, query in enumerate(queries):
        first = 1 + place * (NEIGHBOURS + 1)
        _show(figure.add_subplot(grid[0, first : first + NEIGHBOURS]), encoded.images[query], None)
    for number, (cell, features) in enumerate(rows.items(), start=1):
        nearest = neighbours_of(features, NEIGHBOURS)
        right = encoded.labels[nearest] == encoded.labels[:, None]
        name = figure.add_subplot(grid[number, 0])
        name.set_axis_off()
        name.text(1, 0.5, f"{cell}, {100 * right.mean():.0f} %", ha="right", va="center", fontsize=7)
        for place, query in enumerate(queries):
            for rank, index in enumerate(nearest[query]):
                panel = figure.add_subplot(grid[number, 1 + place * (NEIGHBOURS + 1) + rank])
                _show(panel, encoded.images[index], bool(right[query, rank]))
    return figure


def _show(panel: Axes, image: np.ndarray, right: bool | None) -> None:
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)
    panel.spines[:].set(visible=bool(right), color=PALETTE[2], linewidth=2)


def task_similarities(features: Mapping[tuple[str, int], np.ndarray]) -> pd.DataFrame:
    """Return the mean linear CKA between cells, of runs of different seeds; alike cells beside one another.

    Runs of one seed begin with the same weights and would be alike by that, so that they count only where a study has
    one seed. The diagonal, a cell with itself over its seeds, is what noise leaves of 1; NaN with one seed.
    """
    cells = list(dict.fromkeys(cell for cell, _ in features))
    found = similarities(list(features.values()))
    runs = pd.DataFrame(list(features), columns=["cell", "seed"])
    several = runs["seed"].nunique() > 1
    seeds = runs["seed"].to_numpy()
    counted = seeds[:, None] != seeds if several else ~np.eye(len(runs), dtype=bool)
    members = [np.flatnonzero(runs["cell"] == cell) for cell in cells]
    means = np.full((len(cells), len(cells)), np.nan)
    for i, own in enumerate(members):
        for j, others in enumerate(members):
            values = found[np.ix_(own, others)][counted[np.ix_(own, others)]]
            means[i, j] = np.nan if np.isnan(values).all() else np.nanmean(values)
    order = _alike_together(means)
    names = [cells[index] for index in order]
    return pd.DataFrame(means[np.ix_(order, order)], index=names, columns=names)


def _alike_together(means: np.ndarray) -> list[int]:
    """Return an order in which alike cells are neighbours: the leaves of average linkage, turned to fit."""
    if len(means) < 3:
        return list(range(len(means)))
    distances = 1 - np.nan_to_num(means)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return [int(index) for index in leaves_list(tree)]


@styled
def similarity_figure(means: pd.DataFrame) -> Figure:
    """Return a matrix of `task_similarities`, the values in its cells, the diagonal framed."""
    count = len(means)
    side = min(NARROW, 0.36 * count + 1.6)
    figure = Figure(figsize=(side, side), layout="constrained")
    panel = figure.subplots()
    values = means.to_numpy()
    panel.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1)
    size = max(4.0, min(8.0, 90 / count))
    for (row, column), value in np.ndenumerate(values):
        text = "" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)
        color = "white" if value < 0.6 else "black"
        panel.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    for index in range(count):
        panel.add_patch(Rectangle((index - 0.5, index - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.2))
    panel.set_xticks(range(count), means.columns, rotation=90)
    panel.set_yticks(range(count), means.index)
    panel.grid(visible=False)
    panel.tick_params(length=0)
    panel.spines[:].set(visible=False)
    return figure
