"""Runs the notebooks head-less, all in one kernel: its imports are paid once, its names are cleared in between."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mae.errors import RunError, UserError

NOTEBOOKS = Path(__file__).parent / "notebooks"
CELL_SECONDS = 600


def execute_notebooks(results: Path, save: bool, say: Callable[[str], None]) -> list[Path]:
    """Run every notebook on the results in a folder, save it with its outputs if asked; return their files.

    `RunError` names the notebook and the error of the first cell that fails; that notebook is left as it was.
    """
    try:
        import nbformat
        from jupyter_client.manager import KernelManager
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise UserError(f"notebooks need more packages: pip install 'mae-cli[notebooks]' ({error})") from None
    environment = os.environ | {
        "MAE_RESULTS": str(results.resolve()),
        "PYTHONPATH": str(NOTEBOOKS.parent.parent),
        "PYTHONWARNINGS": "ignore:IProgress not found",  # nobody looks at progress here
    }
    files = sorted(NOTEBOOKS.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:  # for the sockets: no port is opened
        kernel = KernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        kernel.start_kernel(cwd=str(NOTEBOOKS), env=environment)
        try:
            for file in files:
                notebook = nbformat.read(file, as_version=4)
                notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
                try:
                    NotebookClient(notebook, km=kernel, timeout=CELL_SECONDS).execute()
                except CellExecutionError as error:
                    raise RunError(f"notebook {file.name}: {error.ename}: {error.evalue}") from None
                del notebook.cells[0]
                say(f"ran {file.name}")
                if save:
                    _save(notebook, file)
        finally:
            kernel.shutdown_kernel(now=True)
    return files


def _save(notebook: object, file: Path) -> None:
    """Write a notebook without what changes at each execution, so that a diff shows new results only."""
    import nbformat

    from mae.run_directory import replacing

    for number, cell in enumerate(notebook.cells):  # type: ignore[attr-defined]
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
    with replacing(file) as temporary:
        nbformat.write(notebook, temporary)
