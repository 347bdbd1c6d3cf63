"""Figures of sweeps, from their frames, importances and Optuna studies."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import pandas as pd
import seaborn as sns
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.sweeps.frame import under_one
from mae.runs.sweep_record import ObjectiveRecord

BEST, TRIAL = sns.color_palette("colorblind")[:2]
GREY = "0.55"
CONTOURS = 4
"""Most parameters of the contour plot: it has a panel for each pair."""


def best_so_far(frame: pd.DataFrame, objective: ObjectiveRecord) -> Figure:
    """Return an objective over trials: each complete one, the best so far, and the default's as a dashed line."""
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    done = frame[frame["state"] == "complete"].sort_values("number")
    values = done[objective.name]
    best = values.cummax() if objective.direction == "maximize" else values.cummin()
    axes.plot(done["number"], values, "o", color=TRIAL, markersize=4, alpha=0.7, label="trial")
    axes.step(done["number"], best, where="post", color=BEST, label="best so far")
    pruned = frame.loc[frame["state"] == "pruned", "number"]
    axes.plot(pruned, [0.02] * len(pruned), "|", color=GREY, transform=axes.get_xaxis_transform(), label="pruned")
    for value in done.loc[done["is_default"], objective.name].head(1):
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1, label="the default")
    axes.set(xlabel="trial", ylabel=objective.label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    axes.grid(alpha=0.3)
    sns.despine(ax=axes)
    return figure


def importance_figure(table: pd.DataFrame) -> Figure:
    """Return bars of importance with their 95 % intervals."""
    figure = Figure(figsize=(5.6, 0.45 * len(table) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.barh(table["key"], table["importance"], color=TRIAL, height=0.6)
    for place, row in enumerate(table.itertuples()):
        axes.plot([row.low, row.high], [place, place], color="black", linewidth=1.5)
    axes.invert_yaxis()
    axes.set(xlabel="share of importance (PED-ANOVA; line: 95 % over trials)", xlim=(0, 1))
    sns.despine(ax=axes)
    return figure


def slices(frame: pd.DataFrame, objective: ObjectiveRecord, keys: Sequence[str]) -> Figure:
    """Return a panel per parameter with the complete trials over its values; later ones darker, the default ringed."""
    done = frame[frame["state"] == "complete"]
    columns = min(4, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for key, panel in zip(keys, panels, strict=False):
        part = done.dropna(subset=[f"params.{key}"])
        values = part[f"params.{key}"]
        if values.map(lambda value: isinstance(value, str)).any():
            names = sorted(values.unique())
            panel.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
            panel.set_xlim(-0.5, len(names) - 0.5)
            values = values.map(names.index)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=bool((values % 1 == 0).all())))
        panel.scatter(values.astype(float), part[objective.name], c=part["number"], cmap="Blues", vmin=-len(frame) / 2,
                      s=22, edgecolors=["black" if ring else "none" for ring in part["is_default"]])  # fmt: skip
        panel.set_xlabel(key, fontsize=9)
        panel.grid(alpha=0.3)
        sns.despine(ax=panel)
    for panel in list(panels):
        panel.set_visible(False)
    for first in range(0, rows * columns, columns):
        figure.axes[first].set_ylabel(objective.label, fontsize=8)
    return figure


def front_figure(frame: pd.DataFrame, objectives: Sequence[ObjectiveRecord]) -> Figure:
    """Return two objectives of the complete trials against each other, the Pareto front as a line."""
    first, second = objectives
    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    axes = figure.subplots()
    done = frame[frame["state"] == "complete"].sort_values(first.name, ascending=first.direction == "minimize")
    values = done[second.name]
    best = values.cummin() if second.direction == "minimize" else values.cummax()
    front = done[values.eq(best) & ~best.duplicated()]  # the best first value comes first: who improves on it is on it
    axes.plot(done[first.name], values, "o", color=TRIAL, markersize=4, alpha=0.7, label="trial")
    axes.plot(front[first.name], front[second.name], "o-", color=BEST, markersize=5, label="Pareto front")
    default = done[done["is_default"]]
    axes.plot(default[first.name], default[second.name], "o", markersize=9, markerfacecolor="none",
              markeredgecolor="black", label="the default")  # fmt: skip
    axes.set(xlabel=first.label, ylabel=second.label)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    sns.despine(ax=axes)
    return figure


def optuna_figures(
    study: optuna.Study, objectives: Sequence[ObjectiveRecord], keys: Sequence[str]
) -> dict[str, Figure]:
    """Return Optuna's own figures by file name; `keys` are the parameters, the most important first."""
    from optuna.visualization import matplotlib as draw

    figures: dict[str, Figure] = {}
    with warnings.catch_warnings(), pyplot.rc_context():  # they leave their style behind
        warnings.simplefilter("ignore")  # experimental, says each of them
        for index, objective in enumerate(objectives):
            suffix = "" if len(objectives) == 1 else f"-{objective.name}"
            single, name = under_one(study, index), objective.name
            drawn = draw.plot_parallel_coordinate(single, list(keys), target_name=name)
            figures["parallel" + suffix] = _figure(drawn, 2.0 + 1.4 * len(keys), 4.2)
            bar = next(axes for axes in drawn.figure.axes if axes.get_label() == "<colorbar>")
            place = bar.get_position()  # on top of the last parameter's values
            bar.set_position((place.x0 + 0.08, place.y0, place.width, place.height))
            if len(keys) > 1:
                shown = list(keys)[:CONTOURS]
                size = 2.8 * len(shown) if len(shown) > 2 else 5.0
                figures["contour" + suffix] = _figure(draw.plot_contour(single, shown, target_name=name), size, size)
    return figures


def _figure(axes: Any, width: float, height: float) -> Figure:
    figure: Figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
    figure.set_size_inches(width, height)
    pyplot.close(figure)  # pyplot would keep it open
    return figure
