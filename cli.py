"""`mae-cli`: parse, call one function, print. Heavy imports happen inside commands."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mae.command_line.commands import Commands, register
from mae.command_line.options import (
    OF_A_RUN,
    ON_IMAGES,
    STORED,
    TRACKED,
    Conditions,
    FromMlflow,
    Kinds,
    Name,
    Note,
    Options,
    Pairs,
    Register,
    Results,
    Run,
    Studies,
    Tags,
    Test,
    complete_run,
    complete_setting,
    named_folder,
)
from mae.command_line.output import DEBUG, Output

if TYPE_CHECKING:
    from ablations.execution.executor import Executor
    from mae.pipeline import Workplace

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def complete_study() -> list[str]:
    from ablations.studies.own import OWN
    from ablations.studies.paper import STUDIES

    return ["paper", "list", *STUDIES, *OWN]


Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Trainings at a time.")]
PerGpu = Annotated[int, typer.Option("--per-gpu", min=1, help="Trainings at a time on one GPU.")]
ExecutorKind = Annotated[Literal["local", "ray"], typer.Option("--executor", help="This machine, or a Ray cluster.")]
Address = Annotated[str | None, typer.Option("--address", help="The Ray cluster's; `auto` for the one around here.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        from mae.runtime.machine import version

        print(version())
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Tell program, commit, Python, PyTorch, device."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Tell errors with their traceback, in Python's words.")
    ] = False,
) -> None:
    """Ablation studies of masked autoencoders: pretrain, probe, track, compare.

    Begin with `mae-cli ablate --axis mask.ratio=0.5,0.75,0.95 --seeds 3`, on digits that are embedded, in two minutes;
    `mae-cli ablate list` names the studies, `mae-cli COMMAND --help` has examples.
    """
    if debug:
        os.environ[DEBUG] = "1"


_command = partial(register, app)


@contextmanager
def _workplace(options: Options, output: Output) -> Iterator["Workplace"]:
    from mae.pipeline import Workplace
    from mae.runtime.distributed import launched
    from mae.runtime.interruption import stop_on_signals
    from mae.runtime.machine import choose_device
    from mae.runtime.progress import ConsoleProgress, Silent
    from mae.tracking.background_delivery import delivering_undelivered
    from mae.tracking.mlflow_store import NONE

    processes = launched()
    device = choose_device(options.device, processes)
    store = options.store if processes.leads else NONE
    with stop_on_signals(second_ends=processes.count == 1) as stop, delivering_undelivered(options.runs_dir, store):
        progress = ConsoleProgress(output.console) if processes.leads else Silent()
        yield Workplace(options.runs_dir, store, device, progress, stop, processes)


def _share_cores(output: Output) -> None:
    """To be called before PyTorch is imported."""
    from mae.runtime.threads import wait_passively

    wait_passively(output.progress.say)


def _notes(name: str | None, note: str | None, tags: list[str] | None) -> Any:
    from mae.runs.notes import GivenNotes

    return GivenNotes(name, note, None if tags is None else tuple(tags))


def _kinds(given: list[str] | None) -> list[str]:
    from mae.config.resolve import nearest
    from mae.errors import UserError
    from mae.probing.kinds import PROBES

    kinds = [kind for each in given or () for kind in each.split(",")]
    for kind in kinds:
        if kind not in PROBES:
            raise UserError(f"--probe {kind}: no such probe{nearest(kind, [*PROBES])}; there are: {', '.join(PROBES)}")
    return [f"probe.kinds={json.dumps(kinds)}"] if kinds else []


@_command("pretrain", shared_by_processes=True)
def pretrain(options: Options, output: Output, name: Name = None, note: Note = None, tag: Tags = None) -> None:
    """Pretrain an encoder; the same command continues an interrupted run and reuses a finished one.

    Example: `mae-cli pretrain --preset cifar10-tiny --set train.epochs=20 --set pretext.kind=denoise`
    """
    config, notes = options.resolve(), _notes(name, note, tag)
    _share_cores(output)
    from mae.pipeline import run_pretraining

    with _workplace(options, output) as where:
        run = run_pretraining(config, replace(where, notes=notes))
        if not where.processes.leads:
            return
    output.say(f"run {run.path.name} is finished: {run.path}")
    output.result({"run": run.path.name, **run.result()})


@_command("probe", OF_A_RUN, shared_by_processes=True)
def probe(options: Options, output: Output, run: Run, kind: Kinds = None) -> None:
    """Probe a finished pretraining, beside the untrained encoder and raw pixels.

    Example: `mae-cli probe 3fa9c1 --probe linear,finetune --set probe.labels=0.1`
    """
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    config = options.resolve_for(found, ("probe", "run"), *_kinds(kind))
    from mae.command_line.probed import probe_and_print

    with _workplace(options, output) as where:
        probe_and_print(found, config, where, output)


@_command("run", shared_by_processes=True)
def run_pipeline(
    options: Options, output: Output, kind: Kinds = None, name: Name = None, note: Note = None, tag: Tags = None
) -> None:
    """Pretrain, then probe: the pipeline.

    Example: `mae-cli run --preset cifar10-tiny --set data.source=folder:photos --set data.image_size=32`
    """
    config, notes = options.resolve(*_kinds(kind)), _notes(name, note, tag)
    if config.probe.source:
        from mae.data.labels import check_labels

        check_labels(config, output.progress, "probes need to know the class")
    _share_cores(output)
    from mae.command_line.probed import probe_and_print, say_not_probed
    from mae.pipeline import check_probed_images, has_labels, run_pretraining

    with _workplace(options, output) as where, where.processes.joined(where.device):
        check_probed_images(config, where)
        run = run_pretraining(config, replace(where, notes=notes))
        if has_labels(run, config, where):
            probe_and_print(run, config, where, output)
        elif where.processes.leads:
            say_not_probed(run, output)


@_command("ablate")
def ablate(
    options: Options,
    output: Output,
    name: Annotated[
        str | None,
        typer.Argument(help="A study, `paper` for all of them, or `list`.", autocompletion=complete_study),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="With `list`: show its cells.", autocompletion=complete_study),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="TOML file with a study of your own; `list STUDY --toml` prints one.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option("--axis", help="key=value,value; several: their product.", autocompletion=complete_setting),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=1000, help="Trainings per cell; 3 or more are recommended.")
    ] = 1,
    precision: Annotated[
        float | None,
        typer.Option("--precision", min=0.01, help="Add seeds until differences are known to ± so many points."),
    ] = None,
    max_seeds: Annotated[
        int, typer.Option("--max-seeds", min=2, max=1000, help="With --precision: no more than these.")
    ] = 10,
    probes: Kinds = None,
    workers: Workers = None,
    per_gpu: PerGpu = 1,
    executor: ExecutorKind = "local",
    address: Address = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Compare with this cell, not with the one that is the base config.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Train this cell only. Repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would cost, and train nothing.")] = False,
    test: Test = None,
    pairs: Pairs = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast/--keep-going", help="Stop at the first failure.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="With `list STUDY`: print it as a file for --file.")] = False,
) -> None:
    """Run an ablation study: train and probe what is missing, print its table beside the paper's figures.

    Examples: `mae-cli ablate mask-ratio --seeds 3 --dry-run`, `mae-cli ablate --axis mask.ratio=0.5,0.75 --seeds 3`,
    `mae-cli ablate list`, `mae-cli ablate list target --toml > my-study.toml`, `mae-cli ablate --file my-study.toml`
    """
    from ablations.studies.run_studies import (
        check_comparable,
        check_labelled,
        choose_studies,
        make_plans,
        run_until,
        underway,
    )
    from mae.errors import UserError

    who = _executor(options, workers, per_gpu, executor, address, "analysis.studies.figures")
    base = options.resolve(*_kinds(probes), refuse_inert=False)  # what a cell uses need not act in the base
    if toml and not (name == "list" and listed):
        raise UserError("--toml prints a study that there is: `mae-cli ablate list mask-ratio --toml`")
    if name == "list":
        from ablations.studies.listing import list_studies, show_cells

        if listed:
            show_cells(base, listed, toml, output)
        else:
            list_studies(options, output, base, seeds)
        return
    studies = choose_studies(name, file, axis or [])
    seeds = max(seeds, 2) if precision else seeds
    most = max(seeds, max_seeds) if precision else seeds
    plans = make_plans(studies, base, most, options.runs_dir, only or [], output.progress, against)
    check_labelled(plans, output.progress)
    if precision:
        check_comparable(plans, only or [])
    if dry_run:
        from ablations.studies.listing import print_forecast

        expected, told = _print_prospects(plans, seeds, precision, options.runs_dir, output)
        print_forecast(expected, told, options, who, output)
        return
    if missing := [job.config for plan in plans for job in plan.of_seeds(seeds).missing(options.runs_dir)]:
        who.reach()
        who.decode(missing, output.progress)

    def precise(plan: Any) -> bool:
        return precision is None or _print_precision(plan, precision, options.runs_dir, output, test)

    with underway([plan.of_seeds(seeds) for plan in plans], options.store, output.console):
        plans, failures = run_until(precise, plans, seeds, who, fail_fast, output.console)
        from analysis.report.terminal import show_studies

        done = [(plan.record, plan.directory) for plan in plans]
        output.result({"studies": show_studies(done, options.runs_dir, output.console, test, pairs)})
        for plan in plans:
            precise(plan)
        _print_next(plans, seeds, options.runs_dir, output)
    if failures:
        raise typer.Exit(1)


@_command("sweep")
def sweep(
    options: Options,
    output: Output,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials in all, earlier ones included.")] = 50,
    space: Annotated[Path | None, typer.Option("--space", help="TOML file with the search space.")] = None,
    sampler: Annotated[
        Literal["tpe", "random", "grid", "gp", "cmaes", "nsga2"], typer.Option("--sampler", help="Optuna's, by name.")
    ] = "tpe",
    pruner: Annotated[
        Literal["hyperband", "median", "wilcoxon", "none"] | None,
        typer.Option("--pruner", help="Optuna's, by name; hyperband if not given, none for several objectives."),
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", help="Such as linear_top1; several with commas: their Pareto front.")
    ] = "linear_top1",
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds; then no more are begun.")] = None,
    name: Annotated[str | None, typer.Option("--study", help="Its name; by default from all that it is.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="URL of Optuna's storage. By default SQLite in the runs folder.")
    ] = None,
    workers: Workers = None,
    per_gpu: PerGpu = 1,
    executor: ExecutorKind = "local",
    address: Address = None,
    seeds_top: Annotated[int, typer.Option("--seeds-top", min=0, help="Train the best N with more seeds.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=1000, help="With --seeds-top: trainings per config.")] = 3,
    print_space: Annotated[
        bool, typer.Option("--print-space", help="Print the space as a file for --space, and train nothing.")
    ] = False,
) -> None:
    """Search a space with Optuna for the best probe accuracy; the same command continues.

    Examples: `mae-cli sweep --trials 50 --workers 2`, `mae-cli sweep --space space.toml --objective knn_top1`
    """
    from ablations.sweeps.run_sweep import SweepRequest, make_sweep, run_sweep, sweep_underway
    from mae.runs.sweep_record import sweep_directory

    who = _executor(options, workers, per_gpu, executor, address, "analysis.sweeps.write_sweep")
    request = SweepRequest(
        trials, timeout, space, options.set_keys, sampler, pruner, objective, name, storage, seeds_top, seeds
    )
    asked = make_sweep(request, options.resolve(), options.runs_dir, output.progress)
    if print_space:
        from ablations.sweeps.space import to_toml

        output.say(to_toml(asked.space), end="")
        output.result({"space": {parameter.key: parameter.describe() for parameter in asked.space}})
        return
    if not sweep_directory(options.runs_dir, asked.name).path.exists():
        who.reach()
        who.decode([asked.base], output.progress)
    with sweep_underway(asked, options.store, output.console) as directory:
        record, plan = run_sweep(asked, request, directory, who, output.console)
        from analysis.report.terminal import show_sweep

        output.result(show_sweep(record, directory, (plan.record, plan.directory), output.console))
    untrained = plan.missing(options.runs_dir)
    if record.open or untrained or not any(trial.state == "complete" for trial in record.trials):
        raise typer.Exit(1)


@_command("reconstruct", OF_A_RUN)
def reconstruct(
    options: Options,
    output: Output,
    run: Run,
    images: Annotated[list[Path] | None, typer.Argument(help="Image files; the first test images if none.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The PNG to write.")] = Path("reconstruction.png"),
) -> None:
    """Draw original, masked and reconstructed images (Fig. 4), with more hidden than in training if asked for.

    Example: `mae-cli reconstruct 3fa9c1 photo.jpg --to drawn.png --set mask.ratio=0.9`
    """
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    config = options.resolve_for(found, ("mask", "run"))
    from mae.pipeline import draw_reconstructions

    with _workplace(options, output) as where:
        draw_reconstructions(found, config, images or [], to, where)
    output.say(f"drawn: {to}")
    output.result({"run": found.path.name, "picture": str(to)})


@_command("features", ON_IMAGES)
def features(
    options: Options,
    output: Output,
    run: Run,
    folder: Annotated[Path, typer.Argument(help="Image files, in it or below; a folder's name is their class.")],
    to: Annotated[Path, typer.Argument(metavar="OUT", help="The table to write, .parquet or .csv.")],
) -> None:
    """Write features of your own images as a table.

    Example: `mae-cli features 3fa9c1 photos features.parquet --set probe.layer=3`
    """
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    config = options.resolve_for(found, ("probe", "data.skip_bad_images"))
    from analysis.images.own_images import own_images

    with own_images(found, options.settings or (), config, options.device, output.progress) as images:
        told = images.write_features(folder, to)
    left_out = f"; {len(told['left_out'])} file(s) left out" if told["left_out"] else ""
    line = f"{told['images']} images, {told['features']} features each: {to}{left_out}"
    output.say(line)
    output.result({"run": found.path.name, **told})


@_command("neighbours", ON_IMAGES)
def neighbours(
    options: Options,
    output: Output,
    run: Run,
    folder: Annotated[Path | None, typer.Argument(help="Images to choose from; the run's test images if none.")] = None,
    images: Annotated[list[Path] | None, typer.Argument(help="Image files to ask for; some of FOLDER if none.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=32, help="Neighbours of each image.")] = 8,
    to: Annotated[Path, typer.Option("--to", help="The PNG to write.")] = Path("neighbours.png"),
) -> None:
    """Draw images beside those whose features are most similar.

    Example: `mae-cli neighbours 3fa9c1 photos cat.jpg --count 5`
    """
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    config = options.resolve_for(found, ("probe", "data.skip_bad_images"))
    from analysis.images.own_images import own_images
    from analysis.images.pictures import check_picture, write_picture

    check_picture(to)

    with own_images(found, options.settings or (), config, options.device, output.progress) as own:
        drawn = own.neighbours_in(folder, images or [], count) if folder else own.neighbours_in_test_images(count)
        write_picture(drawn[0], to)
    output.say(f"drawn: {to}")
    output.result({"run": found.path.name, "picture": str(to), "rows": drawn[1]})


@_command("confusion", STORED)
def confusion(
    options: Options,
    output: Output,
    run: Run,
    probe: Annotated[
        str, typer.Option("--probe", help="(The start of) its folder's name, such as knn; the first kind if not given.")
    ] = "",
    to: Annotated[Path, typer.Option("--to", help="The PNG to write; a CSV goes beside it.")] = Path("confusion.png"),
) -> None:
    """Tell a probe's accuracy per class and draw its confusion matrix.

    Example: `mae-cli confusion 3fa9c1 --probe knn`
    """
    from analysis.images import confusion as matrix
    from analysis.images.pictures import check_picture, write_picture
    from analysis.report.terminal import print_frame
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    check_picture(to)
    chosen = matrix.find_probe(found, probe)
    counts = matrix.confusion(found, chosen)
    table = matrix.table_beside(to)
    write_picture(matrix.confusion_figure(counts, matrix.title_of(found, chosen)), to)
    matrix.write_table(counts, table)
    told = matrix.per_class(counts)
    print_frame(told.head(20).round(1).astype(str), output.console)
    left = f"; the worst 20 of {len(told)} classes above" if len(told) > 20 else ""
    output.say(f"drawn: {to}, counts: {table}{left}")
    classes = json.loads(told.to_json(orient="records"))
    output.result({"run": found.path.name, "probe": chosen.path.name, "picture": str(to), "classes": classes})


@_command("import", (*TRACKED, "settings"))
def import_model(
    options: Options,
    output: Output,
    file: Annotated[Path, typer.Argument(help="A checkpoint, a Hugging Face folder or a run's folder.")],
    register: Register = None,
) -> None:
    """Make a run of a model from elsewhere: the official release's, Hugging Face's, timm's; see docs/checkpoints.md.

    Example: `mae-cli import mae_visualize_vit_base.pth`
    """
    from mae.exchange.incoming import read_model

    model = read_model(file, options.settings or ())
    from mae.pipeline import run_import

    with _workplace(options, output) as where:
        run = run_import(model, where)
    for line in (model.described, *model.notes, f"run {run.path.name}: {run.path}"):
        output.say(line)
    registered = _register(options, output, run, model, register)
    output.result({"run": run.path.name, "found": model.described, "notes": model.notes, "registered": registered})


def _register(options: Options, output: Output, run: Any, model: Any, name: str | None) -> str | None:
    """Return the address of the encoder as a registered model, or None where no name is given."""
    if name is None:
        return None
    from mae.tracking.registered_models import register_model

    address = register_model(run, model, name, options.store, options.runs_dir)
    output.say(f"registered: {address}")
    return address


@_command("config", ("preset", "config", "settings", *STORED))
def show_config(
    options: Options,
    output: Output,
    run: Annotated[
        str | None, typer.Argument(help="Print what this run was made with.", autocompletion=complete_run)
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="List every key: type, range, default, meaning.")] = False,
) -> None:
    """Print the resolved config as TOML, its fingerprint and, on stderr, what images it finds; or every key there is.

    Examples: `mae-cli config --preset cifar10-vit-t > base.toml`, `mae-cli config --schema`,
    `mae-cli config 3fa9c1`, the settings of a run and those that differ from its preset
    """
    if run:
        _show_config_of(run, options, schema, output)
        return
    if schema:
        from mae.config.reference import schema as every_key

        rows = every_key()
        table = Table("key", "type and range", "default", "meaning")
        for row in rows:
            default = "unset" if row["default"] is None else json.dumps(row["default"])
            table.add_row(row["key"], row["type"], default, row["description"])
        output.console.print(table)
        output.result({"keys": rows})
        return
    config = options.resolve()
    from mae.config.fingerprint import pretrain_fingerprint
    from mae.config.resolve import to_toml
    from mae.data.sources import open_source
    from mae.errors import RunError, UserError, first_line
    from mae.runtime.progress import ConsoleProgress

    try:
        source = open_source(config.data, ConsoleProgress(Console(stderr=True)))
        fingerprint, told = pretrain_fingerprint(config, source.digest), ""
        found = source.told(config.data.source)
    except (UserError, RunError) as error:
        fingerprint, told = None, f"unknown: {first_line(error)}"
        found = f"no fingerprint: {error}"
    lines = f"# fingerprint {fingerprint or told}\n{to_toml(config)}"
    output.say(lines)  # a file for --config
    print(found, file=sys.stderr)
    output.result({"fingerprint": fingerprint, "config": config.model_dump(mode="json")})


def _show_config_of(run: str, options: Options, schema: bool, output: Output) -> None:
    from mae.config.resolve import nearest_preset, resolve, spelled, to_toml
    from mae.errors import UserError
    from mae.runs.catalogue import find_run

    if options.preset or options.config or options.settings or schema:
        raise UserError(
            f"config {run}: it prints what a run was made with; leave --preset, --config, --set, --schema out"
        )
    found = find_run(options.runs_dir, run)
    config = resolve(file=found.path / "config.toml")
    preset, differing = nearest_preset(config)
    told = [f"#   {key} = {spelled(value)}" for key, value in differing.items()]
    head = [f"# run {found.path.name}; differs from {preset} in {len(told)} setting(s){':' if told else ''}", *told]
    output.say("\n".join([*head, to_toml(config)]))
    shown = {"run": found.path.name, "preset": preset, "differences": differing}
    output.result({**shown, "config": config.model_dump(mode="json")})


@_command("presets", ("as_json",))
def presets(options: Options, output: Output) -> None:
    """List the presets, which `--preset` takes."""
    from mae.config.presets import PRESETS

    for name, preset in PRESETS.items():
        output.say(f"{name:16} {preset.purpose}")
    output.result({"presets": {name: preset.model_dump() for name, preset in PRESETS.items()}})


@_command("export", TRACKED)
def export_results(
    options: Options,
    output: Output,
    what: Annotated[str, typer.Argument(metavar="FILE|RUN", help="The table to write, .csv or .parquet; or a run.")],
    where: Conditions = None,
    single_runs: Annotated[
        bool, typer.Option("--runs", help="A row per run, not per study, cell, seed and probe.")
    ] = False,
    kind: Annotated[
        Literal["official", "timm", "hf", "safetensors", "onnx"] | None,
        typer.Option("--format", help="Of a run's model; see docs/checkpoints.md."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="With --format: the file to write, for hf a folder.")] = None,
    register: Register = None,
    studies: Studies = None,
    mlflow: FromMlflow = False,
    results: Results = None,
) -> None:
    """Write the results of studies as one tidy table, a row per study, cell, seed and probe; or of single runs.

    With --format write a run's model for other programs.
    Examples: `mae-cli export results.csv --study mask-ratio`, `mae-cli export runs.parquet --runs 'mask.ratio>=0.75'`,
    `mae-cli export 3fa9c1 --format timm --to encoder.safetensors`
    """
    from mae.errors import UserError

    if (where and not single_runs) or (single_runs and (studies or mlflow or results)):
        raise UserError("conditions choose among single runs: `mae-cli export FILE --runs CONDITION`, without --study")
    if kind or to or register:
        if bool(kind) != bool(to) or studies or mlflow or results or single_runs:
            raise UserError(
                "a model is exported with `mae-cli export RUN --format F --to PATH`, a table with none of both"
            )
        _export_model(options, output, what, kind, to, register)
        return
    from analysis.results.loading import export

    if single_runs:
        from analysis.results.run_table import run_table

        frame = run_table(options.runs_dir, where or [])
    else:
        frame = _load(options, studies, mlflow, results, output)
    export(frame, Path(what))
    output.say(f"{len(frame)} rows: {what}")
    output.result({"file": what, "rows": len(frame)})


def _export_model(
    options: Options, output: Output, run: str, kind: str | None, to: Path | None, register: str | None
) -> None:
    from mae.runs.catalogue import find_run

    found = find_run(options.runs_dir, run)
    from mae.exchange.outgoing import export_model
    from mae.pipeline import finished_model

    model = finished_model(found)
    told: dict[str, Any] = {"run": found.path.name}
    if kind and to:
        notes = export_model(model, kind, to)
        for line in (f"{kind}: {to}", *notes):
            output.say(line)
        told |= {"format": kind, "file": str(to), "notes": notes}
    output.result(told | {"registered": _register(options, output, found, model, register)})


@_command("report", TRACKED)
def report(
    options: Options,
    output: Output,
    studies: Studies = None,
    kind: Annotated[Literal["html", "md", "pdf", "tex"], typer.Option("--format", help="Of the document.")] = "html",
    to: Annotated[Path | None, typer.Option("--to", help="The file to write; report.* in the runs folder.")] = None,
    notebooks: Annotated[bool, typer.Option("--notebooks", help="Run the notebooks, into a folder beside it.")] = False,
    test: Test = None,
    pairs: Pairs = False,
    mlflow: FromMlflow = False,
    results: Results = None,
) -> None:
    """Write one document of tables, figures, and what the paper found beside what was found here.

    Example: `mae-cli report --study mask-ratio --format pdf`
    """
    from analysis.report.report import Models, check_pdf, make_report, write_report
    from analysis.report.run_notebooks import Execution, beside, execute_notebooks
    from analysis.results.curves import curves_of
    from analysis.studies.encode_study import encode_study
    from analysis.studies.reconstructions import reconstruct_cells
    from mae.errors import UserError

    if notebooks and mlflow:
        raise UserError("--notebooks reads runs or exported files: `mae-cli export FILE.csv --mlflow`, then --results")
    if kind == "pdf":
        check_pdf()  # before what takes long
    if notebooks and test:
        raise UserError("--test: notebooks choose the test themselves; leave --test or --notebooks out")
    frame = _load(options, studies, mlflow, results, output)
    file = to or options.runs_dir / f"report.{kind}"
    folder = beside(file) if notebooks else None
    curves = curves_of(frame, options.runs_dir, results or [])
    models = Models(
        lambda study: reconstruct_cells(study, options.runs_dir),
        lambda study: encode_study(study, options.runs_dir, output.progress),
    )
    made = make_report(frame, curves, models, test, pairs)
    write_report(made, file, kind)
    output.say(f"report: {file}")
    shown = [*dict.fromkeys(frame["study_id"])] if studies else []
    sources, say = results or [options.runs_dir], output.progress.say
    done = execute_notebooks(sources, shown, folder, say) if folder else Execution()
    verdicts = {base.title: {row["finding"]: row["verdict"] for row in base.findings} for base in made.bases}
    found = {"pairs": json.loads(made.pairs.to_json(orient="records"))} if pairs else {}
    output.result({"report": str(file), "verdicts": verdicts, "notebooks": asdict(done)} | found)
    done.check()


@_command("compare", STORED)
def compare(
    options: Options,
    output: Output,
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="(Starts of) fingerprints; two or more.")],
) -> None:
    """Compare runs: the settings that differ, metrics, cost; runs that differ in their seed alone repeat a config.

    Example: `mae-cli compare 3fa9c1 0b77de`
    """
    from analysis.report.terminal import print_frame
    from analysis.studies.run_comparison import compare_runs, config_differences

    compared, told = compare_runs(options.runs_dir, names), config_differences(options.runs_dir, names)
    print_frame(compared.reset_index(names="").map(str), output.console)
    for line in told:
        output.say(line)
    output.result({"compared": json.loads(compared.to_json()), "differences": told})


@_command("runs", STORED)
def runs(
    options: Options,
    output: Output,
    where: Conditions = None,
    sort: Annotated[str, typer.Option("--sort", help="A setting or metric, best or largest first.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Show this many at most.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show what any terminal or machine works on here, again and again.")
    ] = False,
) -> None:
    """List the runs, newest first, with their probes.

    Examples: `mae-cli runs mask.ratio=0.75 --sort knn/top1`, `mae-cli runs 'knn/top1>60' 'name=cifar*' status!=failed`
    """
    if watch:
        _watch(options, output, bool(where or sort or limit))
        return
    from analysis.report.table_of_runs import table_of_runs
    from mae.runs.catalogue import unreadable_runs
    from mae.runs.selection import select_runs

    rows = select_runs(options.runs_dir, where or [], sort, limit)
    if rows:
        output.console.print(table_of_runs(rows, options.runs_dir))
    else:
        output.console.print(
            f"no run in {options.runs_dir} {'fits' if where else 'yet'} {' '.join(where or [])}".strip()
        )
    for run, reason in unreadable_runs(options.runs_dir, settings=bool(where or sort)).items():
        output.say(f"left out: {run.path}: {reason}")
    output.result({"runs": rows})


def _watch(options: Options, output: Output, chosen: bool) -> None:
    from analysis.report.watch import watch
    from mae.errors import UserError

    if chosen or output.as_json:
        raise UserError("--watch shows all that is under way; leave conditions, --sort, --limit and --json out")
    watch(options.runs_dir, output.console)


@_command("note", TRACKED)
def note(
    options: Options,
    output: Output,
    run: Run,
    text: Annotated[str | None, typer.Argument(metavar="[NOTE]", help="Something to remember about it.")] = None,
    name: Name = None,
    tag: Tags = None,
) -> None:
    """Give a run a name, a note or tags, in place of those it has; an empty one takes them away. They change no number.

    Examples: `mae-cli note 3fa9c1 "for figure 5" --name baseline --tag paper`, `mae-cli note baseline --tag ""`
    """
    from mae.runs.catalogue import find_run
    from mae.runs.notes import take_notes
    from mae.tracking.background_delivery import delivering_undelivered

    found, given = find_run(options.runs_dir, run), _notes(name, text, tag)
    notes = take_notes(found, given)
    told = [f"{key}: {value}" for key, value in (("name", notes.name), ("note", notes.note)) if value]
    told += [f"tags: {', '.join(notes.tags)}"] if notes.tags else []
    line = f"{found.path.name}: {'; '.join(told) or 'nothing is said of it'}"
    output.say(line)
    output.result({"run": found.path.name, **notes.model_dump()})
    if given.any:
        with delivering_undelivered(options.runs_dir, options.store):
            pass


@_command("doctor", (*TRACKED, "device"))
def doctor(options: Options, output: Output) -> None:
    """Look at program, device, folders, locks and the MLflow store: each is well, or it is said what to do.

    Example: `mae-cli doctor --runs-dir /shared/runs --device cuda`
    """
    from mae.doctor import examine

    findings = examine(options.runs_dir, options.store, options.device)
    for each in findings:
        state = f"\n    to do: {each.advice}" if each.advice else ""
        mark = "LOOK" if each.advice else "ok  "
        output.say(f"{mark} {each.subject}: {each.found}{state}")
    output.result({"findings": [asdict(each) for each in findings]})
    if any(each.advice for each in findings):
        raise typer.Exit(1)


@_command("clean", STORED)
def clean(
    options: Options,
    output: Output,
    unused_days: Annotated[
        int, typer.Option("--unused-days", min=0, help="Image caches that no command has used for so long.")
    ] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
) -> None:
    """List what takes disk and is of no more use; weights, results and unfinished runs are never touched.

    Example: `mae-cli clean --unused-days 7 --delete`
    """
    from mae.data.sources import cache_folder
    from mae.runs.housekeeping import bytes_in, find_removable, remove

    folders = options.runs_dir, cache_folder()
    found = find_removable(*folders, unused_days)
    gone = [each for each in found if delete and remove(each)]
    table = Table("what", "MB", "where", box=SIMPLE_HEAD)
    for each in found:
        used = "" if each in gone or not delete else " (left: in use)"
        table.add_row(each.kind + used, f"{each.size / 1e6:.1f}", str(each.path))
    output.console.print(table)
    total = sum(each.size for each in found)
    done = (
        f"{sum(each.size for each in gone) / 1e9:.3g} GB removed" if delete else "nothing is removed without --delete"
    )
    left = ", ".join(f"{folder}: {bytes_in(folder) / 1e9:.3g} GB" for folder in folders)
    output.say(f"{total / 1e9:.3g} GB in all; {done}\n{left}")
    items = [{"kind": each.kind, "path": str(each.path), "bytes": each.size, "removed": each in gone} for each in found]
    output.result({"items": items, "bytes": total})


@_command("ui", TRACKED)
def ui(
    options: Options,
    output: Output,
    study: Annotated[
        str | None, typer.Option("--study", help="Link to the trials of this study or sweep: compared, and as a table.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port on this machine; 5000 or a free one.")
    ] = None,
) -> None:
    """Serve the MLflow page of the runs on this machine, until Ctrl-C, and print links to it.

    Example: `mae-cli ui --study mask-ratio`
    """
    from mae.errors import UserError
    from mae.tracking.background_delivery import deliver_all
    from mae.tracking.mlflow_server import free_port, serve
    from mae.tracking.mlflow_store import experiment_page, study_pages, telling_what_is_wrong

    if not options.runs_dir.is_dir():
        raise UserError(f"there is no folder {options.runs_dir}; --runs-dir names the one that runs are in")
    port = free_port(port)
    with telling_what_is_wrong(options.store):
        deliver_all(options.runs_dir, options.store)
        pages = study_pages(options.store, study) if study else [experiment_page(options.store, options.runs_dir)]
    links = [f"http://127.0.0.1:{port}/{fragment}" for fragment in pages]
    output.console.print("MLflow answers in a few seconds; Ctrl-C ends it")
    for link in links:
        output.say(link)
    output.result({"page": links[0], "table": links[-1]})
    sys.stdout.flush()
    serve(options.store, port)


def _load(options: Options, studies: list[str] | None, mlflow: bool, results: list[Path] | None, output: Output) -> Any:
    from analysis.results.loading import load

    uri = options.store if mlflow else ""
    return load(options.runs_dir, uri, results or [], studies or [], output.progress.say)


def _executor(
    options: Options, workers: int | None, per_gpu: int, kind: Any, address: str | None, *later: str
) -> "Executor":
    from ablations.execution.executor import Executor

    return Executor(options.device, workers, per_gpu, kind, address, ("analysis.report.terminal", *later))


def _print_precision(plan: Any, precision: float, runs_dir: Path, output: Output, test: Any) -> bool:
    from analysis.results.frame import study_frame
    from analysis.studies.enough_seeds import is_precise

    reached, told = is_precise(study_frame(plan.record, runs_dir), precision, test)
    output.say(f"{plan.record.name}: {told}")
    return reached


def _print_prospects(
    plans: Any, seeds: int, precision: float | None, runs_dir: Path, output: Output
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Tell what studies will tell by the noise seen so far; return them with the seeds they will take, and the same."""
    from analysis.studies.enough_seeds import known_noise, prospects, seeds_for_precision

    expected, told = [], []
    for plan in plans:
        known, cells = known_noise(plan.record, runs_dir), len(plan.record.cells)
        needed = seeds_for_precision(known, cells, precision) if precision else seeds
        expected.append(plan.of_seeds(max(seeds, min(needed or plan.seeds, plan.seeds))))
        found = prospects(known, cells, expected[-1].seeds)
        unknown = "no runs have shown the noise between seeds yet, so which differences will be told apart is not known"
        for line in [str(each) for each in found] or [unknown]:
            output.say(f"{plan.record.name}: {line}")
        told += [{"study": plan.record.name, **asdict(each)} for each in found]
    return expected, told


def _print_next(plans: Any, seeds: int, runs_dir: Path, output: Output) -> None:
    figure, name = plans[0].directory.path / "figure.png", plans[0].record.name
    steps = [f"open {figure}"] if figure.exists() and len(plans) == 1 else []
    where = named_folder(runs_dir)
    steps += [f"mae-cli ui --study {name}{where}", f"mae-cli report{where}"]
    steps += [f"--seeds {max(3, 2 * seeds)} tells smaller differences"]
    output.say(f"next: {'; '.join(steps)}")


if __name__ == "__main__":
    app()
