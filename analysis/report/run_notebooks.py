"""Runs the notebooks head-less, all in one kernel: its imports are paid once, its names are cleared in between.

`make notebooks` runs those of this checkout on `docs/results` and keeps them with their outputs.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae.errors import RunError, UserError
from mae.runs.locks_and_writes import replacing

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CELL_SECONDS = 600
LOST = ("CellTimeoutError", "DeadKernelError")
"""Errors after which a kernel runs no other notebook."""


@dataclass
class Execution:
    """What became of the notebooks, by file name: written, skipped with the reason, or failed with the error."""

    written: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `RunError` with the error of each notebook that failed, if any did."""
        if self.failed:
            raise RunError("; ".join(f"notebook {name}: {error}" for name, error in self.failed.items()))


def beside(report: Path) -> Path:
    """Return the folder for the executed notebooks of a report; `UserError` if it is that of the program's own."""
    folder = report.parent / "notebooks"
    if folder.resolve() == NOTEBOOKS.resolve():
        raise UserError(f"--to {report}: its notebooks would replace the program's own; choose another folder")
    return folder


def execute_notebooks(
    results: Sequence[Path], studies: Sequence[str], to: Path, say: Callable[[str], None]
) -> Execution:
    """Run the notebooks on results and write those with their outputs to the folder `to`.

    `results` is a folder of runs, or exported files and folders of them; `studies` are the folders' names of the
    studies to show, or none for all. A notebook that has nothing to show is skipped. One that fails is not written, and
    does not stop the others.
    """
    try:
        import nbclient  # noqa: F401
        import nbformat

        from analysis.report.notebook import PLACES, STUDIES, NoResults
    except ImportError as error:
        raise UserError(f"notebooks need more packages: pip install 'mae-cli[notebooks]' ({error})") from None
    shown = {PLACES: "\n".join(str(place.resolve()) for place in results), STUDIES: "\n".join(studies)}
    to.mkdir(parents=True, exist_ok=True)
    done = Execution()
    with ExitStack() as stack:
        kernel = None
        for file in sorted(NOTEBOOKS.glob("*.ipynb")):
            kernel = kernel or stack.enter_context(_kernel(to, shown))
            notebook = nbformat.read(file, as_version=4)
            kind, message = _run(notebook, kernel)
            if not kind:
                _save(notebook, to / file.name)
                done.written.append(file.name)
                say(f"ran {to / file.name}")
            elif kind == NoResults.__name__:
                done.skipped[file.name] = message
                say(f"skipped {file.name}: {message}")
            else:
                done.failed[file.name] = f"{kind}: {message}"
                say(f"failed {file.name}")
                kernel = None if kind in LOST else kernel
    return done


@contextmanager
def _kernel(folder: Path, shown: dict[str, str]) -> Iterator[Any]:
    """Give a kernel that works in a folder, with what it may show as environment variables."""
    from jupyter_client.manager import AsyncKernelManager  # with the other one, nobody sees that a kernel has died
    from nbclient.util import run_sync

    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONWARNINGS": "ignore:IProgress not found",  # nobody looks at progress here
    }
    with tempfile.TemporaryDirectory() as sockets:  # no port is opened
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        run_sync(kernel.start_kernel)(cwd=str(folder), env=environment | shown)
        try:
            yield kernel
        finally:
            run_sync(kernel.shutdown_kernel)(now=True)


def _run(notebook: Any, kernel: Any) -> tuple[str, str]:
    """Run a notebook, which keeps the outputs; return the type and message of the error that ended it, if one did."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat.v4 import new_code_cell

    notebook.cells.insert(0, new_code_cell("%reset -f"))
    try:
        NotebookClient(notebook, km=kernel, timeout=CELL_SECONDS).execute()
    except CellExecutionError as error:
        return error.ename, error.evalue
    except (CellTimeoutError, DeadKernelError) as error:
        return type(error).__name__, str(error).splitlines()[0]
    del notebook.cells[0]
    return "", ""


def _save(notebook: Any, file: Path) -> None:
    """Write a notebook without what changes at each execution, so that a diff shows new results only."""
    import nbformat

    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
    with replacing(file) as temporary:
        nbformat.write(notebook, temporary)


if __name__ == "__main__":
    execute_notebooks([NOTEBOOKS.parents[1] / "docs" / "results"], [], NOTEBOOKS, print).check()
