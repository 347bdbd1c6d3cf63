import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from mlflow import MlflowClient
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import cli
import mae
from ablations.studies.own import OWN
from ablations.studies.study import Cell, Study
from cli import app
from mae.command_line.output import reporting
from mae.runs.directory import RunDirectory

runner = CliRunner()
UNTRACKED = ["--tracking-uri", "none"]


def last_json(output: str) -> dict[str, object]:
    parsed = json.loads(output.strip().splitlines()[-1])
    assert isinstance(parsed, dict)
    return parsed


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, cli; print([m for m in ('torch', 'mlflow', 'pandas', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_study_or_sweep_that_has_ended_is_shown_without_importing_pytorch() -> None:
    modules = "ablations.studies.run_studies, ablations.sweeps.run_sweep, analysis.report.terminal"
    code = f"import sys, {modules}; print([m for m in ('torch', 'mlflow', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_study_that_has_ended_is_shown_without_importing_what_draws_and_searches() -> None:
    modules = "ablations.studies.run_studies, analysis.report.terminal"
    heavy = ("matplotlib", "seaborn", "optuna", "sklearn")
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--set", "mask.ratoi=1"],
        ["run", "--preset", "cifar"],
        ["pretrain", "--config", "missing.toml"],
        ["pretrain", "--device", "abacus"],
        ["pretrain", "--set", "data.source=folder:/nowhere"],
        ["pretrain", "--set", "train.batch_size=100000"],
        ["probe", "../../etc"],
        ["probe", "abc123"],
        ["probe", "abc123", "--kind", "cubic"],
        ["run", "--kind", "cubic"],
        ["ablate", "list", "--toml"],
    ],
)
def test_a_users_mistake_exits_2_with_one_line_and_nothing_written(arguments: list[str], runs_dir: Path) -> None:
    result = runner.invoke(app, [*arguments, "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert not list(runs_dir.glob("*/*"))


def test_a_runs_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = runner.invoke(app, ["pretrain", "--runs-dir", str(tmp_path / "file" / "runs")])
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_the_pipeline_runs_once_and_is_reused(tiny_settings: list[str], runs_dir: Path) -> None:
    command = ["run", *tiny_settings, "--runs-dir", str(runs_dir), *UNTRACKED, "--json"]
    first = last_json(runner.invoke(app, command).stdout)
    written = {path: path.stat().st_mtime_ns for path in runs_dir.rglob("*.json")}
    assert last_json(runner.invoke(app, command).stdout) == first
    assert {path: path.stat().st_mtime_ns for path in runs_dir.rglob("*.json")} == written
    listed = last_json(runner.invoke(app, ["runs", "--runs-dir", str(runs_dir), "--json"]).stdout)
    assert [row["run"] for row in listed["runs"]] == [first["run"]]  # type: ignore[index,union-attr]


def test_a_torchvision_of_another_build_than_torch_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting(as_json=False):
        raise RuntimeError("operator torchvision::nms does not exist")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.startswith("failed: torchvision does not fit torch (operator torchvision::nms")
    with pytest.raises(RuntimeError, match="another"), reporting(as_json=False):
        raise RuntimeError("another")


def test_an_unknown_probe_is_told_with_the_nearest_one() -> None:
    told = runner.invoke(app, ["run", "--probe", "lin"])
    assert (told.exit_code, told.stderr.startswith("error: --probe lin: no such probe, did you mean 'linear'?")) == (
        2,
        True,
    )


def test_where_no_probe_gains_the_number_of_steps_is_told_and_hints_name_the_folder(
    tiny_settings: list[str], runs_dir: Path
) -> None:
    done = runner.invoke(app, ["run", *tiny_settings, "--probe", "knn", "--runs-dir", str(runs_dir), *UNTRACKED])
    assert "the encoder was trained for 10 steps: more epochs" in done.stdout
    assert f"mae-cli runs --runs-dir {runs_dir}; mae-cli ui --runs-dir {runs_dir};" in done.stdout


def test_a_probe_that_needs_an_encoder_is_shown_without_raw_pixels(tiny_settings: list[str], runs_dir: Path) -> None:
    kind = ["--kind", "attentive", "--set", "probe.attentive.epochs=1"]
    folder = ["--runs-dir", str(runs_dir), *UNTRACKED]
    shown = runner.invoke(app, ["run", *tiny_settings, *kind, *folder])
    assert shown.exit_code == 0, shown.output
    row = next(line for line in shown.stdout.splitlines() if "attentive" in line and "│" in line)
    assert row.split("│")[-2].strip() == ""
    listed = runner.invoke(app, ["runs", "--runs-dir", str(runs_dir)]).stdout
    assert "attentive" in listed
    assert "k-NN" not in listed


def test_a_stored_config_gives_the_same_run(tiny_settings: list[str], runs_dir: Path) -> None:
    folder = ["--runs-dir", str(runs_dir), *UNTRACKED, "--json"]
    first = last_json(runner.invoke(app, ["pretrain", *tiny_settings, *folder]).stdout)
    stored = runs_dir / str(first["run"]) / "config.toml"
    assert last_json(runner.invoke(app, ["pretrain", "--config", str(stored), *folder]).stdout)["run"] == first["run"]


def test_a_run_leaves_a_picture_and_an_encoder(tiny_settings: list[str], runs_dir: Path) -> None:
    runner.invoke(app, ["pretrain", *tiny_settings, "--runs-dir", str(runs_dir), *UNTRACKED])
    run = next(runs_dir.iterdir())
    assert (run / "pictures" / "epoch-0002.png").stat().st_size > 1000
    assert (run / "encoder.safetensors").exists()


def test_brackets_and_colons_of_a_study_are_no_markup(monkeypatch: pytest.MonkeyPatch, runs_dir: Path) -> None:
    cells = (Cell({"mask.ratio": 0.75}), Cell({"mask.ratio": 0.5}))
    monkeypatch.setitem(OWN, "odd", Study("odd", "Does [/x] matter, or [red] :x:?", cells))
    shown = runner.invoke(app, ["ablate", "list", "--runs-dir", str(runs_dir)])
    assert shown.exit_code == 0, shown.output
    assert "Does [/x] matter, or [red] :x:?" in shown.stdout


def test_config_prints_a_file_for_itself_where_the_images_are_not() -> None:
    done = runner.invoke(app, ["config", "--set", "data.source=folder:/nowhere"])
    assert done.stdout.startswith("# fingerprint unknown: data.source=folder:/nowhere: no such folder")
    assert tomllib.loads(done.stdout)["data"]["source"] == "folder:/nowhere"
    assert done.stderr.startswith("no fingerprint: data.source=folder:/nowhere: no such folder; expected one of\n")
    assert done.exit_code == 0


def test_config_ends_with_what_was_found() -> None:
    done = runner.invoke(app, ["config"])
    assert done.stderr.splitlines()[-1] == "digits: 1,437 train, 360 test, 10 classes"
    assert done.output.endswith(done.stderr)  # below what stdout has


def test_config_tells_the_fingerprint_of_the_run_it_describes(tiny_settings: list[str], runs_dir: Path) -> None:
    shared = [*tiny_settings, "--runs-dir", str(runs_dir), "--json"]
    told = last_json(runner.invoke(app, ["config", *shared]).stdout)["fingerprint"]
    assert told == last_json(runner.invoke(app, ["pretrain", *shared]).stdout)["run"]


def test_the_schema_lists_type_range_and_default_of_every_key() -> None:
    rows = last_json(runner.invoke(app, ["config", "--schema", "--json"]).stdout)["keys"]
    by_key = {row["key"]: row for row in rows}  # type: ignore[attr-defined]
    assert by_key["mask.ratio"]["type"] == "number, above 0, below 1"
    assert by_key["loss.region"]["type"] == "one of masked, all, weighted"
    assert by_key["model.decoder.dim"]["default"] == 32
    assert all(row["description"] for row in rows)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", {"--preset", "--config", "--set", "--runs-dir", "--tracking-uri", "--device", "--json"}),
        ("probe", {"--set", "--runs-dir", "--tracking-uri", "--device", "--json"}),
        ("config", {"--preset", "--config", "--set", "--runs-dir", "--json"}),
        ("ui", {"--runs-dir", "--tracking-uri", "--json"}),
        ("runs", {"--runs-dir", "--json"}),
        ("presets", {"--json"}),
    ],
)
def test_a_command_takes_those_shared_options_that_act(command: str, options: set[str]) -> None:
    shared = {"--preset", "--config", "--set", "--runs-dir", "--tracking-uri", "--device", "--json"}
    taken = {option for each in get_command(app).commands[command].params for option in each.opts}  # type: ignore[attr-defined]
    assert taken & shared == options


def test_an_error_is_an_object_where_one_is_asked_for(runs_dir: Path) -> None:
    result = runner.invoke(app, ["probe", "abc123", "--json", "--runs-dir", str(runs_dir)])
    assert result.exit_code == 2
    assert last_json(result.stdout) == {"error": result.stderr.strip().removeprefix("error: ")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("ablate mask-ratio --seeds 0", "--seeds 0: expected at least 1; see `mae-cli ablate --help`"),
        ("sweep --trials x", "--trials x: expected a whole number; see `mae-cli sweep --help`"),
        ("ui --port 99999", "--port 99999: expected at most 65535; see `mae-cli ui --help`"),
        ("ablate --executor slurm", "--executor: 'slurm' is not one of 'local', 'ray'; see `mae-cli ablate --help`"),
        ("run --foo", "no such option: --foo; see `mae-cli run --help`"),
        ("probe", "missing argument 'run'; see `mae-cli probe --help`"),
        ("ablat", "no such command 'ablat'. Did you mean 'ablate'?; see `mae-cli --help`"),
        ("--foo", "no such option: --foo; see `mae-cli --help`"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(arguments: str, told: str) -> None:
    result = runner.invoke(app, arguments.split(), prog_name="mae-cli")
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"error: {told}\n", "")


def test_a_wrong_option_is_an_object_where_one_is_asked_for() -> None:
    result = runner.invoke(app, ["ablate", "--json", "--seeds", "0"], prog_name="mae-cli")
    assert result.exit_code == 2
    assert last_json(result.stdout) == {"error": "--seeds 0: expected at least 1; see `mae-cli ablate --help`"}


def test_ctrl_c_before_there_is_anything_to_save_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mae.config.resolve.resolve", interrupted)
    result = runner.invoke(app, ["config"])
    assert (result.exit_code, result.stderr) == (130, "stopped by Ctrl-C\n")


def test_every_command_has_an_example() -> None:
    without = {name for name, each in get_command(app).commands.items() if f"mae-cli {name} " not in (each.help or "")}  # type: ignore[attr-defined]
    assert without == {"presets"}


def test_the_version_names_program_and_device() -> None:
    told = runner.invoke(app, ["--version"]).stdout
    assert told.startswith(f"mae-cli {mae.__version__}")
    assert f"torch {torch.__version__}" in told


def test_reconstruct_draws_given_images_also_with_more_hidden(tiny_settings: list[str], tmp_path: Path) -> None:
    folder = ["--runs-dir", str(tmp_path / "runs"), *UNTRACKED]
    run = str(last_json(runner.invoke(app, ["pretrain", *tiny_settings, *folder, "--json"]).stdout)["run"])
    files = [tmp_path / "mine.jpg", tmp_path / os.fsdecode(b"no text \xff.jpg")]
    for file in files:
        Image.new("RGB", (40, 30), (200, 10, 10)).save(file)
    drawn = tmp_path / "drawn.png"
    more = ["--set", "mask.ratio=0.9", "--to", str(drawn)]
    result = runner.invoke(app, ["reconstruct", run, *map(str, files), *more, *folder])
    assert result.exit_code == 0, result.output
    assert Image.open(drawn).size[1] > 100


def test_a_run_keeps_its_threads_and_those_of_the_work_it_continues(
    tiny_settings: list[str], runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae.training.checkpoints.remove", lambda folder: None)
    command = ["pretrain", *tiny_settings, "--runs-dir", str(runs_dir), *UNTRACKED, "--json"]
    run = RunDirectory(runs_dir / str(last_json(runner.invoke(app, command).stdout)["run"]))

    def conditions() -> tuple[str, str]:
        record = run.read_record()
        assert record is not None
        return record.tags["mae.threads"], record.tags["mae.processes"]

    assert conditions() == ("1", "1")
    (run.path / "result.json").unlink()  # as if the work had been cut off after the last checkpoint
    record = run.read_record()
    assert record is not None
    run.write_record(record.model_copy(update={"status": "killed", "tags": record.tags | {"mae.threads": "7"}}))
    runner.invoke(app, command)
    assert conditions() == ("7, 1", "1")


def test_a_probe_refuses_settings_of_the_pretraining(tiny_settings: list[str], runs_dir: Path) -> None:
    folder = ["--runs-dir", str(runs_dir), *UNTRACKED]
    first = last_json(runner.invoke(app, ["pretrain", *tiny_settings, *folder, "--json"]).stdout)
    result = runner.invoke(app, ["probe", str(first["run"]), "--set", "mask.ratio=0.5", *folder])
    assert result.exit_code == 2
    assert "mask.ratio cannot be changed" in result.stderr


def test_stages_are_tracked_in_the_runs_folder(tiny_settings: list[str], runs_dir: Path) -> None:
    command = ["run", *tiny_settings, "--kind", "knn", "--runs-dir", str(runs_dir), "--json"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    client = MlflowClient(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.get_experiment_by_name("mae")
    assert experiment is not None
    tracked = {run.data.tags["mae.stage"]: run for run in client.search_runs([experiment.experiment_id])}
    assert tracked["pretrain"].info.status == tracked["probe"].info.status == "FINISHED"
    assert tracked["probe"].data.tags["mlflow.parentRunId"] == tracked["pretrain"].info.run_id
    assert tracked["probe"].data.metrics["knn/top1"] == last_json(result.stdout)["metrics"]["knn/top1"]  # type: ignore[index]


@pytest.mark.parametrize("given", [["linear,finetune"], ["linear", "finetune"]])
def test_probes_are_given_with_commas_or_one_by_one(given: list[str]) -> None:
    assert cli._kinds(given) == ['probe.kinds=["linear", "finetune"]']
