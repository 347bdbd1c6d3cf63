"""Where frames come from: a folder of runs, an MLflow store, or exported files. All three give the same frame."""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.frame import MISSING, TYPES, Outcome, study_frame, tidy
from mae.config.resolve import nearest
from mae.errors import UserError, first_line, without_secrets
from mae.runs.locks_and_writes import replacing
from mae.runs.study_record import StudyRecord, TrialRecord, find_studies
from mae.tracking.mlflow_store import open_store, printable, study_experiment, telling_what_is_wrong

KEY = ["study_id", "cell", "seed", "probe"]
"""What a row is about; no frame has two rows about the same."""

NEEDED = ("study", "base", "order", "cell", "is_default", "seed", "run", "status", "probe", "top1")
EMPTY = {"str": "", "float64": float("nan"), "bool": False}
PAGE = 1000
BEGIN = "begin one with `mae-cli ablate NAME`; `mae-cli ablate list` names them"


def from_runs(runs_dir: Path, say: Callable[[str], None]) -> pd.DataFrame:
    """Return every study of a folder of runs, newest first; `UserError` if there is none.

    One that cannot be read is left out, and that is said.
    """
    found = find_studies(runs_dir)
    known = {directory.path for directory, _ in found}
    for file in sorted(runs_dir.glob("studies/*/study.json")):
        if file.parent not in known:
            say(f"left out: {file} is damaged, or was written by another version of mae-cli")
    frames = []
    for directory, record in found:
        try:
            frames.append(study_frame(record, runs_dir, directory.path.name))
        except Exception as error:  # whatever its record or a result of its runs says: it hides no other study
            say(f"left out: study {directory.path.name} cannot be read ({type(error).__name__}: {first_line(error)})")
    if not frames:
        raise UserError(f"no studies in {runs_dir} that can be read; {BEGIN}")
    return pd.concat(frames, ignore_index=True)


def from_mlflow(uri: str) -> pd.DataFrame:
    """Return every study that an MLflow store has been told of, newest first; `UserError` if there is none.

    A trial that had not ended at the last delivery is `missing` here, whatever its run directory says.
    """
    where = without_secrets(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"no MLflow store at {where}; {BEGIN}")
    frames: dict[str, pd.DataFrame] = {}
    with telling_what_is_wrong(uri):
        client = open_store(uri)
        experiments = [each for each in client.search_experiments() if each.name.startswith(study_experiment(""))]
        for parent in _tracked(client, experiments, "study"):
            study_id = parent.data.tags.get("mae.study_id", "")
            if study_id and study_id not in frames and _has_record(client, parent):
                frames[study_id] = tidy(_record_of(client, parent), study_id, _outcomes(client, parent))
    if not frames:
        raise UserError(f"no studies in MLflow at {where}; {BEGIN}")
    return pd.concat(list(frames.values()), ignore_index=True)


def _tracked(client: Any, experiments: Sequence[Any], stage: str, more: str = "") -> Iterable[Any]:
    """Yield the runs of experiments that are of a stage, newest first."""
    if not experiments:
        return
    identifiers, token = [each.experiment_id for each in experiments], None
    while True:
        page = client.search_runs(
            identifiers, f"tags.`mae.stage` = '{stage}'{more}", max_results=PAGE, page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def _has_record(client: Any, parent: Any) -> bool:
    """Say whether a study's run has been told of its trials; a delivery may have been cut off before."""
    return any(file.path == "study.json" for file in client.list_artifacts(parent.info.run_id))


def _record_of(client: Any, parent: Any) -> StudyRecord:
    with tempfile.TemporaryDirectory() as folder:
        file = client.download_artifacts(parent.info.run_id, "study.json", folder)
        return StudyRecord.model_validate_json(Path(file).read_bytes())


def _outcomes(client: Any, parent: Any) -> Callable[[TrialRecord], Outcome]:
    """Return what the children of a study's run say about its trials; one that still runs has not arrived whole."""
    experiment = client.get_experiment(parent.info.experiment_id)
    arrived = f" and tags.`mlflow.parentRunId` = '{parent.info.run_id}' and attributes.status != 'RUNNING'"
    children = _tracked(client, [experiment], "trial", arrived)
    known: dict[tuple[str, str], Outcome] = {}
    for run in children:
        tags = run.data.tags
        stages = {stage: (status, reason) for stage, (status, reason) in json.loads(tags["mae.stages"]).items()}
        known[tags["cell"], tags["seed"]] = Outcome(stages, run.data.metrics, tags)
    return lambda trial: known.get((printable(trial.cell), str(trial.seed)), MISSING)


def from_files(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the studies of exported CSV or Parquet files, or of every `results.*` in a folder.

    Rows that several files have are taken once; `UserError` where two files contradict each other.
    """
    files = [file for path in paths for file in (sorted(path.rglob("results.*")) if path.is_dir() else [path])]
    files = [file for file in files if file.suffix in READERS or file in paths]
    if not files:
        raise UserError(
            f"no results.csv or results.parquet in {', '.join(map(str, paths))}; `mae-cli export` writes one"
        )
    frame = pd.concat([_read(file) for file in files], ignore_index=True).drop_duplicates(ignore_index=True)
    if len(twice := frame[frame.duplicated(KEY)]):
        row = twice.iloc[0]
        raise UserError(
            f"the files contradict each other about {row['study']}, cell {row['cell']}, seed {row['seed']}, probe "
            f"{row['probe']}; give those of one state of the study"
        )
    return frame


def _read(file: Path) -> pd.DataFrame:
    if not file.exists():
        raise UserError(f"results {file}: No such file or folder")
    if file.suffix not in READERS:
        raise UserError(f"{file}: expected a name ending in .csv or .parquet")
    try:
        frame = READERS[file.suffix](file)
    except OSError as error:
        raise UserError(f"results {file}: {error.strerror or error}") from None
    except ValueError as error:  # pandas' and pyarrow's errors about content are of this type
        raise UserError(f"results {file}: {first_line(error)}") from None
    if lacking := [name for name in NEEDED if name not in frame.columns]:
        raise UserError(f"results {file}: no column {lacking[0]!r}; expected what `mae-cli export` writes")
    for name, kind in TYPES.items():  # files of earlier versions have fewer columns
        if name not in frame.columns:
            frame[name] = frame["study"] if name == "study_id" else EMPTY[kind]
    try:
        return frame[list(TYPES)].astype(TYPES)
    except ValueError as error:
        raise UserError(f"results {file}: {first_line(error)}") from None


def _read_csv(file: Path) -> pd.DataFrame:
    frame = pd.read_csv(file, dtype="str", keep_default_na=False)
    for name in frame.columns.intersection(list(TYPES)):
        if TYPES[name] == "float64":  # parsed here, as pandas rounds the last digit
            frame[name] = frame[name].replace("", "nan").astype("float64")
        elif TYPES[name] == "bool":
            frame[name] = frame[name] == "True"
    return frame


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": _read_csv, ".parquet": pd.read_parquet}


def export(frame: pd.DataFrame, to: Path) -> None:
    """Write a frame as CSV or Parquet, by the name's ending; `from_files` gives it again."""
    check_ending(to)
    with replacing(to) as temporary:
        if to.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def check_ending(to: Path) -> None:
    """Raise `UserError` if a table cannot be written to a file of this name."""
    if to.suffix not in READERS:
        raise UserError(f"{to}: expected a name ending in .csv or .parquet")


def load(
    runs_dir: Path, uri: str, files: Sequence[Path], studies: Sequence[str], say: Callable[[str], None]
) -> pd.DataFrame:
    """Return the chosen studies: from `files` if there are any, from MLflow if there is a `uri`, else from runs."""
    frame = from_files(files) if files else from_mlflow(uri) if uri else from_runs(runs_dir, say)
    return select(frame, studies)


def select(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of studies given by name or by folder's name; all of them if none is given."""
    known = [*dict.fromkeys([*frame["study"], *frame["study_id"]])]
    for name in names:
        if name not in known:
            studies = ", ".join(dict.fromkeys(frame["study"]))
            raise UserError(f"no results of a study {name!r}{nearest(name, known)}; there are: {studies}")
    if not names:
        return frame
    return frame[frame["study"].isin(names) | frame["study_id"].isin(names)].reset_index(drop=True)
