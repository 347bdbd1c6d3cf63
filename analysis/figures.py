"""Figures of studies, from their frames."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.statistics import mean_interval
from analysis.tables import PROBES

COLORS = dict(zip(PROBES, sns.color_palette("colorblind"), strict=False))
GREY = "0.55"


def study_figure(frame: pd.DataFrame, axis: str, log_axis: bool) -> Figure:
    """Return a panel per probe with means, 95 % intervals over seeds and single seeds as dots, and the paper's in grey.

    `axis` names the key on x; without one, cells are rows of a dot plot. The default cell is ringed.
    """
    done = frame[frame["status"] == "finished"].dropna(subset=["top1"])
    probes = list(dict.fromkeys(done["probe"]))
    paper = frame.drop_duplicates("order").dropna(subset=["paper_linear"])
    panels = len(probes) + bool(len(paper))
    figure = Figure(figsize=(3.6 * panels, 3.2 if axis else 0.4 * frame["order"].nunique() + 1.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0] if panels else []
    for panel, probe in zip(axes, probes, strict=False):
        _measured(panel, done[done["probe"] == probe], axis, COLORS[probe])
        panel.set_title(f"{PROBES[probe]} probe, this study", fontsize=10)
    if len(paper):
        places = paper["x"] if axis else paper["order"]
        across, up = (places, paper["paper_linear"]) if axis else (paper["paper_linear"], places)
        axes[-1].plot(across, up, "o-" if axis else "o", color=GREY, markersize=4)
        axes[-1].set_title("linear probe, the paper\n(ViT-L, ImageNet-1K)", fontsize=10)
    for panel in axes:
        _label(panel, frame, axis, log_axis, panel is axes[0])
    return figure


def _measured(panel: Axes, done: pd.DataFrame, axis: str, color: tuple[float, float, float]) -> None:
    means = []
    for order, trials in done.groupby("order"):
        mean, low, high = mean_interval(trials["top1"].tolist())
        if len(trials) == 1:
            low, high = trials["low"].iloc[0], trials["high"].iloc[0]
        place = trials["x"].iloc[0] if axis else order
        means.append((place, mean, low, high, trials["is_default"].iloc[0]))
        dots = ([place] * len(trials), trials["top1"])
        panel.plot(*(dots if axis else dots[::-1]), ".", color=color, alpha=0.5, markersize=4)
    for place, mean, low, high, is_default in means:
        line, point = ([place, place], [low, high]), ([place], [mean])
        panel.plot(*(line if axis else line[::-1]), color=color, linewidth=1.5)
        marker = {"markeredgecolor": "black", "markersize": 7} if is_default else {"markersize": 5}
        panel.plot(*(point if axis else point[::-1]), "o", color=color, **marker)
    if axis:
        panel.plot([row[0] for row in means], [row[1] for row in means], color=color, linewidth=1)


def _label(panel: Axes, frame: pd.DataFrame, axis: str, log_axis: bool, first: bool) -> None:
    if axis:
        panel.set(xlabel=axis)
        if first:
            panel.set_ylabel("test top-1, %")
        if log_axis:
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:.0f}")
    else:
        panel.set_xlabel("test top-1, %")
        cells = frame.drop_duplicates("order").sort_values("order")
        panel.set_yticks(cells["order"], cells["cell"] if first else [""] * len(cells))
        panel.set_ylim(len(cells) - 0.5, -0.5)
    panel.grid(alpha=0.3)
    sns.despine(ax=panel)
