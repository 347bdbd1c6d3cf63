"""Losses over pretraining: one frame for all runs of a study, from their run directories or from an exported file.

Columns: study_id, order, cell, seed, step, epoch, loss, and what `evaluate_online` measured, NaN where it was not:
online_knn, the top-1 in % on held-out training images, online_rankme and online_lidar.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mae.runs.directory import RunDirectory
from mae.runs.metrics import EPOCH, LIDAR, LOSS, ONLINE, RANKME

POINTS = 200
"""Most points of a run that are kept: more cannot be told apart in a figure."""

COLUMNS = {
    "study_id": "str",
    "order": "int64",
    "cell": "str",
    "seed": "int64",
    "step": "int64",
    "epoch": "float64",
    "loss": "float64",
    "online_knn": "float64",
    "online_rankme": "float64",
    "online_lidar": "float64",
}
EVALUATED = {"online_knn": ONLINE, "online_rankme": RANKME, "online_lidar": LIDAR}


def read_curves(frame: pd.DataFrame, runs_dir: Path) -> pd.DataFrame:
    """Return the curves of a frame's finished runs, every n-th point of long ones and those of online evaluations."""
    rows = []
    trials = frame[frame["status"] == "finished"].drop_duplicates(["study_id", "cell", "seed"])
    for trial in trials.to_dict("records"):
        curve = RunDirectory(runs_dir / str(trial["run"])).read_metrics()
        each = -(-len(curve) // POINTS)
        for index, point in enumerate(curve):
            metrics = point["metrics"]
            if index % each == 0 or index == len(curve) - 1 or not metrics.keys().isdisjoint(EVALUATED.values()):
                rows.append(
                    {name: trial[name] for name in ("study_id", "order", "cell", "seed")}
                    | {"step": point["step"], "epoch": metrics.get(EPOCH), "loss": metrics.get(LOSS)}
                    | {column: metrics.get(name) for column, name in EVALUATED.items()}
                )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def curves_of(frame: pd.DataFrame, runs_dir: Path, files: Sequence[Path]) -> pd.DataFrame:
    """Return the curves of a frame: from the `curves.csv` beside the given exported files, or from `runs_dir`."""
    if not files:
        return read_curves(frame, runs_dir)
    found = [file for path in files for file in ((path if path.is_dir() else path.parent).rglob("curves.csv"))]
    parts = [pd.read_csv(file, dtype={name: kind for name, kind in COLUMNS.items() if kind == "str"}) for file in found]
    known = pd.concat([*parts, read_curves(frame[:0], runs_dir)], ignore_index=True)
    return known[known["study_id"].isin(frame["study_id"])].drop_duplicates(ignore_index=True)
