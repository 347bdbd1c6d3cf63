"""Figures of studies, from their frames: means, single seeds as dots, intervals of differences from the default.

A bar is the interval of `analysis.statistics.comparisons` around a cell's difference from the default, drawn at the
default's mean plus that difference: a cell whose bar leaves out the default's line is told apart from it. A bar of one
seed is its interval over test images, and says nothing of that.
"""

from collections.abc import Mapping
from itertools import chain
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis.statistics.comparisons import Test
from analysis.studies.figure_style import (
    ACCURACY,
    BARS,
    BASELINE_LINES,
    COLORS,
    GREY,
    MARKERS,
    PALETTE,
    PANEL,
    bars_of,
    caption,
    explain,
    small_panels,
    styled,
)
from analysis.studies.label_places import place_labels
from analysis.studies.pareto import front_steps, pareto_front
from analysis.studies.tables import BASELINES, speedups, summarise
from mae.probing.kinds import PROBES, probe_title

LEGEND = 0.5
"""Inches of height that the legend of a study's figure takes more than that of a panel."""

LEGEND_WIDTH, CHARACTERS_PER_INCH = 4.6, 18
"""Inches that the longest line of a legend takes, and how many characters of a caption fit into one."""

Pictures = tuple[np.ndarray, np.ndarray]
"""Masked and reconstructed images, each (n, H, W, C) of values in 0..1."""

GAINED = "95 % interval of the gain, beside it: a cell gains if this bar misses its mean"

PAPER_LABELS = {
    "paper_linear": "the paper: linear probe of ViT-L",
    "paper_finetune": "the paper: fine-tuned ViT-L",
    "paper_speedup": "the paper: ViT-L on TPUs",
}
PAPER_AXES = {
    "paper_linear": "the paper's top-1, %",
    "paper_finetune": "the paper's top-1, %",
    "paper_speedup": "the paper's speed-up",
}
AXES = {
    "mask.ratio": "masking ratio (share of patches hidden)",
    "model.decoder.depth": "decoder depth (blocks)",
    "model.decoder.dim": "decoder width (channels)",
    "train.epochs": "pretraining length (epochs)",
    "model.encoder.dim": "encoder width (channels)",
    "probe.partial.blocks": "fine-tuned blocks",
    "probe.labels": "share of the labels",
}
SPEEDUP = "speed-up of pretraining"


@styled
def study_figure(frame: pd.DataFrame, test: Test | None = None) -> Figure:
    """Return a panel per probe of one study, or of its speed-ups where it is not probed; no panel without results.

    A study with an axis is a curve over it, another one a dot plot. The default cell is ringed. `test` is the one asked
    for, as in `analysis.studies.tables.summarise`.
    """
    probes = [probe for probe, part in points(frame).groupby("probe", sort=False) if part["value"].notna().any()]
    width = max(LEGEND_WIDTH, _width(frame) * len(probes))
    legend = LEGEND if len(probes) > 1 else 2.5 * LEGEND  # in one column
    figure = Figure(figsize=(width, _height(frame) + legend), layout="constrained")
    axes = figure.subplots(1, len(probes), squeeze=False)[0] if probes else []
    for panel, probe in zip(axes, probes, strict=True):
        _draw(panel, frame, str(probe), test)
        panel.set_title(probe_title(str(probe)) if probe in PROBES else SPEEDUP)
    if probes:
        lines = [wrap(line, int(width * CHARACTERS_PER_INCH)) for line in caption(frame).splitlines()]
        figure.suptitle("\n".join(chain(*lines)), fontsize=7)
        explain(figure, list(axes))
    return figure


@styled
def overview_figure(frame: pd.DataFrame, probe: str = "linear", test: Test | None = None) -> Figure:
    """Return a panel per study of one base: what its table says, under one probe; `test` as in `study_figure`."""
    studies = [part for _, part in frame.groupby("study_id", sort=False) if _has_results(part, probe)]
    columns = 3
    rows = -(-len(studies) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, (PANEL[1] + 0.2) * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat) if studies else []
    for panel, part in zip(panels, studies, strict=False):
        _draw(panel, part, probe if probe in set(part["probe"]) else "none", test)
        panel.set_title(f"{part['source'].iloc[0]}  {part['study'].iloc[0]}".strip())
    for panel in panels[len(studies) :]:
        panel.remove()
    return figure


def _has_results(part: pd.DataFrame, probe: str) -> bool:
    return bool(part.loc[part["probe"].isin([probe, "none"]) & (part["status"] == "finished")].size)


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one study's finished rows with `value`: top-1 in %, or the speed-up where there is no probe."""
    done = frame[frame["status"] == "finished"].copy()
    done["value"] = done["top1"].where(done["probe"] != "none", speedups(done))
    return done


def _width(frame: pd.DataFrame) -> float:
    names = 0 if frame["x"].notna().all() else frame["cell"].str.len().max()
    return PANEL[0] + 0.05 * max(0, names - 12)


def _height(frame: pd.DataFrame) -> float:
    return PANEL[1] if frame["x"].notna().all() else 0.32 * frame["order"].nunique() + 1.5


def _draw(panel: Axes, frame: pd.DataFrame, probe: str, test: Test | None = None) -> None:
    part = frame[frame["probe"] == probe]
    seeds = points(frame)
    seeds = seeds[seeds["probe"] == probe]
    curve = bool(part["x"].notna().all())
    means = summarise(part, test) if probe != "none" else _means(seeds)
    means = means.dropna(subset=["mean"])
    places = part.drop_duplicates("order").set_index("order")["x"].to_dict() if curve else {}
    bars = bars_of(means)
    _dots(panel, seeds, probe, places)
    shown = pd.concat([seeds["value"], bars["from"], bars["to"]]).dropna()
    _fit(panel, shown, curve, np.inf if probe == "none" else 100)
    _draw_baselines(panel, means, places, curve)
    for row in bars.to_dict("records"):
        place = places.get(row["order"], row["order"])
        line, point = ([place, place], [row["from"], row["to"]]), ([place], [row["mean"]])
        panel.plot(*(line if curve else line[::-1]), color=COLORS[probe], linewidth=1.5, zorder=3)
        label, mark = _mark(row["verdict"])
        style = {"color": COLORS[probe], "zorder": 4, "label": label}
        panel.plot(*(point if curve else point[::-1]), MARKERS[probe], **style, **mark)
        if row["is_default"]:
            (panel.axhline if curve else panel.axvline)(row["mean"], color=COLORS[probe], linewidth=0.8, zorder=2)
    _explain_bars(panel, set(bars["kind"]), COLORS[probe], curve)
    label = SPEEDUP if probe == "none" else ACCURACY
    if curve:
        panel.plot([places[order] for order in means["order"]], means["mean"], color=COLORS[probe], linewidth=0.7)
        _label_curve(panel, frame, sorted(set(places.values())), label)
    else:
        panel.set(xlabel=label)
        cells = frame.drop_duplicates("order").sort_values("order")
        panel.set_yticks(cells["order"], cells["cell"])
        panel.set_ylim(len(cells) - 0.5, -0.5)
    _draw_paper(panel, part, probe, curve)


def _mark(verdict: str) -> tuple[str, dict[str, Any]]:
    """Return the label and the style of a cell's mean: filled where it is told apart, ringed for the default."""
    if verdict == "default":
        return "mean of the default", {"markeredgecolor": "black", "markersize": 7}
    if verdict == "within noise":
        return "mean of a cell, not told apart", {"markersize": 5, "markerfacecolor": "white"}
    return "mean of a cell" + (", told apart from the default" if verdict != "n/a" else ""), {"markersize": 5}


def _explain_bars(panel: Axes, kinds: set[str], color: Any, curve: bool) -> None:
    """Add the bars and the line that they are held against to the legend, each as it lies in the panel."""
    style = {"color": color, "markersize": 8}
    along, across = ("|", "_") if curve else ("_", "|")
    for kind in kinds & set(BARS):
        panel.plot([], [], along, markeredgewidth=1.5, label=BARS[kind], **style)
    if "compared" in kinds:
        label = "the default's mean: a cell is told apart if its bar misses this line"
        panel.plot([], [], across, markeredgewidth=0.8, label=label, **style)


def _draw_baselines(panel: Axes, means: pd.DataFrame, places: Mapping[int, float], curve: bool) -> None:
    """Draw the baselines as lines, or a dash per cell where cells differ in them; name those that are far away."""
    low, high = panel.get_ylim() if curve else panel.get_xlim()
    for name, dashes in BASELINE_LINES.items():
        values = means[name].dropna()
        if values.empty:
            continue
        if values.min() < low - (high - low) or values.max() > high + (high - low):
            arrow = ("v" if curve else "<") if values.mean() < low else ("^" if curve else ">")
            label = f"{BASELINES[name]}: {values.mean():.1f}, off the axis"
            panel.plot([], [], arrow, color=GREY, markersize=4, label=label)
            continue
        low, high = min(low, values.min() - 0.05 * (high - low)), max(high, values.max() + 0.05 * (high - low))
        (panel.set_ylim if curve else panel.set_xlim)(low, high)
        if values.nunique() == 1:
            line = panel.axhline if curve else panel.axvline
            # Above the line of the default, which may be the untrained encoder.
            line(values.iloc[0], color=GREY, linestyle=dashes, linewidth=1, zorder=2.5, label=BASELINES[name])
        else:
            _draw_own_baselines(panel, means.loc[values.index], name, places, curve)


def _draw_own_baselines(panel: Axes, means: pd.DataFrame, name: str, places: Mapping[int, float], curve: bool) -> None:
    """Draw a baseline that is another one for each cell, with the interval of what the cell gains on it."""
    where = [places.get(order, order) for order in means["order"]]
    style: dict[str, Any] = {"color": GREY, "zorder": 1}
    mark = {"untrained": "_", "pixels": "+"}[name] if curve else {"untrained": "|", "pixels": "+"}[name]
    values = means[name]
    label = f"{BASELINES[name]} of the cell"
    panel.plot(*((where, values) if curve else (values, where)), mark, markersize=9, label=label, **style)
    if curve:
        panel.plot(where, values, linestyle=BASELINE_LINES[name], linewidth=1, **style)
    if name == "untrained" and means["gain_low"].notna().any():
        ends = [means["mean"] - means["gain_high"], means["mean"] - means["gain_low"]]
        beside = _shifted(panel, (-6, 0) if curve else (0, 6))
        (panel.vlines if curve else panel.hlines)(where, *ends, linewidth=1.5, transform=beside, **style)
        panel.plot([], [], "|" if curve else "_", markeredgewidth=1.5, markersize=8, label=GAINED, **style)


def _means(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return means and intervals of speed-ups as `summarise` does for accuracies; without those that are unknown."""
    status = seeds["status"].where(seeds["value"].notna(), "no reference")
    return summarise(seeds.assign(top1=seeds["value"], low=np.nan, high=np.nan, status=status))


def _dots(panel: Axes, seeds: pd.DataFrame, probe: str, places: dict[int, float]) -> None:
    """Draw single seeds a little beside their interval, and those that are equal beside each other."""
    style = {"color": COLORS[probe], "alpha": 0.6, "markersize": 4, "label": "run of one seed, beside its mean"}
    seeds = seeds.dropna(subset=["value"])
    earlier = seeds.groupby(["order", "value"]).cumcount()
    for count, part in seeds.groupby(earlier):
        where, away = [places.get(order, order) for order in part["order"]], 6 + 3 * int(str(count))
        shifted = _shifted(panel, (away, 0) if places else (0, -away))
        panel.plot(*((where, part["value"]) if places else (part["value"], where)), ".", transform=shifted, **style)


def _shifted(panel: Axes, points: tuple[float, float]) -> Transform:
    """Return the panel's data coordinates moved to the right and up by points."""
    assert isinstance(panel.figure, Figure)
    right, up = points
    return panel.transData + ScaledTranslation(right / 72, up / 72, panel.figure.dpi_scale_trans)


def _label_curve(panel: Axes, frame: pd.DataFrame, values: list[float], label: str) -> None:
    axis = frame["axis"].iloc[0]
    panel.set(xlabel=AXES.get(axis, axis), ylabel=label)
    if frame["log_axis"].iloc[0]:
        panel.set_xscale("log", base=2)
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()


def _fit(panel: Axes, values: pd.Series, curve: bool, most: float = 100) -> None:
    """Fit the axis of values to single seeds and bars, with room around them; a bar runs off it beyond 0 or `most`."""
    if values.empty:
        return
    values = values.clip(0, most)
    room = 0.25 * (values.max() - values.min()) or 1.0
    low, high = max(values.min() - room, -2), min(values.max() + room, most + 2)
    (panel.set_ylim if curve else panel.set_xlim)(low, high)


def shows_paper(frame: pd.DataFrame) -> bool:
    """Say whether figures of studies, of those probes that have results, show the paper's figures beside them."""
    drawn = frame.loc[frame["status"] == "finished", "probe"].unique()
    columns = {probe: column for probe in drawn if (column := _paper_column(probe))}
    return any(frame.loc[frame["probe"] == probe, column].notna().any() for probe, column in columns.items())


def _paper_column(probe: str) -> str:
    """Return the column of the paper's figures that stand beside a probe's, "" if there is none."""
    return PROBES[probe].paper if probe in PROBES else "paper_speedup"


def _draw_paper(panel: Axes, part: pd.DataFrame, probe: str, curve: bool) -> None:
    """Draw the paper's figures on a grey scale of their own: its images and model are others."""
    column = _paper_column(probe)
    paper = part.drop_duplicates("order").dropna(subset=[column]).sort_values("order") if column else part.iloc[:0]
    if paper.empty:
        return
    other = panel.twinx() if curve else panel.twiny()
    places = paper["x"] if curve else paper["order"]
    marks = (places, paper[column]) if curve else (paper[column], places)
    side = "right" if curve else "top"
    style: dict[str, Any] = {"color": GREY, "markersize": 4, "linewidth": 0.8}
    other.plot(*marks, "x--" if curve else "x", **style)
    panel.plot([], [], "x--" if curve else "x", label=f"{PAPER_LABELS[column]}, {side} axis", **style)
    _fit(other, paper[column], curve)
    (other.set_ylabel if curve else other.set_xlabel)(PAPER_AXES[column], color=GREY, fontsize=7)
    other.tick_params(colors=GREY)
    other.grid(visible=False)
    other.spines[side].set(visible=True, color=GREY)


@styled
def cost_figure(frame: pd.DataFrame) -> Figure:
    """Return accuracy against compute of pretraining for the cells of one base, a panel per probe, with the front.

    A cell on the Pareto front is named: no other one is both cheaper and better, as means go. Cells that change the
    base's probe are left out: their accuracies are not comparable.
    """
    frame = frame[frame["cell_probe"] == ""]
    if frame.empty:
        return Figure()
    summary = pd.concat([summarise(part) for _, part in frame.groupby("study_id", sort=False)])
    summary = summary.dropna(subset=["mean", "tflop"])
    probes = [probe for probe in PROBES if probe in set(summary["probe"])]
    figure = Figure(figsize=(1.3 * PANEL[0] * max(1, len(probes)), 1.3 * PANEL[1]), layout="constrained")
    axes = figure.subplots(1, len(probes), squeeze=False)[0] if probes else []
    studies = list(dict.fromkeys(summary["study"]))
    parts = {
        probe: summary[summary["probe"] == probe].drop_duplicates(["tflop", "mean"]).reset_index(drop=True)
        for probe in probes
    }
    for panel, (probe, part) in zip(axes, parts.items(), strict=True):
        for number, study in enumerate(studies):
            cells = part[part["study"] == study]
            style = {"color": PALETTE[number % len(PALETTE)], "marker": "osD^v<>PX*"[number % 10]}
            panel.scatter(cells["tflop"], cells["mean"], s=18, label=study, zorder=3, **style)
        front = pareto_front(part, "tflop", "mean")
        panel.plot(front["tflop"], front["mean"], drawstyle="steps-post", color="black", linewidth=0.8)
        _label_costs(panel)
        panel.set_title(probe_title(probe))
    if probes:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    for panel, probe in zip(axes, probes, strict=True):
        _name_front(panel, parts[probe])
    return figure


def _name_front(panel: Axes, part: pd.DataFrame) -> None:
    """Name the cells on the Pareto front of a panel, off its steps."""
    front = pareto_front(part, "tflop", "mean")
    names = (part["study"] + ": " + part["cell"]).where(part.index.isin(front.index), "")
    points = list(zip(part["tflop"], part["mean"], strict=True))
    place_labels(panel, points, names.tolist(), front_steps(front, "tflop", "mean"))


def _label_costs(panel: Axes) -> None:
    panel.set_xscale("log")
    low, high = panel.dataLim.intervalx
    panel.set_xlim(low / 2, high * 2)
    panel.margins(y=0.1)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set(xlabel="compute of pretraining, $10^{12}$ operations", ylabel=ACCURACY)


@styled
def loss_figure(curves: pd.DataFrame, comparable: bool = True) -> Figure:
    """Return one study's losses over pretraining, a thin line per seed: a colour per cell, or a panel with an axis of
    its own per cell where losses cannot be compared."""
    cells = curves.drop_duplicates("order").sort_values("order")
    if not comparable:
        return _losses_apart(curves, list(cells["cell"]))
    shades = dict(zip(cells["order"], sns.color_palette("viridis", len(cells)), strict=True))
    dashes = dict(zip(cells["order"], ["-", "--", "-.", ":"] * len(cells), strict=False))
    figure = Figure(figsize=(1.5 * PANEL[0], 1.1 * PANEL[1]), layout="constrained")
    panel = figure.subplots()
    for (order, cell, seed), part in curves.groupby(["order", "cell", "seed"]):
        label = cell if seed == curves["seed"].min() else None
        panel.plot(part["step"], part["loss"], dashes[order], color=shades[order], linewidth=0.9, label=label)
    panel.set(xlabel="optimiser step", ylabel="loss of pretraining")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def _losses_apart(curves: pd.DataFrame, cells: list[str]) -> Figure:
    figure, panels = small_panels(len(cells))
    for panel, cell in zip(panels, cells, strict=True):
        for _, part in curves[curves["cell"] == cell].groupby("seed"):
            panel.plot(part["step"], part["loss"], color=PALETTE[0], linewidth=0.8)
        panel.set_title(cell, fontsize=8)
    figure.supxlabel("optimiser step", fontsize=8)
    figure.supylabel("loss of pretraining", fontsize=8)
    return figure


@styled
def reconstruction_figure(originals: np.ndarray, cells: Mapping[str, Pictures]) -> Figure:
    """Return a grid: a column per cell; per image a row as its model sees it and a row as it completes it.

    `originals` are (n, H, W, C) of values in 0..1.
    """
    columns = 1 + len(cells)
    figure = Figure(figsize=(0.62 * columns + 0.2, 1.24 * len(originals) + 0.4), layout="constrained")
    axes = figure.subplots(2 * len(originals), columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for number, original in enumerate(originals):
        _show(axes[2 * number][0], original)
        for column, (masked, completed) in enumerate(cells.values(), start=1):
            _show(axes[2 * number][column], masked[number])
            _show(axes[2 * number + 1][column], completed[number])
    for panel, name in zip(axes[0], ["original", *cells], strict=True):
        panel.set_title(name, fontsize=7)
    return figure


def _show(panel: Axes, image: np.ndarray) -> None:
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
