"""The commands that look at results: report, export, compare, runs, ui."""

import json
import shutil
import socket
import sqlite3
import urllib.parse
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.results.frame import study_frame
from cli import app
from mae.config.resolve import build, resolve, to_toml
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.catalogue import list_runs, settings_of_probe, unreadable_runs
from mae.runs.directory import RunDirectory
from mae.runs.selection import select_runs
from mae.runs.study_record import read_study
from mae.tracking.mlflow_server import free_port
from mae.tracking.mlflow_store import default_uri, open_store, study_experiment, study_pages, telling_what_is_wrong
from mae.tracking.study_delivery import deliver_study
from tests.conftest import TINY
from tests.helpers.study_factory import write_study

runner = CliRunner()
BEST, LAST = "a0a0a0a0a0a0", "b0b0b0b0b0b0"


def run(*arguments: str, runs_dir: Path) -> dict[str, object]:
    result = runner.invoke(app, [*arguments, "--runs-dir", str(runs_dir), "--json"])
    assert result.exit_code == 0, result.output
    parsed = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, delivered to a store, and two of its runs under fingerprints, one with another mask ratio."""
    folder = tmp_path_factory.mktemp("runs")
    study = write_study(folder, {"0.75": [70.0, 71.0], "0.9": [60.0, None]})
    for name, old, config in (
        (BEST, "mask-ratio-0.75-1", Config()),
        (LAST, "mask-ratio-0.9-1", build({"mask.ratio": 0.9})),
    ):
        text = (study.path / "study.json").read_text().replace(old, name)
        (study.path / "study.json").write_text(text)
        directory = RunDirectory((folder / old).rename(folder / name))
        directory.write_text("config.toml", to_toml(config))
    deliver_study(study, default_uri(folder), folder)
    return folder


def test_export_and_report_read_runs_mlflow_and_files_alike(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.parquet"
    assert run("export", str(file), runs_dir=runs)["rows"] == 8
    verdicts = [
        run("report", "--to", str(tmp_path / "report.md"), "--format", "md", *source, runs_dir=runs)["verdicts"]
        for source in ([], ["--mlflow"], ["--results", str(file)])
    ]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert next(iter(verdicts[0].values()))["1"] == "undecided"  # type: ignore[index]


def test_a_report_takes_the_test_and_tells_all_pairs(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    asked = ["report", "--to", str(file), "--format", "md"]
    pairs = run(*asked, "--pairs", "--test", "welch", runs_dir=runs)["pairs"]
    assert [(row["probe"], row["cell"], row["other"], row["test"], row["p"]) for row in pairs] == [  # type: ignore[attr-defined]
        (probe, "0.75", "0.9", "welch", None) for probe in ("linear", "knn")
    ]
    assert "Welch" in file.read_text()
    assert "pairs" not in run(*asked, runs_dir=runs)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["report", "--mlflow"],
        ["report", "--results", "missing.csv"],
        ["export", "results.csv"],
        ["compare", "abc123"],
        ["runs", "mask.ratoi=1"],
        ["runs", "mask.ratio"],
        ["runs", "mask.ratio=abc"],
        ["runs", "mask.ratio>abc"],
        ["runs", "--runs-dir", "missing"],
        ["export", "runs.csv", "mask.ratio=0.75"],
        ["export", "runs.csv", "--runs", "mask.ratio=0.75"],
        ["ui", "--port", "1"],
        ["runs", "--sort", "knn/top2"],
        ["ui", "--study", "mask-ratio"],
    ],
)
def test_a_users_mistake_exits_2_with_one_line(arguments: list[str], runs_dir: Path) -> None:
    result = runner.invoke(app, [*arguments, "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_export_refuses_other_formats(runs: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["export", str(tmp_path / "a.xlsx"), "--runs-dir", str(runs)])
    assert result.exit_code == 2
    assert ".csv or .parquet" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mask.ratio=0.9"], [LAST]),
        (["status=failed"], [LAST]),
        (["knn/top1=66.0"], [BEST]),
        (["mask.ratio=0.75", "status=failed"], []),
        (["train.clip_norm=unset", "mask.ratio=0.9"], [LAST]),
        (["mask.ratio>0.75"], [LAST]),
        (["mask.ratio>=0.76", "mask.ratio<=0.9"], [LAST]),
        (["mask.ratio<0.9", "knn/top1>65"], [BEST]),
        (["mask.ratio!=0.75", "run!=a1a1a1a1a1a1"], [LAST]),
        (["run=b*"], [LAST]),
        (["run=?0a0*"], [BEST]),
        (["mask.ratio=0.9", "study=mask-ratio", "date>2000", "data=digits", "data.image_size=32"], [LAST]),
        (["--sort", "knn/top1", "--limit", "1"], [BEST]),
        (["--sort", "mask.ratio", "--limit", "1"], [LAST]),
    ],
)
def test_runs_are_filtered_sorted_and_limited(arguments: list[str], expected: list[str], runs: Path) -> None:
    rows = run("runs", *arguments, runs_dir=runs)["runs"]
    assert [row["run"] for row in rows] == expected  # type: ignore[attr-defined]


def test_runs_without_the_metric_come_last(runs: Path) -> None:
    rows = run("runs", "--sort", "linear/top1", runs_dir=runs)["runs"]
    values = [row["metrics"].get("linear/top1") for row in rows]  # type: ignore[attr-defined]
    assert values == [71.0, 70.0, 60.0, None]


def test_that_no_run_fits_is_said(runs: Path) -> None:
    result = runner.invoke(app, ["runs", "mask.ratio=0.6", "--runs-dir", str(runs)])
    assert result.exit_code == 0
    assert f"no run in {runs} fits mask.ratio=0.6" in " ".join(result.stdout.split())


def test_single_runs_are_exported_with_settings_and_metrics(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    assert run("export", str(file), "--runs", "run=?0*", runs_dir=runs)["rows"] == 2
    table = pd.read_csv(file, index_col="run")
    assert table["mask.ratio"].to_dict() == {BEST: 0.75, LAST: 0.9}
    assert table.loc[BEST, "knn/top1"] == 66


def test_a_damaged_file_is_named_and_hides_no_other_run(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"0.75": [70.0, 71.0], "0.9": [60.0, 61.0]})
    damaged = next(tmp_path.glob("mask-ratio-0.9-1/result.json"))
    damaged.write_text('{"metr')
    shown = runner.invoke(app, ["runs", "--runs-dir", str(tmp_path)])
    assert f"left out: {damaged.parent}: {damaged} is damaged" in shown.stdout
    rows = study_frame(read_study(study), tmp_path)
    status = rows[rows["probe"] == "linear"].set_index(["cell", "seed"])["status"].to_dict()
    assert status == {
        ("0.75", 0): "finished",
        ("0.75", 1): "finished",
        ("0.9", 0): "finished",
        ("0.9", 1): "unreadable",
    }


def test_probes_under_other_settings_are_metrics_of_their_own(tmp_path: Path) -> None:
    write_study(tmp_path, {"0.75": [70.0]}, probes=("knn",))
    (probe,) = tmp_path.glob("*/probes/knn-*")
    few = probe.with_name("knn-0123456789ab")
    shutil.copytree(probe, few)
    settings = resolve("digits", settings=["probe.labels_per_class=5"])
    (few / "config.toml").write_text(to_toml(settings))
    (few / "result.json").write_text(json.dumps({"metrics": {"knn/top1": 31.0}}))
    (row,) = list_runs(tmp_path)
    assert (row["metrics"]["knn/top1"], row["metrics"]["knn labels_per_class:5/top1"]) == (70.0, 31.0)
    assert len(select_runs(tmp_path, ["knn labels_per_class:5/top1<32"])) == 1
    shown = runner.invoke(app, ["runs", "--runs-dir", str(tmp_path)]).stdout
    assert "class=5" in shown
    assert all(number in shown for number in ("70", "31"))


def test_a_probe_of_an_unknown_kind_or_with_damaged_settings_hides_no_run(tmp_path: Path) -> None:
    write_study(tmp_path, {"0.75": [70.0]}, probes=("knn",))
    (probe,) = map(RunDirectory, tmp_path.glob("*/probes/knn-*"))
    later = RunDirectory(probe.path.with_name("cubic-0123456789ab"))
    shutil.copytree(probe.path, later.path)
    later.write_json("result.json", {"metrics": {"cubic/top1": 31.0}})
    probe.write_text("config.toml", "x = [")
    assert settings_of_probe(probe) == ""
    shown = runner.invoke(app, ["runs", "--runs-dir", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "70" in shown.stdout


def test_damaged_settings_hide_their_run_alone(tmp_path: Path) -> None:
    write_study(tmp_path, {"0.75": [70.0, 71.0]})
    (tmp_path / "mask-ratio-0.75-1" / "config.toml").write_text("x = [")
    shown = runner.invoke(app, ["runs", "mask.ratio=0.75", "--json", "--runs-dir", str(tmp_path)])
    assert [row["run"] for row in json.loads(shown.stdout.splitlines()[-1])["runs"]] == ["mask-ratio-0.75-0"]
    assert "mask-ratio-0.75-1/config.toml is not valid TOML" in " ".join(shown.stderr.split())
    assert run("export", str(tmp_path / "runs.csv"), "--runs", runs_dir=tmp_path)["rows"] == 1


def test_a_damaged_store_is_told_with_what_heals_it(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    result = runner.invoke(app, ["ui", "--runs-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "file is not a database; move the file away" in " ".join(result.stderr.split())


def test_a_store_half_made_on_a_full_disk_is_told_with_what_heals_it(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("CREATE TABLE webhooks (id INTEGER)")
    result = runner.invoke(app, ["ui", "--runs-dir", str(tmp_path)])
    told = " ".join(result.stderr.split())
    assert "mlflow.db: table webhooks already exists; move the file away" in told


def test_nobody_is_told_to_move_a_store_away_that_is_in_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"database is locked$"), telling_what_is_wrong(default_uri(tmp_path)):
        raise sqlite3.OperationalError("database is locked")


def test_a_run_at_work_is_listed_with_its_share_and_time_left(tmp_path: Path) -> None:
    write_study(tmp_path, {"0.75": [70.0]}, probes=())
    working = RunDirectory(next(tmp_path.glob("mask-ratio-*")))
    (working.path / "result.json").unlink()
    record = working.read_record()
    assert record is not None
    working.write_record(record.model_copy(update={"status": "running", "data": {"train_images": 3200}}))
    with working.locked():
        shown = runner.invoke(app, ["runs", "--runs-dir", str(tmp_path)]).stdout
    assert "running 2%," in shown  # 100 of 40 epochs of 100 batches


def test_a_damaged_record_is_told_from_one_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "a0").mkdir()
    (tmp_path / "a0" / "record.json").write_text('{"version')
    assert "record.json is damaged" in unreadable_runs(tmp_path).popitem()[1]


def test_a_port_in_use_is_refused_and_another_taken_where_none_is_asked_for() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {taken}: another program uses it"):
            free_port(taken)
        assert free_port(None) != taken


def test_the_list_of_a_studys_trials_begins_with_the_best_of_its_own_probe(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"0.75": [70.0, 71.0], "0.9": [60.0, 61.0]}, probes=("knn",))
    deliver_study(study, default_uri(tmp_path), tmp_path)
    study_pages(default_uri(tmp_path), "mask-ratio")
    store = open_store(default_uri(tmp_path))
    experiment = store.get_experiment_by_name(study_experiment("mask-ratio"))
    view = json.loads(experiment.tags["mlflow.sharedViewState.mae"])
    assert view["orderByKey"] == "metrics.`knn/top1`"


def test_runs_of_another_version_are_named(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "record.json").write_text('{"version": 0}')
    result = runner.invoke(app, ["runs", "--runs-dir", str(tmp_path)])
    assert "old: written by another version" in " ".join(result.stdout.split())


def test_compare_shows_what_differs_and_what_came_out(runs: Path) -> None:
    compared = run("compare", BEST[:3], LAST, runs_dir=runs)["compared"]
    assert isinstance(compared, dict)
    best, last = compared[BEST], compared[LAST]
    assert (best["mask.ratio"], last["mask.ratio"]) == ("0.75", "0.9")
    assert (best["knn/top1"], last["knn/top1"]) == ("66.00 (65.00 to 67.00)", "")
    assert (best["cost/seconds"], last["status"]) == ("11", "failed")
    assert best["linear/top1"] == "71.00 (70.00 to 72.00)"
    assert "linear/low" not in best
    assert not any(key.startswith("train.") for key in best)


def test_a_run_is_not_compared_with_itself(runs: Path) -> None:
    result = runner.invoke(app, ["compare", BEST, BEST[:4], "--runs-dir", str(runs)])
    assert result.exit_code == 2
    assert "two different runs" in result.stderr


def test_the_link_to_a_study_names_all_its_trials(runs: Path) -> None:
    page, _ = study_pages(default_uri(runs), "mask-ratio")
    assert page.startswith("#/compare-runs?")
    query = urllib.parse.parse_qs(page.split("?")[1])
    assert len(json.loads(query["runs"][0])) == 4
    assert query["workflowType"] == ["machine_learning"]
    assert " " not in page
    assert '"' not in page


def test_a_study_that_was_run_is_reported_with_its_losses_and_reconstructions(runs_dir: Path, tmp_path: Path) -> None:
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    study = ["ablate", "--axis", "mask.ratio=0.5,0.75", "--probe", "knn", "--tracking-uri", "none", *settings]
    run(*study, runs_dir=runs_dir)
    run("report", "--format", "md", "--to", str(tmp_path / "report.md"), runs_dir=runs_dir)
    figures = {file.name.split("-", 2)[-1] for file in (tmp_path / "report_figures").iterdir()}
    assert {"loss.png", "images.png"} <= figures
    facts = (tmp_path / "report.md").read_text().split("## Where the numbers come from")[1]
    assert "- trainings: `2 finished of 2`" in facts
