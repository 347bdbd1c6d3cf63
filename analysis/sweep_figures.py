"""Figures of sweeps, from their frames, importances and Optuna studies."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import pandas as pd
import seaborn as sns
from matplotlib import pyplot
from matplotlib.figure import Figure

from mae.sweep_record import ObjectiveRecord

BEST, TRIAL, PRUNED, GREY = *sns.color_palette("colorblind")[:3], "0.55"
UNITS = {
    "linear_top1": "linear top-1, held-out, %",
    "knn_top1": "k-NN top-1, held-out, %",
    "gflops": "GFLOPs per image and step",
    "seconds": "pretraining, s",
    "memory_mb": "peak memory, MB",
    "parameters": "parameters",
}
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
    axes.set(xlabel="trial", ylabel=UNITS[objective.name])
    axes.legend(fontsize=8)
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


def optuna_figures(study: optuna.Study, objectives: Sequence[ObjectiveRecord], keys: Sequence[str]) -> dict[str, Figure]:
    """Return Optuna's own figures by file name; `keys` are the parameters, the most important first."""
    from optuna.visualization import matplotlib as draw

    figures: dict[str, Figure] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, says each of them
        if len(objectives) == 2:
            figures["front"] = _figure(draw.plot_pareto_front(study), (5.6, 4.2))
        for index, objective in enumerate(objectives):
            suffix = "" if len(objectives) == 1 else f"-{objective.name}"
            options: dict[str, Any] = {"target_name": objective.name}
            if len(objectives) > 1:
                options["target"] = lambda trial, index=index: trial.values[index]
            figures["parallel" + suffix] = _figure(
                draw.plot_parallel_coordinate(study, list(keys), **options), (2.0 + 1.4 * len(keys), 4.2)
            )
            figures["slice" + suffix] = _figure(draw.plot_slice(study, list(keys), **options), (2.6 * len(keys), 3.2))
            if len(keys) > 1:
                shown = list(keys)[:CONTOURS]
                size = 2.8 * len(shown) if len(shown) > 2 else 5.0
                figures["contour" + suffix] = _figure(draw.plot_contour(study, shown, **options), (size, size))
    return figures


def _figure(axes: Any, size: tuple[float, float]) -> Figure:
    figure: Figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
    figure.set_size_inches(*size)
    pyplot.close(figure)  # pyplot would keep it open
    return figure
