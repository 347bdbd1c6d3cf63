"""What the documentation says can be typed: every command of `mae-cli` on any page parses, its settings exist and fit,
and what is cheap is run. The tutorial is run as a whole, on made-up photographs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import cli
from ablations.execution.executor import Executor
from ablations.studies.run_studies import EVERYTHING, choose_studies
from ablations.studies.study import plan_cells
from ablations.studies.study_file import read_study
from ablations.sweeps.goals import choose_objectives
from ablations.sweeps.samplers import PRUNERS, SAMPLERS
from ablations.sweeps.space import check_space, read_space
from mae.config.resolve import build, config_fields, parse_setting, read_toml, resolve
from mae.config.tree import Config
from tests.conftest import TINY
from tests.helpers.documented import PAGES, ROOT, Documented, documented, tables
from tests.helpers.photographs import write_photographs

COMMANDS = [each for page in PAGES for each in documented(page)]
STANDS_FOR = {"N": "2", "S": "0", "F": "timm"}
"""What placeholders of numbers and choices stand for; others are words as good as any."""

PROGRAM: Any = typer.main.get_command(cli.app)
KEYS = {key for key, _ in config_fields()}
each_command = pytest.mark.parametrize("command", COMMANDS, ids=str)


def parsed(command: Documented) -> dict[str, Any]:
    """Return the arguments and options of a command by name; fails where the program would not take them."""
    name, *words = (
        re.sub(r"=([A-Z])$", lambda one: f"={STANDS_FOR.get(one[1], one[1])}", word) for word in command.words
    )
    assert name in PROGRAM.commands, f"no such command; there are {', '.join(PROGRAM.commands)}"
    given = [STANDS_FOR.get(word, word) for word in words if word != "..."]
    try:
        return dict(PROGRAM.commands[name].make_context(name, given).params)
    except Exception as error:  # Typer's own, which has no public name
        left_out = type(error).__name__ == "MissingParameter" or "requires an argument" in str(error)
        if command.whole or not left_out:
            pytest.fail(f"{command}: {error}")
        return {}


def test_commands_are_found_on_pages_in_blocks_and_in_text() -> None:
    found = {(each.page, each.words[0], each.whole) for each in COMMANDS}
    assert ("README.md", "run", True) in found
    assert ("README.md", "ablate", False) in found
    assert ("docs/slurm.md", "pretrain", True) in found  # after torchrun, over several lines
    assert len(COMMANDS) > 80


@each_command
def test_a_documented_command_parses(command: Documented) -> None:
    parsed(command)


@each_command
def test_a_documented_command_has_settings_that_exist_and_fit(command: Documented) -> None:
    options, name = parsed(command), command.words[0]
    settings = [setting for setting in options.get("settings") or () if "..." not in setting]
    assert {setting.partition("=")[0] for setting in options.get("settings") or ()} <= KEYS
    for setting in settings if name in ("probe", "reconstruct", "import") else ():
        build(dict([parse_setting(setting)]), refuse_inert=False)
        settings = []
    kinds = options.get("kind") if name in ("run", "probe") else options.get("probes")
    base = resolve(options.get("preset"), None, [*settings, *cli._kinds(kinds)], refuse_inert=name != "ablate")
    if name == "ablate" and options:
        Executor("auto", options["workers"], 1, options["executor"], options["address"])
        study, axes = options["name"], options["axis"] or []
        if (study or axes) and study not in ("list", EVERYTHING, "NAME"):
            plan_cells(*choose_studies(study, None, axes), base)
    if name == "sweep" and options:
        assert options["sampler"] in SAMPLERS
        assert options["pruner"] in (None, *PRUNERS)
        choose_objectives(options["objective"], base)


CHEAP = [
    each
    for each in COMMANDS
    if each.words[0] in ("presets", "config", "clean") or each.words[:2] == ("ablate", "list")
    if "--config" not in each.words and each.words[:2] not in (("config", "3fa9c1"), ("config", "RUN"))
]


@pytest.mark.parametrize("command", CHEAP, ids=str)
def test_a_cheap_command_runs(command: Documented, runs_dir: Path) -> None:
    where = [] if command.words[0] == "presets" else ["--runs-dir", str(runs_dir)]
    done = CliRunner().invoke(cli.app, [*command.words, *where])
    assert done.exit_code == 0, done.output


def test_files_on_the_pages_are_what_the_program_reads(tmp_path: Path) -> None:
    (space,) = tables(ROOT / "docs" / "sweep.md")
    (tmp_path / "space.toml").write_text(space)
    for number, study in enumerate(tables(ROOT / "docs" / "studies.md")):
        (tmp_path / "study.toml").write_text(study)
        assert len(plan_cells(read_study(tmp_path / "study.toml"), Config())) == 3 - number
    check_space(read_space(tmp_path / "space.toml"), Config())


def test_the_tests_that_the_page_on_reliability_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    written = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 30
    assert named - written == set()


@pytest.mark.timeout(600)  # a dozen commands, three of which train
def test_the_tutorial_leads_from_a_folder_to_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / "my-photos")
    shared, few_labels, study = tables(page := ROOT / "docs" / "tutorial.md")
    settings = f"{shared}\n{few_labels}"
    (tmp_path / "photos.toml").write_text(settings)
    (tmp_path / "what-pays.toml").write_text(study)
    assert read_toml(tmp_path / "photos.toml") == tomllib.loads(settings)
    small = {key: value for key, value in TINY.items() if key.startswith(("model.", "train.", "run."))}
    small |= {"model.patch_size": 8, "train.epochs": 1, "train.warmup_epochs": 0.5, "train.batch_size": 16}
    smaller = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run = ""
    for command in (each for each in documented(page) if each.whole and each.words[0] != "ui"):  # which serves for ever
        words = [run if word == "3fa9c1d2e4b5" else word for word in command.words]
        less = {"run": smaller, "ablate": [*smaller, "--seeds", "1"]}.get(words[0], [])
        untracked = [] if words[0] in ("config", "runs") else ["--tracking-uri", "none"]
        done = CliRunner().invoke(cli.app, [*words, *less, *untracked])
        assert done.exit_code == 0, f"{command}\n{done.output}"
        if words[0] == "run":
            (run,) = (each.name for each in Path("runs").iterdir() if (each / "encoder.safetensors").exists())
    assert Path("hidden.png").stat().st_size > 1000
    assert Path("runs/report.html").stat().st_size > 10_000
    assert len(list(Path("runs/studies").glob("ratio-*/figure.png"))) == 1
    assert len(list(Path("runs/studies").glob("what-pays-*/table.md"))) == 2  # one against the untrained encoder
