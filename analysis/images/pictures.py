"""Pictures as files."""

from pathlib import Path

from matplotlib.figure import Figure

from mae.errors import UserError
from mae.runs.locks_and_writes import replacing


def check_picture(to: Path) -> None:
    """Raise `UserError` if a picture cannot be written to a file of this name."""
    if to.suffix.lower() != ".png":
        raise UserError(f"--to {to}: expected a name ending in .png")


def write_picture(figure: Figure, to: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    check_picture(to)
    with replacing(to) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
