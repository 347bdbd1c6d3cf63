"""`pip install mae-cli` is whole: the wheel, made from the sdist, works in a folder where no clone is."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import mae
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "cli.py", "mae", "ablations", "analysis")
PACKAGES = Path(torch.__file__).parents[1]

# Every Python process of the environment writes down which files of the clone it opens, lists or runs.
WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith({root!r}) and not path.startswith({packages!r}):
            with open({seen!r}, "a") as file:
                file.write(path + chr(10))
sys.addaudithook(watch)
"""


def build(folder: Path) -> Path:
    """Return a wheel made from an sdist of a copy, as building writes beside its sources."""
    (sources := folder / "sources").mkdir()
    for name in SOURCES:
        subprocess.run(["cp", "-r", ROOT / name, sources], check=True)
    making = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", making], cwd=sources, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments: str | Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_the_licence_and_what_the_program_reads(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {
        f"{part}/{file.name}"
        for part in ("analysis/notebooks", "analysis/report/templates")
        for file in (ROOT / part).iterdir()
        if file.is_file()
    }
    assert inside <= set(names)
    (licence,) = (name for name in names if name.endswith("licenses/LICENSE"))
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as sdist:
        assert f"mae_cli-{mae.__version__}/LICENSE" in sdist.getnames()


@pytest.mark.timeout(600)  # five commands, from imports to notebooks: 30 s of one core
def test_the_wheel_works_where_no_clone_is(wheel: Path, tmp_path: Path) -> None:
    environment, elsewhere, seen = tmp_path / "env", tmp_path / "elsewhere", tmp_path / "seen"
    venv.create(environment, with_pip=False)
    elsewhere.mkdir()
    packages = next(environment.glob("lib/python*/site-packages"))
    watch = WATCH.format(root=f"{ROOT}{os.sep}", packages=str(PACKAGES), seen=str(seen))
    (packages / "watch_the_clone.py").write_text(watch)
    # A path in a .pth is searched, but the editable installation's own .pth in it is not read.
    (packages / "all.pth").write_text(f"{PACKAGES}\nimport watch_the_clone\n")
    pip("--python", environment, "install", wheel)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def command(*arguments: str) -> str:
        said = subprocess.run(
            [environment / "bin" / "mae-cli", *arguments], cwd=elsewhere, env=variables, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    assert "cifar10-tiny" in command("presets")
    assert "[mask]" in command("config", "--preset", "digits")
    command("ablate", "--axis", "mask.ratio=0.5,0.75", "--probe", "knn", "--tracking-uri", "none", *tiny)
    command("report", "--notebooks", "--study", "ratio")
    assert (elsewhere / "runs" / "report.html").stat().st_size > 10_000
    assert (elsewhere / "runs" / "notebooks" / "cost_and_accuracy.ipynb").exists()
    assert not seen.exists(), seen.read_text()
