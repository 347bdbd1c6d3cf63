"""What the notebooks call: results from the nearest place that has them, and figures as pictures.

Looked at are the files or folders that $MAE_RESULTS names, one a line; without it `runs/` of the checkout, then
`docs/results/`, which is part of it. $MAE_STUDIES names the studies that may be shown, by their folders' names, one a
line; all if it is unset.
"""

import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from analysis.results.conditions import CONDITIONS
from analysis.results.curves import curves_of
from analysis.results.frame import SETTING, comparable
from analysis.results.loading import from_files, from_runs, select
from analysis.results.run_table import run_table
from analysis.studies.feature_figures import neighbour_figure, similarity_figure, task_similarities
from analysis.studies.figures import reconstruction_figure
from analysis.studies.paper_findings import check, verdicts
from analysis.studies.tables import display, summarise
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.sweep_record import SweepRecord, read_sweep

ROOT = Path(__file__).resolve().parents[2]
PLACES = "MAE_RESULTS"
STUDIES = "MAE_STUDIES"


class NoResults(UserError):
    """There is nothing that the notebook could show: it is skipped."""


def results(study: str = "") -> pd.DataFrame:
    """Return the results of a study, the newest of its name, or of all studies of one base; say where they are from.

    The base, its probe and images, is the one with the most studies: results of several do not mix. `NoResults` where
    no training is finished.
    """
    reason = ""
    for places in _sources():
        try:
            frame = _chosen(select(_read(places), [study] if study else []))
        except UserError as error:
            reason = str(error)
            continue
        if study:
            chosen = frame[frame["study_id"] == frame["study_id"].iloc[0]]
        else:
            chosen = max(comparable(frame), key=lambda part: part["study_id"].nunique())
        print(f"{', '.join(dict.fromkeys(chosen['study_id']))}: {chosen['run'].nunique()} trainings, {_shown(places)}")
        return chosen.reset_index(drop=True)
    raise NoResults(reason)


def _chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of studies that may be shown and have results; `NoResults` if there are none."""
    if chosen := _named(STUDIES):
        frame = frame[frame["study_id"].isin(chosen)]
    done = frame[frame["status"] == "finished"]
    if done.empty:
        raise NoResults("its studies are not asked for" if frame.empty else "no training is finished")
    return frame[frame["study_id"].isin(done["study_id"])]


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the losses of pretraining of a study that `results` has given."""
    for places in _sources():
        found = curves_of(frame, places[0], [] if _holds_runs(places[0]) else places)
        if len(found):
            return found
    return found


def own_runs(*conditions: str) -> tuple[Path, pd.DataFrame]:
    """Return the folder of runs and a row per run that fits all conditions, as `mae-cli runs` takes them; say where
    they are from. `NoResults` where there is no folder of runs, or no run in it fits."""
    for place in itertools.chain(*_sources()):
        if any(place.glob("*/record.json")):
            try:
                frame = run_table(place, conditions)
            except UserError as error:
                raise NoResults(str(error)) from None
            print(f"{len(frame)} run(s), {_shown([place])}")
            return place, frame
    raise NoResults("no folder of runs; `mae-cli run` makes one, and $MAE_RESULTS names one that is elsewhere")


def run_curves(runs_dir: Path, runs: Sequence[str], metric: str) -> pd.DataFrame:
    """Return a metric's curves in a column per run, by optimiser step."""
    curves = {}
    for name in runs:
        points = RunDirectory(runs_dir / name).read_metrics()
        curves[name] = pd.Series(
            {each["step"]: each["metrics"][metric] for each in points if metric in each["metrics"]}
        )
    return pd.DataFrame(curves)


def sweep() -> tuple[SweepRecord, pd.DataFrame]:
    """Return the record and the frame of the newest sweep that has ended; say where it is from.

    `NoResults` if there is none, none of its trials is complete, or studies are asked for.
    """
    if _named(STUDIES):
        raise NoResults("studies are asked for, not sweeps")
    for place in itertools.chain(*_sources()):
        folders = [file.parent for pattern in ("sweeps/*/trials.csv", "*/trials.csv") for file in place.glob(pattern)]
        if folders:
            folder = max(folders, key=lambda folder: (folder / "sweep.json").stat().st_mtime)
            frame = pd.read_csv(folder / "trials.csv", dtype=dict.fromkeys(CONDITIONS, "str"))
            for name in CONDITIONS:  # sweeps of earlier versions have not kept them
                frame[name] = frame[name].fillna("") if name in frame else ""
            if not (frame["state"] == "complete").any():
                raise NoResults(f"no trial of the sweep {folder.name} is complete")
            print(f"{folder.name}: {len(frame)} trials, {_shown([place])}")
            return read_sweep(RunDirectory(folder)), frame
    raise NoResults("no sweep that has ended; begin one with `mae-cli sweep`")


def plain(table: pd.DataFrame) -> HTML:
    """Return a table as it is, without an index; equal tables give equal text, so that notebooks do not change."""
    return HTML(Styler(table, uuid="table", cell_ids=False).hide(axis="index").to_html())


def table(frame: pd.DataFrame) -> HTML:
    """Return one study's table."""
    return plain(display(summarise(frame)))


def findings(frame: pd.DataFrame) -> HTML:
    """Return the verdicts on the paper's findings."""
    return plain(verdicts(check(frame)).drop(columns=SETTING))


def show(figure: Figure) -> Image | str:
    """Return a figure as a picture that the notebook keeps."""
    if not figure.axes:
        return "There are no results to draw."
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return Image(image.getvalue())


def digits_encoder() -> Path:
    """Return the encoder of the digits that a checkout has; `NoResults` where there is none."""
    file = ROOT / "docs" / "results" / "digits-encoder.safetensors"
    if not file.exists():
        raise NoResults("it shows an encoder of your own: name it in the notebook")
    return file


def reconstructions(frame: pd.DataFrame) -> Image | str:
    """Return what the models of a study make of test images; drawn before, where the models are not here."""
    for place in itertools.chain(*_sources()):
        if _holds_runs(place):
            from analysis.studies.reconstructions import reconstruct_cells  # needs PyTorch

            originals, cells = reconstruct_cells(frame, place)
            if cells:
                return show(reconstruction_figure(originals, cells))
        elif drawn := sorted(place.rglob(f"{frame['study_id'].iloc[0]}-images.png")):
            return Image(drawn[0].read_bytes())
    return "The models of these results are not here; train them with the command above."


def feature_pictures(frame: pd.DataFrame) -> list[Image | str]:
    """Return neighbours and similarities by the encoders of a study's runs, or a sentence where these are not here."""
    for place in itertools.chain(*_sources()):
        if _holds_runs(place):
            from analysis.studies.encode_study import encode_study  # needs PyTorch
            from mae.runtime.progress import Silent

            encoded = encode_study(frame, place, Silent())
            if encoded.features:
                figures = neighbour_figure(encoded), similarity_figure(task_similarities(encoded.features))
                return [*map(show, figures), *encoded.left_out]
    return ["The encoders of these results are not here; train them with the command above."]


def _sources() -> list[list[Path]]:
    """Return where results may be, in turn: a folder of runs, or exported files and folders of them."""
    named = [Path(name) for name in _named(PLACES)]
    return [named] if named else [[ROOT / "runs"], [ROOT / "docs" / "results"]]


def _named(variable: str) -> list[str]:
    return os.environ.get(variable, "").splitlines()


def _holds_runs(place: Path) -> bool:
    return (place / "studies").is_dir()


def _read(places: list[Path]) -> pd.DataFrame:
    return from_runs(places[0], print) if _holds_runs(places[0]) else from_files(places)


def _shown(places: list[Path]) -> str:
    names = [str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else place.name for place in places]
    return f"from {', '.join(names)}"
