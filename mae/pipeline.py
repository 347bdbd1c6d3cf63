"""The pipeline: pretrain, then probe; each stage reused if it is finished, continued if it was cut off."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mae.config.fingerprint import pretrain_fingerprint, probe_name
from mae.config.resolve import differences, name_run, resolve, to_toml
from mae.config.tree import Config, ProbeKind
from mae.data.dataset import ImageData, load_data
from mae.data.facts import facts_of
from mae.data.image_files import decode
from mae.errors import RunError, SettingsError, UserError
from mae.pretext.base import Pretext
from mae.pretext.pictures import draw, shown_images
from mae.pretext.tasks import saved_pretext
from mae.probing.knn import online_accuracy
from mae.probing.probe import Setup, probe_all, subjects
from mae.runs.directory import ENCODER, PRETEXT, Busy, Record, RunDirectory
from mae.runs.weights import read_weights
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import Interrupted, Pruned, StoppableProgress, StopRequest
from mae.runtime.progress import Progress
from mae.tracking.background_delivery import tracked
from mae.training import checkpoints
from mae.training.loop import pretrain
from mae.training.trainer import steps_per_epoch

CONDITIONS = ("device_name", "processes", "threads")
"""What the time and memory of a stage depend on besides its settings."""


@dataclass(frozen=True)
class Workplace:
    """Where and how stages run: folder of all runs, MLflow store, device, progress, request to stop, processes."""

    runs_dir: Path
    tracking_uri: str
    device: torch.device
    progress: Progress
    stop: StopRequest
    processes: Processes = ALONE


def choose_device(name: str, processes: Processes = ALONE) -> torch.device:
    """Return the device `auto`, `cpu`, `cuda` or `cuda:N` names; `UserError` if this machine has no such one.

    Of several processes each takes a GPU of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if processes.count > 1 and device.type == "cuda":
        if device.index is not None:
            raise UserError(f"--device {name}: each of {processes.count} processes takes a GPU of its own; give cuda")
        if (gpus := torch.cuda.device_count()) < processes.local_count:
            raise UserError(
                f"--device {name}: this machine has {gpus} GPU(s) for {processes.local_count} processes; "
                f"give torchrun --nproc-per-node {gpus}, or --device cpu"
            )
        device = torch.device("cuda", processes.local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s); try cpu")
    return device


def run_pretraining(config: Config, work: Workplace, planned: str | None = None) -> RunDirectory:
    """Return the finished pretraining of `config`, training what is still missing; all processes call this.

    With a `planned` fingerprint, images are not looked at if the run is finished, or another process works on it
    (`Busy`); `RunError` if its fingerprint turns out to be another one: then these are other images.
    """
    processes = work.processes
    processes.check(config.train)
    if planned is not None:
        run = RunDirectory(work.runs_dir / planned)
        if _is_finished(run, config, work):
            return run
        if run.is_locked():
            raise Busy(f"another process works on {run.path}; wait for it")
    with processes.joined(work.device):
        data = processes.in_turns(lambda: load_data(config.data, config.run, work.progress))
        fingerprint = processes.same(pretrain_fingerprint(config, data.digest), "fingerprint of settings and images")
        if planned not in (None, fingerprint):
            raise RunError(
                f"the images at {config.data.source} on {platform.node()} are not those that were planned for"
            )
        run = RunDirectory(work.runs_dir / fingerprint)
        if processes.from_first(processes.leads and _is_finished(run, config, work)):
            return run
        with processes.together():
            steps_per_epoch(config, data)  # refuses an impossible batch size before anything is written
        torch.use_deterministic_algorithms(config.train.deterministic)
        record = Record(stage="pretrain", name=name_run(config), fingerprint=fingerprint, data=data.describe())
        where = f"{work.device}" if processes.count == 1 else f"{processes.count} processes, {work.device.type}"
        work.progress.say(f"{fingerprint}: {record.name}, on {where}")
        with _stage(run, record, config, work) if processes.leads else _explained(), processes.failures_told():
            result = pretrain(config, data, run, work.device, work.progress, work.stop, online_accuracy, processes)
            if processes.leads:
                run.write_json("result.json", result)
                checkpoints.remove(run.checkpoints)
    return run


def _is_finished(run: RunDirectory, config: Config, work: Workplace) -> bool:
    """Say, also to people, whether a pretraining is finished; if it is, its folder is put in order."""
    if run.result() is None:
        return False
    work.progress.say(f"{run.path.name} is finished already: {name_run(config)}")
    record = run.read_record()
    if record is not None and record.status != "finished":
        with suppress(UserError), run.locked():  # a folder that cannot be written to stays as it is
            _put_in_order(run, record)
    return True


def _put_in_order(run: RunDirectory, record: Record) -> None:
    """Do what a process has left undone that was killed right after its result was safe."""
    checkpoints.remove(run.checkpoints)
    ended, seconds = (run.path / "result.json").stat().st_mtime, run.result()["metrics"]["cost/seconds"]
    done = {"status": "finished", "reason": "", "ended": ended, "seconds": seconds}
    run.write_record(record.model_copy(update=done))


def run_probes(run: RunDirectory, config: Config, work: Workplace) -> dict[str, float]:
    """Return the metrics of every probe the config asks for, probing a finished pretraining where they are missing."""
    places = {kind: probe_directory(run, config, kind) for kind in config.probe.kinds}
    missing = [kind for kind, place in places.items() if place.result() is None]
    if missing:
        data = images_of(run, config, work)
        setup = Setup(config, data, work.device, StoppableProgress(work.progress, work.stop))
        probed = subjects(config, data, load_pretext(run, config, work.device))
    for kind in missing:
        place = places[kind]
        name = f"{kind} of {name_run(config)}"
        fingerprint = place.path.name.removeprefix(f"{kind}-")
        record = Record(stage="probe", name=name, fingerprint=fingerprint, parent=run.path.name, data=data.describe())
        with _stage(place, record, config, work):
            metrics = probe_all(kind, probed, setup, work.runs_dir)
            place.write_json("result.json", {"metrics": metrics})
    return {name: value for place in places.values() for name, value in place.result()["metrics"].items()}


def probe_directory(run: RunDirectory, config: Config, kind: ProbeKind) -> RunDirectory:
    """Return where a probe of `run` is kept."""
    return run.probe(probe_name(config, kind, run.path.name))


def _finished(run: RunDirectory) -> Record:
    """Return a finished run's record; `UserError` if it is not finished."""
    record = run.read_record()
    if run.result() is None or record is None:
        status = record.status if record else "unknown"
        raise UserError(f"{run.path.name} is not finished (status {status}); continue it with `mae-cli pretrain` first")
    return record


def images_of(run: RunDirectory, config: Config, work: Workplace) -> ImageData:
    """Return the images a finished run was trained on; `UserError` if it is not finished or they have changed."""
    record = _finished(run)
    data = load_data(config.data, config.run, work.progress)
    if data.digest != record.data["digest"]:
        raise UserError(f"the images at {config.data.source} are no longer those that {run.path.name} was trained on")
    return data


def stored_config(run: RunDirectory, settings: tuple[str, ...], changeable: tuple[str, ...]) -> Config:
    """Return the config a run was made with, changed by `settings` in `changeable` sections and data.source only."""
    original = resolve(file=run.path / "config.toml")
    config = resolve(file=run.path / "config.toml", settings=settings)
    for key in differences(config, original):
        if key != "data.source" and key.split(".")[0] not in changeable:
            allowed = ", ".join(f"{section}.*" for section in changeable)
            raise UserError(f"{key} cannot be changed for a finished pretraining; only {allowed} and data.source can")
    return config


def load_pretext(run: RunDirectory, config: Config, device: torch.device) -> Pretext:
    """Return the trained pretext task of a finished run, the encoder in it.

    The run's folder is enough for it; `UserError` if it is not finished or lacks something.
    """
    _finished(run)
    facts, encoder = facts_of(run), read_weights(run.path / ENCODER)
    state = {f"encoder.{name}": value for name, value in encoder.items()} | read_weights(run.path / PRETEXT)
    return saved_pretext(config, facts, state).to(device)


def draw_reconstructions(run: RunDirectory, config: Config, files: list[Path], to: Path, work: Workplace) -> None:
    """Write a PNG of image files, or of the first test images, as a finished run reconstructs them under `config`."""
    pretext = load_pretext(run, config, work.device)
    images = [torch.tensor(decode(file, config.data.stored, config.data.channels)) for file in files]
    if not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    chosen = torch.stack(images) if images else _test_images(run, config, work)
    draw(pretext, chosen, to)


def _test_images(run: RunDirectory, config: Config, work: Workplace) -> torch.Tensor:
    try:
        return shown_images(images_of(run, config, work))
    except (UserError, RunError) as error:
        raise type(error)(
            f"{error}; without its data set give image files (mae-cli reconstruct {run.path.name} FILE), "
            "or say where it is now: --set data.source=folder:PATH"
        ) from error


def environment(device: torch.device, processes: Processes) -> dict[str, Any]:
    """Return what a result depends on besides config and data."""
    import numpy
    import timm
    import torchvision

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()
    return {
        "command": shlex.join([Path(sys.argv[0]).name.replace("cli.py", "mae-cli"), *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
        "device": str(device),
        "device_name": name,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "host": platform.node(),
    }


def _processor_name() -> str:
    """Return the processor's model where Linux tells it, else its architecture: `platform` knows no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), "") or platform.processor() or platform.machine()


def _git_commit() -> str:
    """Return the commit of the code that runs, with `+` if it was changed, or "" outside a checkout."""
    here = Path(__file__).parent
    try:
        output = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return output.stdout.strip()


@contextmanager
def _stage(run: RunDirectory, record: Record, config: Config, work: Workplace) -> Iterator[None]:
    """Hold a stage's directory, say in it what it is, and track it; the record ends before the last delivery."""
    surroundings = environment(work.device, work.processes)
    tags = {f"mae.{name}": str(surroundings[name]) for name in ("git_commit", "torch", "host", "command", *CONDITIONS)}
    with run.locked():
        if run.result() is not None:
            raise Busy(f"another process has just finished {run.path}; the same command takes its result")
        record = record.model_copy(update={"tags": _with_earlier_conditions(tags, run)})
        run.write_text("config.toml", to_toml(config))
        run.write_json("environment.json", surroundings)
        with tracked(run, work.tracking_uri, work.runs_dir, work.progress.say), _recorded(run, record):
            yield


def _with_earlier_conditions(tags: dict[str, str], run: RunDirectory) -> dict[str, str]:
    """Return tags that name the conditions of earlier work too, if this continues it: `1, 4` threads.

    The time and memory of a run are those of all the work on it.
    """
    before = run.read_record()
    if before is None or not any(run.checkpoints.glob("step-*.pt")):
        return tags
    earlier = {name: before.tags.get(name, "") for name in (f"mae.{condition}" for condition in CONDITIONS)}
    kept = {name: known.split(", ") for name, known in earlier.items() if known}
    return tags | {name: ", ".join(dict.fromkeys([*known, tags[name]])) for name, known in kept.items()}


@contextmanager
def _recorded(run: RunDirectory, record: Record) -> Iterator[None]:
    """Keep the record of a stage true, however the work ends."""
    before = run.read_record()
    seconds, started = (before.seconds, before.started) if before else (0.0, record.started)
    clock = time.monotonic()

    def write(status: str, reason: str = "") -> None:
        ended = {} if status == "running" else {"ended": time.time()}
        worked = seconds + time.monotonic() - clock
        run.write_record(
            record.model_copy(
                update={"status": status, "reason": reason, "seconds": worked, "started": started, **ended}
            )
        )

    write("running")
    try:
        with _explained():
            yield
    except Pruned as stop:
        write("pruned", str(stop))
        raise
    except Interrupted as stop:
        write("killed", str(stop))
        raise
    except BaseException as error:
        write("failed", f"{type(error).__name__}: {error}")
        raise
    write("finished")


@contextmanager
def _explained() -> Iterator[None]:
    """Say what to do where the memory of a device is used up."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingsError(f"out of memory: {str(error).splitlines()[0]}; raise train.micro_batches") from error
