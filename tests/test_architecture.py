"""What docs/architecture.md says of the code is true: its picture, its arrows, the files it names."""

import re
from pathlib import Path

import pytest

from docs.draw_architecture import PICTURE, ROOT, draw, imports, levels

PAGE = ROOT / "docs" / "architecture.md"


def test_the_picture_is_that_of_the_imports() -> None:
    assert draw(imports()) == PICTURE.read_text(encoding="utf-8"), "run python docs/draw_architecture.py"


def test_imports_run_in_no_circle_and_one_way() -> None:
    graph = imports()
    levels(graph)  # raises where there is a circle
    for name, found in graph.items():
        packages = {other.split(".")[0] for other in found}
        allowed = {"mae": {"mae"}, "ablations": {"mae", "ablations"}, "analysis": {"mae", "analysis"}}
        assert packages <= allowed.get(name.split(".")[0], packages), name


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:mae|ablations|analysis|tests|docs|benchmarks)/[\w./]+)`", PAGE.read_text())))
)
def test_what_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_folder_is_explained() -> None:
    text = PAGE.read_text()
    folders = {name.replace(".", "/") for name in imports() if (ROOT / Path(*name.split("."))).is_dir()}
    assert {folder for folder in folders if f"`{folder}/`" not in text} == set()


def test_mutation_testing_names_files_that_are_there() -> None:
    named = re.findall(r'"((?:mae|ablations|analysis)/[\w/]+\.py)"', (ROOT / "tests" / "mutants.py").read_text())
    assert [name for name in named if not (ROOT / ("tests" if "/test_" in name else "") / name).exists()] == []
