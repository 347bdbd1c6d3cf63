"""What `mae-cli clean` lists and removes, and what it leaves alone."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from mae.config.tree import Config
from mae.data.dataset import load_data
from mae.runs.directory import RunDirectory
from mae.runs.housekeeping import find_removable, remove
from mae.runs.locks_and_writes import locked_at_once
from mae.runtime.progress import Silent

DAYS = 30


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(path: Path, size: int = 10, days_ago: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - 86400 * days_ago
    os.utime(path, (then, then))
    return path


def make_run(path: Path, finished: bool = True) -> RunDirectory:
    """A run with two checkpoints, of which one was damaged."""
    for name in ("step-00000001.pt", "step-00000002.pt.damaged"):
        write(path / "checkpoints" / name, 500)
    for name in ("encoder.safetensors", "pretext.safetensors", "result.json", "metrics.jsonl") if finished else ():
        write(path / name)
    return RunDirectory(path)


def listed(runs: Path, cache: Path, days: float = DAYS) -> list[tuple[str, str, int]]:
    return [(each.kind, each.path.name, each.size) for each in find_removable(runs, cache, days)]


def contents(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_checkpoints_of_a_finished_run_go_and_all_else_of_it_stays(runs: Path, cache: Path) -> None:
    run = make_run(runs / "abc")
    assert listed(runs, cache) == [("checkpoints of a finished run", "checkpoints", 1000)]
    assert all(remove(each) for each in find_removable(runs, cache, DAYS))
    names = {path.name for path in contents(runs)}
    assert names == {"encoder.safetensors", "pretext.safetensors", "result.json", "metrics.jsonl"}
    assert listed(runs, cache) == []
    assert not run.is_locked()


@pytest.mark.parametrize("probe", ["abc/probes/linear-1", "baselines/linear-1"])
def test_checkpoints_of_a_finished_probe_go_and_those_of_others_stay(probe: str, runs: Path, cache: Path) -> None:
    """As a process leaves them that was killed right after the result was safe."""
    write(runs / probe / "checkpoints" / "step-00000001.pt", 500)
    assert listed(runs, cache) == []
    write(runs / probe / "result.json")
    assert listed(runs, cache) == [("checkpoints of a finished run", "checkpoints", 500)]


def test_a_run_that_is_not_finished_or_whose_decoder_is_in_its_checkpoints_keeps_them(runs: Path, cache: Path) -> None:
    make_run(runs / "abc", finished=False)
    (make_run(runs / "of-an-earlier-version").path / "pretext.safetensors").unlink()
    assert listed(runs, cache) == []


def test_a_run_that_a_process_works_on_is_not_touched(runs: Path, cache: Path) -> None:
    run = make_run(runs / "abc")
    write(run.path / ".record.json.12.tmp", days_ago=1)
    found = find_removable(runs, cache, DAYS)
    before = contents(runs)
    with run.locked():
        assert listed(runs, cache) == []
        assert not remove(found[0])  # it has begun since
    assert contents(runs) == before


@pytest.mark.parametrize(
    "name", ["abc/.encoder.safetensors.4711.tmp", "abc/probes/knn-1/.result.json.4711.tmp", "abc/.arrived/config.toml"]
)
def test_what_a_dead_process_was_writing_goes_once_it_is_old(name: str, runs: Path, cache: Path) -> None:
    path = write(runs / name)
    assert listed(runs, cache) == []
    for each in (path, path.parent):
        os.utime(each, (0, 0))
    assert [kind for kind, _, _ in listed(runs, cache)] == ["unfinished file"]
    assert all(remove(each) for each in find_removable(runs, cache, DAYS))
    assert not path.exists()
    assert listed(runs, cache) == []


def test_a_temporary_file_among_checkpoints_that_go_is_counted_once(runs: Path, cache: Path) -> None:
    run = make_run(runs / "abc")
    write(run.checkpoints / ".step-00000003.pt.4711.tmp", 7, days_ago=1)
    assert listed(runs, cache) == [("checkpoints of a finished run", "checkpoints", 1007)]


def test_memos_half_written_go_and_whole_ones_stay(runs: Path, cache: Path) -> None:
    write(cache / "digests" / ".0123.4711.tmp", days_ago=1)
    write(cache / "digests" / "0123", days_ago=1)
    assert listed(runs, cache) == [("unfinished file", ".0123.4711.tmp", 10)]


@pytest.mark.parametrize("prefix", ["pixels", "survey"])
def test_caches_go_when_no_command_has_used_them_for_long(prefix: str, runs: Path, cache: Path) -> None:
    write(cache / f"{prefix}-old" / "train", 90)
    write(cache / f"{prefix}-old" / "meta.json", days_ago=31)
    write(cache / f"{prefix}-new" / "meta.json", days_ago=29)
    write(cache / "downloads" / "set" / "meta.json", days_ago=999)
    assert listed(runs, cache) == [("unused cache", f"{prefix}-old", 100)]
    assert all(remove(each) for each in find_removable(runs, cache, DAYS))
    assert contents(cache) >= {cache / f"{prefix}-new" / "meta.json", cache / "downloads" / "set" / "meta.json"}
    assert not (cache / f"{prefix}-old").exists()
    assert listed(runs, cache) == []
    assert len(listed(runs, cache, days=0)) == 1


def test_a_half_built_cache_goes_unless_it_is_being_built(runs: Path, cache: Path) -> None:
    write(cache / "pixels-abc.building" / "train")
    with locked_at_once(cache / "pixels-abc.lock") as held:
        assert held
        assert listed(runs, cache) == []
    found = find_removable(runs, cache, DAYS)
    assert [each.kind for each in found] == ["half-built cache"]
    assert remove(found[0])
    assert listed(runs, cache) == []


def test_a_command_that_loads_images_has_used_their_cache(tiny: Config, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(cache))
    load_data(tiny.data, tiny.run, Silent())
    (meta,) = cache.glob("pixels-*/meta.json")
    os.utime(meta, (0, 0))
    assert len(listed(cache, cache)) == 1
    load_data(tiny.data, tiny.run, Silent())
    assert listed(cache, cache) == []


def test_the_command_removes_only_when_told_to(runs: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(cache))
    make_run(runs / "abc")
    write(cache / "pixels-old" / "meta.json", days_ago=8)
    before = contents(runs, cache)
    command = ["clean", "--runs-dir", str(runs), "--unused-days", "7", "--json"]

    def say(*more: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
        said: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return said

    assert say()["bytes"] == 1010
    assert contents(runs, cache) == before
    assert [item["removed"] for item in say("--delete")["items"]] == [True, True]
    assert say() == {"items": [], "bytes": 0}
    assert (runs / "abc" / "encoder.safetensors").exists()
