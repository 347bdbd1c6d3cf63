"""`mae-cli`: parse, call one function, print. Heavy imports happen inside commands."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mae.pipeline import Workplace

app = typer.Typer(help="Ablation studies of masked autoencoders.", no_args_is_help=True, pretty_exceptions_enable=False)

Preset = Annotated[str | None, typer.Option("--preset", help="Starting point; see `mae-cli presets`.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; wins over the preset.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value; wins over all. Repeatable.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where runs are kept.")]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", help="MLflow store; `none` for none. By default in the runs folder.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help="linear or knn. Repeatable.")]
Run = Annotated[str, typer.Argument(help="(The start of) a run's fingerprint; see `mae-cli runs`.")]


@dataclass(frozen=True)
class Output:
    """People read `console`; with --json that is stderr, and stdout ends with one object."""

    console: Console
    as_json: bool

    def result(self, value: dict[str, Any]) -> None:
        if self.as_json:
            print(json.dumps(value, allow_nan=False))


@contextmanager
def _reporting(as_json: bool) -> Iterator[Output]:
    """Turn what goes wrong into one line on stderr and an exit code."""
    from mae.errors import RunError, UserError
    from mae.interruption import Interrupted

    try:
        yield Output(Console(stderr=as_json), as_json)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Interrupted as stop:
        print(str(stop), file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None


@contextmanager
def _workplace(output: Output, runs_dir: Path, tracking_uri: str | None, device: str) -> Iterator["Workplace"]:
    from mae.interruption import stop_on_signals
    from mae.pipeline import Workplace, choose_device
    from mae.progress import ConsoleProgress
    from mae.tracking import default_uri, delivering_what_is_owed

    uri = tracking_uri or default_uri(runs_dir)
    chosen = choose_device(device)
    with stop_on_signals() as stop, delivering_what_is_owed(runs_dir, uri):
        yield Workplace(runs_dir, uri, chosen, ConsoleProgress(output.console), stop)


@app.command()
def pretrain(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Pretrain an encoder; the same command continues an interrupted run and reuses a finished one."""
    from mae.config_sources import resolve

    with _reporting(as_json) as output:
        resolved = resolve(preset, config, settings or ())
        from mae.pipeline import run_pretraining

        with _workplace(output, runs_dir, tracking_uri, device) as work:
            run = run_pretraining(resolved, work)
        output.console.print(f"run {run.path.name} is finished: {run.path}", highlight=False)
        output.result({"run": run.path.name, **run.result()})


@app.command()
def probe(
    run: Run,
    kind: Kinds = None,
    settings: Settings = None,
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Probe a finished pretraining, beside the untrained encoder and raw pixels."""
    with _reporting(as_json) as output:
        from mae.pipeline import stored_config
        from mae.run_directory import find_run

        found = find_run(runs_dir, run)
        wanted = [*(settings or ()), *([f"probe.kinds={json.dumps(kind)}"] if kind else ())]
        resolved = stored_config(found, tuple(wanted))
        with _workplace(output, runs_dir, tracking_uri, device) as work:
            _probe_and_print(found, resolved, work, output)


@app.command("run")
def run_pipeline(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    kind: Kinds = None,
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Pretrain, then probe."""
    from mae.config_sources import resolve

    with _reporting(as_json) as output:
        wanted = [*(settings or ()), *([f"probe.kinds={json.dumps(kind)}"] if kind else ())]
        resolved = resolve(preset, config, wanted)
        from mae.pipeline import run_pretraining

        with _workplace(output, runs_dir, tracking_uri, device) as work:
            _probe_and_print(run_pretraining(resolved, work), resolved, work, output)


@app.command("config")
def show_config(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    schema: Annotated[bool, typer.Option("--schema", help="List every key with type, default and meaning.")] = False,
    as_json: Json = False,
) -> None:
    """Print the resolved config as TOML, or every key there is."""
    from mae.config_sources import config_fields, resolve, to_toml

    with _reporting(as_json) as output:
        if schema:
            for key, field in config_fields():
                print(f"{key} = {field.default!r}\n    {field.description}")
            return
        resolved = resolve(preset, config, settings or ())
        output.console.print(to_toml(resolved), highlight=False, markup=False)
        output.result(resolved.model_dump(mode="json"))


@app.command()
def presets() -> None:
    """List the presets."""
    from mae.presets import PRESETS

    for name, preset in PRESETS.items():
        print(f"{name:16} {preset.purpose}")


@app.command()
def runs(runs_dir: RunsDir = Path("runs"), as_json: Json = False) -> None:
    """List the runs, newest first, with their probes."""
    with _reporting(as_json) as output:
        from mae.run_directory import list_runs

        rows = list_runs(runs_dir)
        table = Table("run", "status", "name", "linear", "k-NN", "loss", "min")
        for row in rows:
            metrics = row["metrics"]
            shown = [metrics.get(key) for key in ("linear/top1", "knn/top1", "train/final_loss")]
            numbers = ["" if value is None else f"{value:.4g}" for value in shown]
            table.add_row(row["run"], row["status"], row["name"], *numbers, f"{row['seconds'] / 60:.1f}")
        output.console.print(table)
        output.result({"runs": rows})


@app.command()
def ui(
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option("--port", help="Port on this machine.")] = 5000,
) -> None:
    """Serve the MLflow page of the runs on this machine, until Ctrl-C."""
    with _reporting(as_json=False) as output:
        from mae.tracking import default_uri, deliver_all, experiment_page

        uri = tracking_uri or default_uri(runs_dir)
        deliver_all(runs_dir, uri)
        output.console.print(f"http://127.0.0.1:{port}/{experiment_page(uri, runs_dir)}", highlight=False)
        os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven more processes that nobody needs here
        server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
        os.execv(sys.executable, [*server, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"])


def _probe_and_print(run: Any, config: Any, work: "Workplace", output: Output) -> None:
    from mae.pipeline import run_probe

    metrics: dict[str, float] = {}
    for kind in config.probe.kinds:
        metrics |= run_probe(run, kind, config, work)["metrics"]
    table = Table("probe", "pretrained", "untrained", "raw pixels", title="test top-1, % (95 % interval)")
    for kind in config.probe.kinds:
        cells = []
        for who in ("", "untrained_", "pixels_"):
            top1, low, high = (metrics[f"{kind}/{who}{name}"] for name in ("top1", "low", "high"))
            cells.append(f"{top1:.2f} ({low:.2f} to {high:.2f})")
        table.add_row(kind, *cells)
    output.console.print(table)
    output.result({"run": run.path.name, "metrics": metrics})


if __name__ == "__main__":
    app()
