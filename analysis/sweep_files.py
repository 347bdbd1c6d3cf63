"""A sweep's results as files in its directory: frame, importances, figures."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.importances import importances
from analysis.sweep_figures import best_so_far, importance_figure, optuna_figures
from analysis.sweep_frame import as_study
from mae.run_directory import RunDirectory, replacing
from mae.sweep_record import SweepRecord


def write_sweep(directory: RunDirectory, record: SweepRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Write trials.csv, and where trials are complete importances.csv and figures; return the importances.

    With several objectives, the importances are those for the first.
    """
    directory.write_text("trials.csv", frame.to_csv(index=False))
    study = as_study(record)
    table = importances(study)
    directory.write_text("importances.csv", table.to_csv(index=False))
    if not any(trial.state == "complete" for trial in record.trials):
        return table
    figures: dict[str, Figure] = {}
    for objective in record.objectives:
        name = "best-so-far" if len(record.objectives) == 1 else f"best-so-far-{objective.name}"
        figures[name] = best_so_far(frame, objective)
    if len(table):
        figures["importances"] = importance_figure(table)
        figures |= optuna_figures(study, record.objectives, table["key"].tolist())
    for name, figure in figures.items():
        with replacing(directory.path / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    return table
