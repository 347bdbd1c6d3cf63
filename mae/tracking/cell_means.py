"""The means of a study's or sweep's cells, in the MLflow run of the whole: as its metrics and as a table.

Its directory has the table as `summary.json`, written by the analysis: JSON with `columns` and `data`, a list per row.
The first column says under which probe (of a sweep: the objective), the second of which cell; the numbers of the others
become metrics such as `knn/0.5/mean`. null is none.
"""

import json
import math
import re
import time
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"

TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's pages, and `MlflowClient.load_table`, know which artifacts are tables."""

PER_CALL = 1000
"""Most metrics that MLflow takes at once."""

CELL_LENGTH = 200
"""Of the 250 characters of a metric's name."""


def send_cell_means(client: Any, run_id: str, file: Path) -> None:
    """Send the table's numbers where they are new, and say that the artifact of its name is one; can be repeated.

    A metric that the table has no more, as fewer seeds are left, becomes NaN: MLflow deletes none.
    """
    from mlflow.entities import Metric

    known = client.get_run(run_id).data
    listed, entry = json.loads(known.tags.get(TABLES, "[]")), {"path": SUMMARY, "type": "table"}
    if entry not in listed:
        client.set_tag(run_id, TABLES, json.dumps([*listed, entry]))
    values = dict.fromkeys(known.metrics, math.nan) | _metrics(json.loads(file.read_text(encoding="utf-8")))
    now = int(time.time() * 1000)  # of several points of one step, MLflow shows the newest
    metrics = [
        Metric(name, value, now, 0) for name, value in values.items() if not _same(value, known.metrics.get(name))
    ]
    for first in range(0, len(metrics), PER_CALL):
        client.log_batch(run_id, metrics=metrics[first : first + PER_CALL])


def _same(value: float, known: float | None) -> bool:
    return known is not None and (value == known or (math.isnan(value) and math.isnan(known)))


def _metrics(table: dict[str, Any]) -> dict[str, float]:
    cells = _names(row[1] for row in table["data"])
    return {
        f"{row[0]}/{cells[row[1]]}/{column}": value
        for row in table["data"]
        for column, value in zip(table["columns"][2:], row[2:], strict=True)
        if value is not None
    }


def _names(cells: Iterable[str]) -> dict[str, str]:
    """Return by cell a name of its own that MLflow takes as part of a metric's: that of `[8, 8]` is `8 8`."""
    names: dict[str, str] = {}
    for cell in dict.fromkeys(cells):
        # A slash would begin another part; a colon is refused by servers on Windows.
        name = re.sub(r"[^\w.-]+", " ", cell)[:CELL_LENGTH].strip()
        if not name.strip("."):  # MLflow takes . and .. for folders
            name = "cell"
        numbered = (f"{name} {number}" for number in count(2))
        names[cell] = next(each for each in chain([name], numbered) if each not in names.values())
    return names
