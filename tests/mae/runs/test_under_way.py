"""What `runs --watch` tells of work in other processes, which are lock holders here."""

import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.report.watch import look
from cli import app
from mae.runs.directory import Record, RunDirectory
from mae.runs.under_way import runs_under_way

SETTINGS = "[train]\nepochs = 10\nbatch_size = 100\n"


def at_work(run: RunDirectory, points: list[tuple[int, float]], stage: str = "pretrain") -> None:
    """Write what a stage of 1,000 images has on disk; points are (step, seconds ago)."""
    record = Record(stage=stage, name="mine", fingerprint="", data={"train_images": 1000}, tags={"mae.host": "there"})  # type: ignore[arg-type]
    run.write_record(record)
    run.write_text("config.toml", SETTINGS)
    for step, ago in points:
        run.append_metrics(step, {"train/loss": 0.5, "train/epoch": (step - 1) // 10, "online/knn_top1": 40.0})
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        stamped = lines[-1].replace('"time": ', f'"time": {time.time() - ago}, "was": ')
        run.write_text("metrics.jsonl", "\n".join([*lines[:-1], stamped]) + "\n")


def test_share_and_time_left_follow_from_the_last_steps_whatever_interruption_was_before(runs_dir: Path) -> None:
    run = RunDirectory(runs_dir / "0123456789ab")
    at_work(run, [(10, 5000.0), (20, 60.0), (30, 40.0), (40, 20.0), (50, 0.0)])  # 2 s a step, one long pause
    with run.locked():
        found = next(runs_under_way(runs_dir))
    assert found.share == 0.5
    assert found.seconds_left == pytest.approx(100, abs=2)
    assert (found.work, found.host) == ("pretraining, epoch 5", "there")
    assert found.metrics == {"train/loss": 0.5, "online/knn_top1": 40.0}


def test_a_killed_run_is_not_under_way_and_one_at_its_beginning_has_no_time_yet(runs_dir: Path) -> None:
    run = RunDirectory(runs_dir / "0123456789ab")
    at_work(run, [])
    assert [*runs_under_way(runs_dir)] == []
    with run.locked():
        found = next(runs_under_way(runs_dir))
    assert (found.share, found.seconds_left) == (0.0, None)


def test_a_probe_is_named_beside_its_run(runs_dir: Path) -> None:
    run = RunDirectory(runs_dir / "0123456789ab")
    at_work(run, [])
    probe = run.probe("knn-abc")
    at_work(probe, [], "probe")
    with probe.locked():
        found = [*runs_under_way(runs_dir)]
        console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(look(runs_dir))
    assert [(each.run, each.work) for each in found] == [("0123456789ab", "knn")]
    told = console.export_text()
    assert "1 under way" in told
    assert "k-NN probe" in told


def test_watching_needs_a_terminal_and_shows_all(runs_dir: Path) -> None:
    for given, told in ((["--watch"], "needs a terminal"), (["--watch", "--limit", "3"], "leave conditions")):
        result = CliRunner().invoke(app, ["runs", *given, "--runs-dir", str(runs_dir)])
        assert (result.exit_code, told in result.stderr) == (2, True)
