"""A sweep's results as files in its directory: frame, importances, final comparison, figures."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.studies.write_study import write_tracked
from analysis.sweeps.figures import best_so_far, front_figure, importance_figure, optuna_figures, slices
from analysis.sweeps.frame import as_study
from analysis.sweeps.importances import importances
from analysis.sweeps.summary import comparison_frame
from mae.runs.directory import RunDirectory
from mae.runs.locks_and_writes import replacing
from mae.runs.sweep_record import SweepRecord


def write_sweep(directory: RunDirectory, record: SweepRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Write trials.csv, what MLflow is told, and of complete trials importances.csv and figures; return importances.

    With several objectives, the importances are those for the first.
    """
    directory.write_text("trials.csv", frame.to_csv(index=False))
    write_tracked(directory, comparison_frame(record))
    study = as_study(record)
    table = importances(study)
    directory.write_text("importances.csv", table.to_csv(index=False))
    if not any(trial.state == "complete" for trial in record.trials):
        return table
    figures: dict[str, Figure] = {}
    keys = table["key"].tolist()
    for objective in record.objectives:
        suffix = "" if len(record.objectives) == 1 else f"-{objective.name}"
        figures["best-so-far" + suffix] = best_so_far(frame, objective)
        if keys:
            figures["slices" + suffix] = slices(frame, objective, keys)
    if len(record.objectives) == 2:
        figures["front"] = front_figure(frame, record.objectives)
    if keys:
        figures["importances"] = importance_figure(table)
        figures |= optuna_figures(study, record.objectives, keys)
    for name, figure in figures.items():
        with replacing(directory.path / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    return table
