import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner

import mae
from analysis.report import run_notebooks
from analysis.report.notebook import PLACES, ROOT, STUDIES, NoResults, own_runs, results, run_curves, show, sweep
from analysis.report.run_notebooks import NOTEBOOKS, beside, execute_notebooks
from analysis.results.loading import export
from analysis.studies.figures import overview_figure
from analysis.sweeps.frame import sweep_frame
from analysis.sweeps.write_sweep import write_sweep
from cli import app
from mae.errors import UserError
from mae.runs.sweep_record import sweep_directory
from tests.analysis.sweeps.test_sweep_results import made
from tests.conftest import TINY
from tests.helpers.study_factory import MASK_RATIO, study_frame_of, write_study

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def silent(message: str) -> None:
    pass


def contents() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in NOTEBOOKS.iterdir() if file.is_file()}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the one of the program's own notebooks."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", folder)
    return folder


def write(folder: Path, name: str, source: str) -> None:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), folder / name)


def test_every_notebook_runs_on_the_exported_results_and_those_of_the_program_stay(tmp_path: Path) -> None:
    before = contents()
    done = execute_notebooks([ROOT / "docs" / "results"], [], tmp_path, silent)
    written = [file.name for file in FILES if file.name != "own_runs.ipynb"]  # there are no runs, only their results
    assert done.written == written
    assert list(done.skipped) == ["own_runs.ipynb"]
    assert not done.failed
    assert sorted(tmp_path.glob("*.ipynb")) == [tmp_path / name for name in written]
    assert contents() == before


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_is_kept_with_outputs_and_says_how_to_make_its_data(file: Path) -> None:
    read = nbformat.read(file, as_version=4)
    assert "Made by `mae-cli " in read.cells[0].source
    cells = [cell for cell in read.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_the_report_writes_notebooks_beside_it_skips_what_has_no_data_and_names_what_fails(
    own: Path, runs_dir: Path
) -> None:
    write_study(runs_dir, MASK_RATIO)
    write(own, "a.ipynb", "from analysis.report.notebook import results\nlen(results('mask-ratio'))")
    write(own, "b.ipynb", "from analysis.report.notebook import results\nresults('target')")
    write(own, "c.ipynb", "1 / 0")
    write(own, "d.ipynb", "import os\nos._exit(1)")
    write(own, "e.ipynb", "'results' in globals()")
    before = {file: file.read_bytes() for file in own.iterdir()}
    result = CliRunner().invoke(app, ["report", "--notebooks", "--format", "md", "--runs-dir", str(runs_dir), "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout.splitlines()[-1])["notebooks"]
    assert told["written"] == ["a.ipynb", "e.ipynb"]
    assert list(told["skipped"]) == ["b.ipynb"]
    assert "no results of a study 'target'" in told["skipped"]["b.ipynb"]
    assert (
        "failed: notebook c.ipynb: ZeroDivisionError: division by zero; notebook d.ipynb: DeadKernel" in result.stderr
    )
    assert sorted(file.name for file in (runs_dir / "notebooks").glob("*.ipynb")) == ["a.ipynb", "e.ipynb"]
    assert {file: file.read_bytes() for file in own.iterdir()} == before


def test_a_report_among_the_programs_own_files_does_not_replace_their_notebooks() -> None:
    with pytest.raises(UserError, match="would replace the program's own"):
        beside(NOTEBOOKS.parent / "report.html")


def test_notebooks_of_an_mlflow_store_are_refused(runs_dir: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--notebooks", "--mlflow", "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2
    assert "export" in result.stderr


def test_notebooks_of_a_test_that_they_do_not_take_are_refused(runs_dir: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--notebooks", "--test", "welch", "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2
    assert "choose the test themselves" in result.stderr


@pytest.fixture
def places(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs that the notebooks are pointed to."""
    monkeypatch.setenv(PLACES, str(runs_dir))
    write_study(runs_dir, MASK_RATIO)
    write_study(runs_dir, {"a": [1.0]}, name="target", axis="", default="a")
    write_study(runs_dir, {"b": [None]}, name="schedule", axis="", default="b")
    return runs_dir


@pytest.mark.usefixtures("places")
def test_only_studies_that_are_asked_for_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STUDIES, "target-0a0a0a0a")
    assert set(results("target")["study"]) == set(results()["study"]) == {"target"}
    for look in (lambda: results("mask-ratio"), sweep):
        with pytest.raises(NoResults, match="asked for"):
            look()


@pytest.mark.usefixtures("places")
def test_a_study_without_a_finished_training_is_nothing_to_show() -> None:
    assert set(results()["study"]) == {"mask-ratio", "target"}
    with pytest.raises(NoResults, match="no training is finished"):
        results("schedule")


@pytest.mark.usefixtures("places")
def test_results_that_are_named_are_not_mixed_with_those_of_the_checkout() -> None:
    with pytest.raises(NoResults, match="no results of a study 'mask-token'"):
        results("mask-token")


def test_a_figure_without_results_is_a_sentence() -> None:
    assert show(overview_figure(study_frame_of(MASK_RATIO, probes=("knn",)))) == "There are no results to draw."


def test_several_exported_files_are_shown_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    export(study_frame_of(MASK_RATIO), files[0])
    export(study_frame_of({"a": [1.0]}, name="target", axis="", default="a"), files[1])
    monkeypatch.setenv(PLACES, "\n".join(map(str, files)))
    assert set(results()["study"]) == {"mask-ratio", "target"}


def test_a_start_on_own_runs_shows_those_of_a_folder(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio in (0.5, 0.75):
        quick = {"mask.ratio": ratio, "train.epochs": 1, "run.knn_every": 0, "probe.kinds": ["knn"]}
        mae.run(TINY | quick, runs_dir=runs_dir)
    monkeypatch.setenv(PLACES, str(runs_dir))
    cells = nbformat.read(NOTEBOOKS / "own_runs.ipynb", as_version=4).cells
    names: dict[str, Any] = {}
    for cell in cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    assert list(names["done"]["mask.ratio"]) == [0.75, 0.5]
    assert "mask.ratio" in names["varied"]
    curves = run_curves(runs_dir, list(names["done"]["run"]), "train/loss")
    assert curves.shape[1] == 2
    assert (curves > 0).all().all()
    with pytest.raises(NoResults, match=r"no run in .* fits mask\.ratio=0\.9"):
        own_runs("mask.ratio=0.9")


@pytest.mark.parametrize("complete", [0, 3])
def test_a_sweep_of_few_trials_is_shown_or_skipped(complete: int, runs_dir: Path, monkeypatch: Any) -> None:
    record = made(complete or 1)
    if not complete:
        record.trials[0].state, record.trials[0].values = "failed", None
    directory = sweep_directory(runs_dir, "s")
    directory.write_text("sweep.json", record.model_dump_json())
    write_sweep(directory, record, sweep_frame(record, runs_dir))
    monkeypatch.setenv(PLACES, str(runs_dir))
    cells = nbformat.read(NOTEBOOKS / "sweep.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    with nullcontext() if complete else pytest.raises(NoResults, match="no trial"):
        exec(code, {})
