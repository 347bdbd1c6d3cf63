"""What a probe took each test image for: `predictions.csv` in the probe's folder."""

import csv
import io
from typing import NamedTuple

import numpy as np
from torch import Tensor

from mae.errors import UserError
from mae.runs.directory import RunDirectory

FILE, HEADER = "predictions.csv", ["image", "class", "predicted"]


class Predictions(NamedTuple):
    """True and predicted classes, int64 (n,), of the test images in their order."""

    labels: np.ndarray
    predicted: np.ndarray


def write_predictions(run: RunDirectory, labels: Tensor, predicted: Tensor) -> None:
    """Keep the classes (n,) of the test images, and what the probe took them for, as indexes of classes."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(zip(range(len(labels)), labels.tolist(), predicted.tolist(), strict=True))
    run.write_text(FILE, text.getvalue())


def read_predictions(run: RunDirectory) -> Predictions:
    """Return what `write_predictions` kept; `UserError` if there is nothing, or it is damaged."""
    file, again = run.path / FILE, f"delete {run.path} and probe again"
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
        numbers = np.array(rows[1:], dtype=np.int64)
        if rows[0] != HEADER or numbers.shape[1:] != (3,) or numbers.min() < 0:
            raise ValueError
    except FileNotFoundError:
        raise UserError(f"{run.path.name} was made before predictions were kept; {again}") from None
    except (ValueError, IndexError):
        raise UserError(f"{file} is damaged; {again}") from None
    return Predictions(numbers[:, 1], numbers[:, 2])
