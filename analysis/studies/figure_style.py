"""What figures of studies share: fonts, colours, marks, bars and legend.

Colours are told apart by the colour-blind, and by marker or place in grey print.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from analysis.results.frame import setting
from mae.probing.kinds import PROBES
from mae.runtime.fonts import font_families

PALETTE = sns.color_palette("colorblind")
COLORS = {kind: PALETTE[place % len(PALETTE)] for place, kind in enumerate([*PROBES, "none"])}
MARKERS = {**{kind: probe.marker for kind, probe in PROBES.items()}, "none": "D"}
GREY = "0.45"
STYLE: dict[Any, Any] = {
    "font.family": font_families(),
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # text stays text
}
PANEL = (3.3, 2.9)
"""Width and height of a panel, inches: a column of a two-column page."""
NARROW = 5.4
"""Width of figures with panels below each other, inches: on a phone, their text is still read."""

ACCURACY = "test top-1, %"

BASELINE_LINES = {"untrained": (0, (1, 1)), "pixels": (0, (4, 1, 1, 1))}

BARS = {
    "single": "interval over test images",
    "compared": "95 % interval of the difference from the default, all together",
}
"""What the kinds of bars are."""


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def styled(*arguments: object, **options: object) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return styled


def small_panels(count: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` small panels, three beside one another, and the panels; `shared` as in `subplots`."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(NARROW, 1.15 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[count - columns : count]:
        panel.tick_params(labelbottom=True)  # also above a place that is left empty
    return figure, panels[:count]


def caption(frame: pd.DataFrame) -> str:
    """Return in two lines what one study asks, and on which data, base config, length and seeds it was run."""
    first, seeds = frame.iloc[0], frame.loc[frame["status"] == "finished", "seed"].nunique()
    return f"{first['question'] or first['study']}\n{setting(frame)}, {seeds} seed{'s' if seeds != 1 else ''}"


def explain(figure: Figure, panels: list[Axes]) -> None:
    """Explain every mark once, below the panels; marks of several colours side by side."""
    named: dict[str, dict[Any, Any]] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, {}).setdefault(cast(Line2D, handle).get_color(), handle)
    handles: list[Any] = [tuple(each.values()) for each in named.values()]  # a tuple of marks is one entry
    side_by_side = {tuple: HandlerTuple(ndivide=None)}
    for columns in (4, 3, 2, 1):
        legend = figure.legend(
            handles=handles,
            labels=list(named),
            handler_map=side_by_side,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
        )
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def bars_of(means: pd.DataFrame) -> pd.DataFrame:
    """Return the summary's rows with the ends of their bar, `from` and `to`, and its `kind`: compared, single or ""."""
    default = means.loc[means["is_default"], "mean"].mean()
    compared = means["difference_low"].notna()
    single = ~compared & (means["runs"] == 1)
    ends = {
        "from": (default + means["difference_low"]).where(compared, means["low"].where(single)),
        "to": (default + means["difference_high"]).where(compared, means["high"].where(single)),
    }
    return means.assign(**ends, kind=np.select([compared, single], ["compared", "single"], ""))
