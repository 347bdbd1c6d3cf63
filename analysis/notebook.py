"""What the notebooks call: results from the nearest place that has them, and figures as pictures.

Looked at in turn: the folder that $MAE_RESULTS names, `runs/` of the checkout, `docs/results/`, which is part of it.
"""

import io
import os
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from analysis.curves import curves_of
from analysis.figures import reconstruction_figure
from analysis.findings import check, verdicts
from analysis.frame import comparable
from analysis.loading import from_files, from_runs, select
from analysis.tables import display, summarise
from mae.errors import UserError
from mae.run_directory import RunDirectory
from mae.sweep_record import SweepRecord, read_sweep

ROOT = Path(__file__).resolve().parent.parent
PLACE = "MAE_RESULTS"


def results(study: str = "") -> pd.DataFrame:
    """Return the results of a study, the newest of its name, or of all studies of one base; say where they are from.

    The base, settings and images, is the one with the most studies: results of several do not mix.
    """
    for place in _places():
        try:
            frame = select(_read(place), [study] if study else [])
        except UserError as error:
            reason = error
            continue
        if study:
            chosen = frame[frame["study_id"] == frame["study_id"].iloc[0]]
        else:
            chosen = max(comparable(frame), key=lambda part: part["study_id"].nunique())
        print(f"{', '.join(dict.fromkeys(chosen['study_id']))}: {chosen['run'].nunique()} trainings, {_shown(place)}")
        return chosen.reset_index(drop=True)
    raise reason


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the losses of pretraining of a study that `results` has given."""
    for place in _places():
        found = curves_of(frame, place, [] if _holds_runs(place) else [place])
        if len(found):
            return found
    return found


def sweep() -> tuple[SweepRecord, pd.DataFrame]:
    """Return the record and the frame of the newest sweep that has ended; say where it is from."""
    for place in _places():
        folders = [file.parent for pattern in ("sweeps/*/trials.csv", "*/trials.csv") for file in place.glob(pattern)]
        if folders:
            folder = max(folders, key=lambda folder: (folder / "sweep.json").stat().st_mtime)
            frame = pd.read_csv(folder / "trials.csv")
            print(f"{folder.name}: {len(frame)} trials, {_shown(place)}")
            return read_sweep(RunDirectory(folder)), frame
    raise UserError("no sweep here; begin one with `mae-cli sweep`")


def plain(table: pd.DataFrame) -> HTML:
    """Return a table as it is, without an index; equal tables give equal text, so that notebooks do not change."""
    return HTML(Styler(table, uuid="table", cell_ids=False).hide(axis="index").to_html())


def table(frame: pd.DataFrame) -> HTML:
    """Return one study's table."""
    return plain(display(summarise(frame)))


def findings(frame: pd.DataFrame) -> HTML:
    """Return the verdicts on the paper's findings."""
    return plain(verdicts(check(frame)).drop(columns=["base", "data"]))


def show(figure: Figure) -> Image:
    """Return a figure as a picture that the notebook keeps."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return Image(image.getvalue())


def reconstructions(frame: pd.DataFrame) -> Image | str:
    """Return what the models of a study make of test images; drawn before, where the models are not here."""
    for place in _places():
        if _holds_runs(place):
            from analysis.reconstructions import reconstruct_cells  # needs PyTorch

            originals, cells = reconstruct_cells(frame, place)
            if cells:
                return show(reconstruction_figure(originals, cells))
        elif drawn := sorted(place.rglob(f"{frame['study_id'].iloc[0]}-images.png")):
            return Image(drawn[0].read_bytes())
    return "The models of these results are not here; train them with the command above."


def _places() -> list[Path]:
    named = [Path(os.environ[PLACE])] if os.environ.get(PLACE) else []
    return [*named, ROOT / "runs", ROOT / "docs" / "results"]


def _holds_runs(place: Path) -> bool:
    return (place / "studies").is_dir()


def _read(place: Path) -> pd.DataFrame:
    return from_runs(place, print) if _holds_runs(place) else from_files([place])


def _shown(place: Path) -> str:
    return f"from {place.relative_to(ROOT) if place.is_relative_to(ROOT) else place.name}"
