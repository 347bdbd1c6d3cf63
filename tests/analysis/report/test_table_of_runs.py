"""The table of `mae-cli runs`: what it leaves out so that names have room."""

from pathlib import Path
from typing import Any

from analysis.report.table_of_runs import table_of_runs

PHOTOS: dict[str, Any] = {
    "run": "3fa9c1d2e4b5", "date": "2026-11-28 10:00", "status": "finished", "name": "photos as cifar10-tiny seed=0",
    "tags": "", "note": "", "data": "folder:my/photos", "study": "ratio", "seconds": 60.0,
    "metrics": {"linear/top1": 80.0},
}  # fmt: skip


def columns(*rows: dict[str, Any]) -> list[str]:
    return [str(column.header) for column in table_of_runs(list(rows), Path("nowhere")).columns]


def test_what_all_runs_have_stands_above_the_table(tmp_path: Path) -> None:
    table = table_of_runs([PHOTOS, PHOTOS | {"run": "0b77de", "study": "depth"}], tmp_path)
    assert table.title == "status of all: finished; data of all: folder:my/photos"
    assert [column.header for column in table.columns] == ["run", "started", "name", "study", "linear", "loss", "min"]


def test_images_have_a_column_where_names_do_not_begin_with_them() -> None:
    digits = PHOTOS | {"data": "digits", "name": "digits seed=0"}
    assert "data" not in columns(PHOTOS, digits)
    assert "data" in columns(PHOTOS, digits | {"name": "baseline"})
    assert "data" in columns(PHOTOS, PHOTOS | {"data": "folder:."})


def test_a_single_run_has_a_column_for_all_that_is_known_of_it() -> None:
    assert columns(PHOTOS | {"note": "for figure 5"})[:5] == ["run", "started", "status", "name", "note"]
