"""The options that several commands have, and what a shell offers for them."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from mae.config.tree import Config

PANEL = "Settings and places"


def named_folder(runs_dir: Path) -> str:
    """Return the option that a command needs to find these runs: nothing for the folder that it looks into anyway."""
    return "" if runs_dir == Path("runs") else f" --runs-dir {shlex.quote(str(runs_dir))}"


def complete_preset() -> list[str]:
    """Return what a shell offers after `--preset`."""
    from mae.config.presets import PRESETS

    return [*PRESETS]


def complete_setting(incomplete: str) -> list[str]:
    """Return the keys, or the values of a key, that begin so."""
    from mae.config.completion import settings_beginning

    return settings_beginning(incomplete)


def complete_probe(incomplete: str) -> list[str]:
    """Return probes to put behind those given, with commas."""
    from mae.probing.kinds import PROBES

    given, comma, _ = incomplete.rpartition(",")
    return [f"{given}{comma}{kind}" for kind in PROBES if kind not in given.split(",")]


def complete_own_study(context: typer.Context) -> list[str]:
    """Return the studies that the runs folder has."""
    from mae.runs.study_record import find_studies

    return [record.name for _, record in find_studies(Path(context.params.get("runs_dir") or "runs"))]


def complete_run(context: typer.Context) -> list[str]:
    """Return the runs that the runs folder has."""
    runs_dir = Path(context.params.get("runs_dir") or "runs")
    return [file.parent.name for file in runs_dir.glob("*/record.json")]


Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        "--kind",
        help="linear, knn, attentive, partial, finetune: repeatable, or with commas.",
        autocompletion=complete_probe,
    ),
]
Studies = Annotated[
    list[str] | None,
    typer.Option(
        "--study",
        help="A study's name or its folder's. Repeatable; all if not given.",
        autocompletion=complete_own_study,
    ),
]
FromMlflow = Annotated[bool, typer.Option("--mlflow", help="Read the MLflow store, not the runs folder.")]
Results = Annotated[
    list[Path] | None, typer.Option("--results", help="Read exported files, or folders of them, not runs. Repeatable.")
]
Test = Annotated[
    Literal["blocks", "paired", "welch"] | None,
    typer.Option("--test", help="How cells are compared; seeds as blocks where that fits. See docs/statistics.md."),
]
Pairs = Annotated[bool, typer.Option("--pairs", help="Compare all pairs of cells too, not only with the default.")]
Run = Annotated[
    str,
    typer.Argument(help="(The start of) a run's fingerprint; see `mae-cli runs`.", autocompletion=complete_run),
]
Name = Annotated[str | None, typer.Option("--name", help="Call the run so; commands take it like its fingerprint.")]
Note = Annotated[str | None, typer.Option("--note", help="Something to remember about it.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by. Repeatable.")]
Conditions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONDITION]...",
        help="Only runs that fit: a setting, metric, run, name, status, date, data, study or seconds; = != > < >= <=; "
        "a value, in which * and ? stand for any characters.",
    ),
]
Register = Annotated[
    str | None,
    typer.Option("--register", help="Log the encoder in MLflow, as a new version of the model of this name."),
]


def _shared(flag: str, text: str, complete: Any = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=PANEL, autocompletion=complete)


@dataclass(frozen=True)
class Options:
    """What commands have in common; each takes those of them that act there."""

    preset: Annotated[
        str | None,
        _shared(
            "--preset",
            "Starting point; see `mae-cli presets`. If not given: digits, or none for another data.source.",
            complete_preset,
        ),
    ] = None
    config: Annotated[Path | None, _shared("--config", "TOML file; wins over the preset.")] = None
    settings: Annotated[
        list[str] | None,
        _shared("--set", "dotted.key=value, `unset` for none; wins over all. Repeatable.", complete_setting),
    ] = None
    runs_dir: Annotated[Path, _shared("--runs-dir", "Where runs are kept.")] = Path("runs")
    tracking_uri: Annotated[
        str | None, _shared("--tracking-uri", "MLflow store; `none` for none. By default in the runs folder.")
    ] = None
    device: Annotated[str, _shared("--device", "auto, cpu, cuda, cuda:N or mps.")] = "auto"
    as_json: Annotated[bool, _shared("--json", "One JSON object as the last line of stdout.")] = False

    @property
    def store(self) -> str:
        """The MLflow store's URI."""
        from mae.tracking.mlflow_store import default_uri

        return self.tracking_uri or default_uri(self.runs_dir)

    @property
    def set_keys(self) -> tuple[str, ...]:
        """The keys that --set fixes."""
        return tuple(setting.partition("=")[0].strip() for setting in self.settings or ())

    def resolve(self, *more: str, refuse_inert: bool = True) -> "Config":
        """Return the config that preset, file, settings and `more` settings give."""
        from mae.config.resolve import resolve
        from mae.runs.named_runs import with_whole_fingerprints

        config = resolve(self.preset, self.config, [*(self.settings or ()), *more], refuse_inert)
        return with_whole_fingerprints(config, self.runs_dir)

    def resolve_for(self, run: Any, changeable: tuple[str, ...], *more: str) -> "Config":
        """Return the config of a finished run, changed by settings in the `changeable` sections only."""
        from mae.pipeline import stored_config

        return stored_config(run, (*(self.settings or ()), *more), changeable)


STORED = ("runs_dir", "as_json")
ON_IMAGES = (*STORED, "settings", "device")
TRACKED = (*STORED, "tracking_uri")
OF_A_RUN = (*TRACKED, "settings", "device")
"""Options of commands that only read the runs folder, that read or write MLflow too, that work with a finished run."""
