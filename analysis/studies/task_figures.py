"""Figures of a study whose cells are pretext tasks: what each costs, how it learns, what its encoder has learned."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from analysis.statistics.comparisons import Test
from analysis.statistics.feature_similarity import similarities
from analysis.studies.encoded_images import EncodedImages
from analysis.studies.figure_style import (
    ACCURACY,
    BARS,
    BASELINE_LINES,
    COLORS,
    GREY,
    MARKERS,
    PALETTE,
    bars_of,
    explain,
    styled,
)
from analysis.studies.label_places import place_labels
from analysis.studies.pareto import pareto_front
from analysis.studies.tables import BASELINES, summarise
from mae.probing.kinds import PROBES, probe_title

WIDTH = 5.4
"""Of a figure, inches: at a phone's width its text is still read, so panels stand below each other."""

COSTS = {
    "tflop": "compute of pretraining, $10^{12}$ operations",
    "seconds": "time of pretraining, seconds",
}
SPENT = {"epochs": "epochs of pretraining", **COSTS}
"""What a learning curve may be over, with the axis' label."""

NEIGHBOURS, QUERIES = 4, 3
"""Neighbours of each image, and images, in the picture of neighbours."""

PIXELS = "raw pixels"

RANGE = {"mean": "mean", "low": "min", "high": "max"}
"""A learning curve and its band, over seeds."""

BAR = "bar"
"""What marks the lines of a panel that are bars."""


@styled
def task_cost_figure(frame: pd.DataFrame, cost: str, test: Test | None = None) -> Figure:
    """Return a panel per probe of accuracy against `tflop` or `seconds`, a named point per cell; empty without results.

    A bar is that of `study_figure`, of the difference from the default, which is ringed; where nothing is compared, it
    is the interval of the mean. A cell without training has no point: it is the line of the untrained encoder.
    """
    summary = summarise(frame, test).dropna(subset=["mean"])
    summary = summary[summary["probe"].isin(list(PROBES))]
    trained = summary[summary[cost].notna() & (summary["gflops"] > 0)]
    probes = [probe for probe in PROBES if probe in set(trained["probe"])]
    if not probes:
        return Figure()
    figure = Figure(figsize=(WIDTH, 3.4 * len(probes) + 0.5), layout="constrained")
    panels = list(figure.subplots(len(probes), 1, squeeze=False)[:, 0])
    for panel, probe in zip(panels, probes, strict=True):
        bars = bars_of(summary[summary["probe"] == probe])
        if (bars["kind"] == "").all():
            bars = bars.assign(**{"from": bars["low"], "to": bars["high"], "kind": "mean"})
        bars = bars[bars.index.isin(trained.index)]
        _draw_costs(panel, bars, probe, cost)
        panel.set(title=probe_title(probe), ylabel=ACCURACY)
        _label_costs(panel, COSTS[cost])
    explain(figure, panels)
    for panel, probe in zip(panels, probes, strict=True):
        _name_points(panel, trained[trained["probe"] == probe], cost)
    return figure


def _draw_costs(panel: Axes, bars: pd.DataFrame, probe: str, cost: str) -> None:
    color = COLORS[probe]
    for row in bars.to_dict("records"):
        if row["kind"]:
            ends, label = [row["from"], row["to"]], BARS.get(row["kind"], "95 % interval of the mean over seeds")
            panel.plot([row[cost]] * 2, ends, color=color, linewidth=1.2, alpha=0.6, gid=BAR, label=label, zorder=2)
        ring = {"markeredgecolor": "black", "label": "mean of the default"} if row["is_default"] else {}
        style = {"color": color, "markersize": 5, "label": "mean of a task", "zorder": 4}
        panel.plot(row[cost], row["mean"], MARKERS[probe], **{**style, **ring})
    front = pareto_front(bars, cost, "mean")
    steps = {"drawstyle": "steps-post", "color": "black", "linewidth": 0.9, "zorder": 3}
    panel.plot(front[cost], front["mean"], label="Pareto front of the means", **steps)
    _draw_baselines(panel, bars, cost)


def _name_points(panel: Axes, rows: pd.DataFrame, cost: str) -> None:
    bars = [np.asarray(line.get_xydata()) for line in panel.lines if line.get_gid() == BAR]
    ends = [(x, low, high) for (x, low), (_, high) in bars]
    place_labels(panel, list(zip(rows[cost], rows["mean"], strict=True)), rows["cell"].tolist(), ends)


def _draw_baselines(panel: Axes, bars: pd.DataFrame, cost: str) -> None:
    """Draw baselines as lines, and a mark below or above each task whose own untrained encoder is another one."""
    for name, dashes in BASELINE_LINES.items():
        values = bars[name].dropna()
        if values.empty:
            continue
        of_most = values.round(6).mode().iloc[0]
        panel.axhline(of_most, color=GREY, linestyle=dashes, linewidth=1, zorder=1, label=BASELINES[name])
        others = bars[bars[name].notna() & ((bars[name] - of_most).abs() > 1e-3)]
        if len(others):
            style = {"color": GREY, "markersize": 8, "zorder": 1}
            panel.plot(others[cost], others[name], "_", label=f"{BASELINES[name]} of the task above or below", **style)


def _label_costs(panel: Axes, label: str) -> None:
    panel.set_xscale("log")
    low, high = panel.dataLim.intervalx
    panel.set_xlim(low / 1.6, high * 1.6)
    panel.margins(y=0.08)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set(xlabel=label)


def learning_curves(frame: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the online k-NN accuracies of a study's runs, with what was spent until then in each of `SPENT`.

    Of the whole training's compute, seconds and epochs it is the share of the steps; columns order, cell, seed,
    online_knn, epochs, tflop, seconds.
    """
    runs = frame[frame["status"] == "finished"].drop_duplicates(["study_id", "cell", "seed"])
    found = curves.merge(runs[["study_id", "cell", "seed", *COSTS]], on=["study_id", "cell", "seed"])
    ends = found.groupby(["cell", "seed"])[["step", "epoch"]].transform("max")
    found["epochs"] = ends["epoch"] + 1  # epochs are counted from 0
    share = found["step"] / ends["step"]
    found = found.assign(**{spent: found[spent] * share for spent in SPENT}).dropna(subset=["online_knn"])
    return found[["order", "cell", "seed", "online_knn", *SPENT]].reset_index(drop=True)


@styled
def learning_figure(points: pd.DataFrame, spent: str) -> Figure:
    """Return a small panel per cell, the best at its end first: its online k-NN over what was `spent`, all others grey.

    A line is the mean over seeds, a band reaches from the lowest to the highest; empty where no cell has two points.
    """
    lines = _lines(points.dropna(subset=[spent]), spent)
    if lines["cell"].nunique() == len(lines):
        return Figure()
    ends = lines.groupby("cell", sort=False)["mean"].last().sort_values(ascending=False, kind="stable")
    columns = min(3, len(ends))
    rows = -(-len(ends) // columns)
    figure = Figure(figsize=(WIDTH, 1.15 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    if spent != "epochs":
        panels[0, 0].set_xscale("log")
    for panel, (cell, end) in zip(panels.flat, ends.items(), strict=False):
        for _, line in lines.groupby("cell", sort=False):
            panel.plot(line["x"], line["mean"], color="0.85", linewidth=0.7, zorder=1)
        line = lines[lines["cell"] == cell]
        panel.fill_between(line["x"], line["low"], line["high"], color=PALETTE[0], alpha=0.25, linewidth=0, zorder=2)
        panel.plot(line["x"], line["mean"], ".-", color=PALETTE[0], linewidth=1.4, markersize=4, zorder=3)
        panel.set_title(f"{cell}, {end:.0f} %", fontsize=8)
        if spent != "epochs":
            panel.xaxis.set_major_locator(LogLocator(numticks=4))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_locator(NullLocator())
    for panel in list(panels.flat)[len(ends) :]:
        panel.remove()
    for panel in list(panels.flat)[len(ends) - columns : len(ends)]:
        panel.tick_params(labelbottom=True)  # also above a place that is left empty
    figure.supxlabel(SPENT[spent], fontsize=8)
    figure.supylabel("online k-NN, top-1, %", fontsize=8)
    return figure


def _lines(points: pd.DataFrame, spent: str) -> pd.DataFrame:
    """Return per cell and epoch the means over seeds of `x` and of accuracies, and their lowest and highest."""
    found = points.groupby(["order", "cell", "epochs"])
    values = {"x": (spent, "mean")} | {name: ("online_knn", how) for name, how in RANGE.items()}
    return found.agg(**values).reset_index() if len(points) else pd.DataFrame(columns=["cell", *values])


def neighbours_of(features: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes (n, count) of the images whose features (n, D) are most similar to each one's by cosine.

    An image is not its own neighbour; equal ones are told in the order of the images.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def queries_of(labels: np.ndarray, count: int) -> list[int]:
    """Return the indexes of `count` images, of as many classes as can be, spread over the classes."""
    classes = np.unique(labels)
    wanted = classes[np.linspace(0, len(classes) - 1, min(count, len(classes))).round().astype(int)]
    return [int(np.flatnonzero(labels == each)[0]) for each in wanted]


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
    figure = Figure(figsize=(WIDTH, 0.32 * (len(rows) + 1.4) + 0.1), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.005, h_pad=0.005, wspace=0, hspace=0)
    grid = figure.add_gridspec(
        len(rows) + 1, len(widths) + 1, width_ratios=[4.5, *widths], height_ratios=[1.4] + [1] * len(rows)
    )
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
    side = min(WIDTH, 0.36 * count + 1.6)
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
