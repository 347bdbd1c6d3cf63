"""Figures of a study whose cells are pretext tasks: what each costs, and how it learns."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.statistics.comparisons import Test
from analysis.studies.figure_style import (
    ACCURACY,
    BARS,
    BASELINE_LINES,
    COLORS,
    GREY,
    MARKERS,
    NARROW,
    PALETTE,
    bars_of,
    explain,
    small_panels,
    styled,
)
from analysis.studies.label_places import place_labels
from analysis.studies.pareto import front_steps, pareto_front
from analysis.studies.tables import BASELINES, summarise
from mae.probing.kinds import PROBES, probe_title

COSTS = {
    "tflop": "compute of pretraining, $10^{12}$ operations",
    "seconds": "time of pretraining, seconds",
}
SPENT = {"epochs": "epochs of pretraining", **COSTS}
"""What a learning curve may be over, with the axis' label."""

RANGE = {"mean": "mean", "low": "min", "high": "max"}
"""A learning curve and its band, over seeds."""

BAR, LEVEL = "bar", "level"
"""What marks the lines of a panel that are bars, and those of baselines."""


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
    figure = Figure(figsize=(NARROW, 3.4 * len(probes) + 0.5), layout="constrained")
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
        ring: dict[str, Any] = {"markeredgecolor": "black", "label": "mean of the default"} if row["is_default"] else {}
        style: dict[str, Any] = {"color": color, "markersize": 5, "label": "mean of a task", "zorder": 4}
        panel.plot(row[cost], row["mean"], MARKERS[probe], **{**style, **ring})
    front = pareto_front(bars, cost, "mean")
    steps: dict[str, Any] = {"drawstyle": "steps-post", "color": "black", "linewidth": 0.9, "zorder": 3}
    panel.plot(front[cost], front["mean"], label="Pareto front of the means", **steps)
    _draw_baselines(panel, bars, cost)


def _name_points(panel: Axes, rows: pd.DataFrame, cost: str) -> None:
    """Name each task's point, off the bars, the steps of the front and the lines of baselines."""
    steps = front_steps(pareto_front(rows, cost, "mean"), cost, "mean")
    bars = [np.asarray(line.get_xydata()) for line in panel.lines if line.get_gid() == BAR]
    levels = [np.asarray(line.get_ydata())[0] for line in panel.lines if line.get_gid() == LEVEL]
    across = [np.array([[x, level] for x in panel.get_xlim()]) for level in levels]
    points = list(zip(rows[cost], rows["mean"], strict=True))
    place_labels(panel, points, rows["cell"].tolist(), [*bars, *steps, *across])


def _draw_baselines(panel: Axes, bars: pd.DataFrame, cost: str) -> None:
    """Draw baselines as lines, and a mark below or above each task whose own untrained encoder is another one."""
    for name, dashes in BASELINE_LINES.items():
        values = bars[name].dropna()
        if values.empty:
            continue
        of_most = values.round(6).mode().iloc[0]
        panel.axhline(of_most, color=GREY, linestyle=dashes, linewidth=1, zorder=1, label=BASELINES[name], gid=LEVEL)
        others = bars[bars[name].notna() & ((bars[name] - of_most).abs() > 1e-3)]
        if len(others):
            style: dict[str, Any] = {"color": GREY, "markersize": 8, "zorder": 1}
            panel.plot(others[cost], others[name], "_", label=f"{BASELINES[name]} of the task above or below", **style)


def _label_costs(panel: Axes, label: str) -> None:
    panel.set_xscale("log")
    low, high = panel.dataLim.intervalx
    panel.set_xlim(low / 1.6, high * 1.6)
    low, high = panel.dataLim.intervaly
    panel.set_ylim(max(0, low - 4), min(102, high + 4))
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
    figure, panels = small_panels(len(ends), sharex=True, sharey=True)
    if spent != "epochs":
        panels[0].set_xscale("log")
    wide = lines["x"].max() > 60 * lines["x"].min()
    for panel, (cell, end) in zip(panels, ends.items(), strict=True):
        for _, line in lines.groupby("cell", sort=False):
            panel.plot(line["x"], line["mean"], color="0.85", linewidth=0.7, zorder=1)
        line = lines[lines["cell"] == cell]
        panel.fill_between(line["x"], line["low"], line["high"], color=PALETTE[0], alpha=0.25, linewidth=0, zorder=2)
        panel.plot(line["x"], line["mean"], ".-", color=PALETTE[0], linewidth=1.4, markersize=4, zorder=3)
        panel.set_title(f"{cell}, {end:.0f} %", fontsize=8)
        if spent != "epochs":
            panel.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_locator(NullLocator())
    figure.supxlabel(SPENT[spent], fontsize=8)
    figure.supylabel("online k-NN, top-1, %", fontsize=8)
    return figure


def _lines(points: pd.DataFrame, spent: str) -> pd.DataFrame:
    """Return per cell and epoch the means over seeds of `x` and of accuracies, and their lowest and highest."""
    found = points.groupby(["order", "cell", "epochs"])
    values = {"x": (spent, "mean")} | {name: ("online_knn", how) for name, how in RANGE.items()}
    return found.agg(**values).reset_index() if len(points) else pd.DataFrame(columns=["cell", *values])
