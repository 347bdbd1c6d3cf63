"""Which classes a probe tells apart: accuracy per class and the confusion matrix, as numbers, a picture and a file."""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mae.data.facts import facts_of
from mae.errors import UserError
from mae.probing.kinds import PROBES, probe_title
from mae.probing.predictions import read_predictions
from mae.probing.probe import wilson_interval
from mae.runs.catalogue import settings_of_probe
from mae.runs.directory import RunDirectory, probes_of
from mae.runs.locks_and_writes import replacing
from mae.runtime.fonts import in_any_script

NAMED = 40
"""Most classes whose names and counts fit on the picture."""


def find_probe(run: RunDirectory, name: str) -> RunDirectory:
    """Return the finished probe of a run whose folder's name starts with `name`, such as `linear` or `linear-3fa9c1`.

    Without a name it is the first kind that there is. `UserError` if none or several fit.
    """
    finished = [probe for probe in probes_of(run) if probe.result() is not None]
    if not finished:
        raise UserError(f"{run.path.name} has no finished probe; `mae-cli probe {run.path.name}` makes some")
    names = [probe.path.name for probe in finished]
    kinds = [kind for kind in PROBES if any(each.startswith(f"{kind}-") for each in names)]
    wanted = name or f"{kinds[0]}-"
    fitting = [probe for probe in finished if probe.path.name.startswith(wanted)]
    if not fitting:
        raise UserError(
            f"--probe {name}: {run.path.name} has no finished probe of this name; there are: {', '.join(names)}"
        )
    if len(fitting) > 1:
        several = ", ".join(f"{probe.path.name} ({settings_of_probe(probe) or 'the defaults'})" for probe in fitting)
        raise UserError(
            f"{run.path.name} has {len(fitting)} such probes: {several}; name one: --probe {fitting[0].path.name}"
        )
    return fitting[0]


def confusion(run: RunDirectory, probe: RunDirectory) -> pd.DataFrame:
    """Return how many test images of each class, a row, a probe of `run` took for which class, a column."""
    record = probe.read_record()
    names = list((record.data if record else {}).get("class_names") or facts_of(run).class_names)
    found = read_predictions(probe)
    if max(found.labels.max(), found.predicted.max()) >= len(names):
        raise UserError(f"{probe.path} tells of {len(names)} classes and has others among its predictions; probe again")
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (found.labels, found.predicted), 1)
    return pd.DataFrame(counts, index=pd.Index(names, name="class"), columns=names)


def per_class(counts: pd.DataFrame) -> pd.DataFrame:
    """Return a row per class that has test images, the worst first.

    Columns: class, images, top1 in %, its 95 % interval `low` and `high`, and `taken_for`, what it is most often taken
    for instead, with the number of images.
    """
    rows = []
    for place, name in enumerate(counts.index):
        row = counts.iloc[place].to_numpy()
        if not (total := int(row.sum())):
            continue
        right, wrong = int(row[place]), np.where(np.arange(len(row)) == place, 0, row)
        low, high = wilson_interval(right, total)
        other = f"{counts.columns[wrong.argmax()]} ({wrong.max()})" if wrong.max() else ""
        rows.append((name, total, 100 * right / total, low, high, other))
    table = pd.DataFrame(rows, columns=["class", "images", "top1", "low", "high", "taken_for"])
    return table.sort_values("top1", kind="stable", ignore_index=True)


@in_any_script
def confusion_figure(counts: pd.DataFrame, title: str) -> Figure:
    """Return the matrix as shares of each class's images, with the counts written in where there are few classes."""
    classes, values = len(counts), counts.to_numpy()
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    named = classes <= NAMED
    side = 2.5 + 0.42 * classes if named else 8
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if named:
        axis.set_xticks(range(classes), counts.columns, rotation=90 if max(map(len, counts.columns)) > 2 else 0)
        axis.set_yticks(range(classes), counts.index)
        for (row, column), count in np.ndenumerate(values):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    axis.set(xlabel="predicted", ylabel="class")
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())))
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="% of the class's images")
    return figure


def title_of(run: RunDirectory, probe: RunDirectory) -> str:
    """Return what the picture is of: the probe and its accuracy, and the run."""
    kind = probe.path.name.partition("-")[0]
    top1 = probe.result()["metrics"][f"{kind}/top1"]
    own = settings_of_probe(probe)
    named = f"{probe_title(kind)}{f' with {own}' if own else ''} of {run.path.name}"
    return f"{named}: {top1:.1f} % of test images right"


def write_table(counts: pd.DataFrame, to: Path) -> None:
    """Write the matrix as CSV: a row per class, a column per class that it was taken for."""
    with replacing(to) as temporary:
        counts.to_csv(temporary)


def table_beside(picture: Path) -> Path:
    """Return where the matrix is written as CSV: beside the picture."""
    return picture.with_suffix(".csv")
