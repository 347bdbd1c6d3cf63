"""Every command that the documentation gives in full is run, on made-up photographs, with models trained for a second.

Trainings are made small. Those of studies are planned only (`--dry-run`), as there are hundreds of them; the tutorial
is run as a whole in tests/test_documentation.py.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import cli
from ablations.studies import forecast
from mae.config.resolve import build
from tests.conftest import TINY
from tests.helpers.checkpoints import HEADS, SIZES, hugging_face, official, saved, timm_model, write_image
from tests.helpers.documented import ROOT, Documented, tables
from tests.helpers.photographs import write_photographs
from tests.test_documentation import COMMANDS, PROGRAM, parsed

NOT_RUN = {
    "ui": "serves until it is stopped",
    "--watch": "shows runs until it is stopped",
    "doctor": "ends with 1 on a busy machine",
    "--address": "needs a cluster of Ray",
    "--storage": "needs a database server",
    "mps": "needs a Mac",
    "--notebooks": "takes minutes; tests/analysis/report/test_notebooks.py runs each",
    "paper": "plans a hundred trainings; its studies are run one by one",
}
"""Words that keep a command from being run here, and why; it is parsed all the same."""

SMALL = {key: value for key, value in TINY.items() if key.startswith(("model.", "train.", "run."))} | {
    "model.encoder.depth": 3,
    "model.decoder.dim": 16,
    "train.epochs": 1,
    "train.warmup_epochs": 0.5,
    "train.batch_size": 16,
    "train.compile": "off",
}
OF_FILES = {"data.image_size": 32, "model.patch_size": 4}
"""What is added where images are no digits."""

FOLDERS = ("my-photos", "my-images", "photos", "labelled", "cifar10", "phone")
INSTEAD = {
    "imagenet:/data/imagenet": "folder:my-images",
    "docs/results": str(ROOT / "docs" / "results"),
    "/some/folder": ".",
    "/shared/runs": "runs",
    "PATH": "my-photos",
    "NAME": "mask-ratio",
    "train.seed=S": "train.seed=0",
}
"""What is here in place of what the documentation names, besides runs."""


VQVAE = ("--set", "pretext.kind=vqvae")
AGAIN = ("--set", "train.seed=1")


def is_run(command: Documented) -> bool:
    of_tutorial = command.whole and command.page == "docs/tutorial.md"
    in_full = "..." not in command.words and (command.whole or len(command.words) > 1)
    return in_full and not of_tutorial and NOT_RUN.keys().isdisjoint(command.words) and bool(parsed(command))


TO_RUN = list({each.words: each for each in COMMANDS if is_run(each)}.values())


def options(settings: dict[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def output(*words: str) -> str:
    """Return what a command says on stdout; it has to succeed."""
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, f"mae-cli {' '.join(words)}\n{done.output}"
    return done.stdout


def made(*words: str) -> str:
    """Return the id of the run that a small `mae-cli run` made."""
    said = output(*made_small(["run", *words, "--json"]))
    return str(json.loads(said.splitlines()[-1])["run"])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of somebody who types what the documentation says, and what its placeholders stand for there."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MAE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        for name in FOLDERS:
            write_photographs(folder / name, count=12)
        write_image(folder).rename("cat.jpg")
        shutil.copy("cat.jpg", "dog.jpg")
        _write_checkpoints(folder)
        _write_tables(folder)
        photos = ("--preset", "cifar10-tiny", "--config", "photos.toml")
        run, other = made(*photos, "--kind", "linear", "--kind", "knn"), made(*photos, "--kind", "knn", *AGAIN)
        tokens = made(*photos, "--kind", "knn", *VQVAE)
        of_digits = made("--preset", "digits", "--kind", "knn", *VQVAE)
        output("ablate", "mask-ratio", "--seeds", "1", *options(SMALL), "--probe", "knn", "--tracking-uri", "none")
        Path("same.toml").write_text(output("config", run))
    runs = dict.fromkeys(("RUN", "3fa9c1d2e4b5", "3fa9c1", "3f2a", "1c519b6f42c0"), run)
    runs |= dict.fromkeys(("0b77de", "8d2e07", "OTHER"), other) | {"687f3f9d7f3e": tokens, "31eaf60c87d5": of_digits}
    return folder, INSTEAD | runs | {"target.tokenizer=RUN": f"target.tokenizer={of_digits}"}


def _write_checkpoints(folder: Path) -> None:
    """Write small models in the formats of others, under the names on the pages."""
    weights = official(build(SIZES))
    for name in ("mae_pretrain_vit_base_full.pth", "mae_pretrain_vit_base.pth", "vit.pth"):
        saved({"model": weights}, folder / name)
    save_file(timm_model().state_dict(), folder / "vit_small.safetensors")
    hugging_face().save_pretrained(folder / "vit-mae-base")


def _write_tables(folder: Path) -> None:
    (folder / "photos.toml").write_text(tables(ROOT / "docs" / "tutorial.md")[0])
    (folder / "my-study.toml").write_text(output("ablate", "list", "target", "--toml"))
    shutil.copy(ROOT / "docs" / "results" / "cifar10-labels" / "labels.toml", folder)


@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_a_documented_command_runs(
    command: Documented, desk: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, instead = desk
    monkeypatch.setattr(forecast, "SECONDS", 0.1)
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "desk"))
    output(*made_small([_replaced(word, instead) for word in command.words]))


def _replaced(word: str, instead: dict[str, str]) -> str:
    names = "|".join(sorted(map(re.escape, instead), key=len, reverse=True))
    return re.sub(rf"(?<!\w)({names})(?!\w)", lambda found: instead[found[0]], word)


def made_small(words: list[str]) -> list[str]:
    """Return a command with the settings that make it cheap, and without a server."""
    name = words[0]
    known = {parameter.name for parameter in PROGRAM.commands[name].params}
    more: list[str] = []
    if name in ("run", "pretrain", "sweep") or (name == "ablate" and "list" not in words):
        of_files = any(re.match("cifar10|imagenet|photos.toml|data.source=(folder|images)", word) for word in words)
        more += options(SMALL | (OF_FILES if of_files else {}))
        # Where nothing is downloaded:
        more += ["--set", "data.source=folder:cifar10"] if of_files and "source" not in " ".join(words) else []
    if name == "ablate" and "list" not in words:
        more += ["--seeds", "1", "--dry-run"]
    if name == "sweep":
        more += ["--trials", "2"]
    if name == "import":
        more += HEADS
    if "tracking_uri" in known and "--register" not in words and name not in ("config", "runs"):
        more += ["--tracking-uri", "none"]
    return [*words, *more]
