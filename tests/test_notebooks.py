from pathlib import Path

import nbformat
import pytest

from analysis import execution
from analysis.execution import NOTEBOOKS, execute_notebooks
from analysis.notebook import ROOT
from mae.errors import RunError

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def silent(message: str) -> None:
    pass


def test_every_notebook_runs_on_the_exported_results() -> None:
    before = [file.read_bytes() for file in FILES]
    assert execute_notebooks(ROOT / "docs" / "results", save=False, say=silent) == FILES
    assert [file.read_bytes() for file in FILES] == before


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_is_kept_with_outputs_and_says_how_to_make_its_data(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    assert "Made by `mae-cli " in notebook.cells[0].source
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_a_notebook_that_fails_is_named_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, folder / "broken.ipynb")
    before = (folder / "broken.ipynb").read_bytes()
    monkeypatch.setattr(execution, "NOTEBOOKS", folder)
    with pytest.raises(RunError, match=r"broken\.ipynb: ZeroDivisionError"):
        execute_notebooks(folder, save=True, say=silent)
    assert (folder / "broken.ipynb").read_bytes() == before
