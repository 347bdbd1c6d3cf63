"""The pipeline: pretrain, then probe; each stage reused if it is finished, continued if it was cut off."""

import math
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae.config.data_section import DataConfig
from mae.config.fingerprint import pretrain_fingerprint, probe_name, probed_fingerprint
from mae.config.kinds import ProbeKind
from mae.config.resolve import differences, name_run, resolve
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.data.facts import facts_of
from mae.data.image_files import decode, shown
from mae.data.labels import WITHOUT
from mae.data.sources import identify
from mae.data.video_files import decode_video
from mae.errors import RunError, UserError
from mae.exchange.incoming import NO_IMAGES, Model, read_model, size_in_words
from mae.exchange.kept_patches import keeping_as_officially
from mae.pretext.base import KnownTokenizer, Pretext, parameter_count
from mae.pretext.beginning import Beginning
from mae.pretext.pictures import draw, shown_images, title_of
from mae.pretext.registry import known_tokenizer, saved_pretext
from mae.pretext.supervised import check_supervision
from mae.probing.online import evaluate_online
from mae.probing.probe import probe_all, subjects
from mae.probing.subject import Setup, features_in_parts
from mae.runs.directory import ENCODER, PRETEXT, Busy, Record, RunDirectory
from mae.runs.initial_run import initial_run, task_differences
from mae.runs.metrics import CHANCE_LOSS, COLLAPSED, FINAL_LOSS, FINAL_OUTPUT_STD, LEARNED, OUTPUT_STD, SECONDS
from mae.runs.notes import GivenNotes, take_notes
from mae.runs.stage import worked_on
from mae.runs.tokenizer_run import tokenizer_run
from mae.runs.weights import read_weights, write_weights
from mae.runtime import mps
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import StopRequest
from mae.runtime.machine import environment, limits_explained, use_deterministic_kernels
from mae.runtime.progress import Progress
from mae.runtime.sharing import Sharing
from mae.tracking.background_delivery import tracked
from mae.training import checkpoints
from mae.training.compilation import check_device
from mae.training.loop import Watch, pretrain
from mae.training.step import steps_per_epoch


@dataclass(frozen=True)
class Workplace:
    """Where and how stages run: folder of all runs, MLflow store, device, progress, request to stop, processes.

    `watch` may prune a pretraining after an online evaluation; `notes` are what people say of it.
    """

    runs_dir: Path
    tracking_uri: str
    device: torch.device
    progress: Progress
    stop: StopRequest
    processes: Processes = ALONE
    watch: Watch = lambda epochs, accuracy: ""
    notes: GivenNotes = field(default_factory=GivenNotes)


def run_pretraining(config: Config, where: Workplace, planned: str | None = None) -> RunDirectory:
    """Return the finished pretraining of `config`, training what is still missing; all processes call this.

    With a `planned` fingerprint, images are not looked at if the run is finished, or another process works on it
    (`Busy`); `RunError` if its fingerprint turns out to be another one: then these are other images.
    """
    processes = where.processes
    processes.check(config.train)
    if planned is not None:
        run = RunDirectory(where.runs_dir / planned)
        if _is_finished(run, config, where):
            return run
        if run.is_locked():
            raise Busy(f"another process works on {run.path}; wait for it")
    with processes.joined(where.device):
        data = processes.in_turns(lambda: load_data(config.data, config.run, where.progress))
        fingerprint = processes.same(pretrain_fingerprint(config, data.digest), "fingerprint of settings and images")
        if planned not in (None, fingerprint):
            images = f"{config.data.source} on {platform.node()}"
            raise RunError(f"the images at {images} are not those that were planned for")
        run = RunDirectory(where.runs_dir / fingerprint)
        if processes.from_first(processes.leads and _is_finished(run, config, where)):
            return run
        with processes.together():
            steps_per_epoch(config, data)  # refuses an impossible batch size before anything is written,
            check_supervision(config, data.train.labels, len(data.classes))  # images that lack labels,
            check_device(config.train.compile, where.device)  # and what this device cannot do
            mps.check(config, where.device)
        where.progress.say(data.told())
        tokenizer, beginning = _tokenizer(config, where), _beginning(config, where)
        use_deterministic_kernels(config.train.deterministic)
        record = Record(stage="pretrain", name=name_run(config), fingerprint=fingerprint, data=data.describe())
        on = f"{where.device}" if processes.count == 1 else f"{processes.count} processes, {where.device.type}"
        where.progress.say(f"{fingerprint}: {record.name}, on {on}")
        with _stage(run, record, config, where) if processes.leads else limits_explained(), processes.failures_told():
            if processes.leads:
                _list_left_out(data, run)
                take_notes(run, where.notes)
            how = where.device, where.progress, where.stop, evaluate_online, processes, where.watch
            result = pretrain(config, data, run, *how, tokenizer, beginning)
            if processes.leads:
                result["metrics"] |= _spread_of_outputs(run, where.progress)
                _warn_of_chance(run, result["metrics"], where.progress)
                run.write_json("result.json", result | ({} if data.labelled else {"labels": False}))
                checkpoints.remove(run.checkpoints)
    return run


def _spread_of_outputs(run: RunDirectory, progress: Progress) -> dict[str, float]:
    """Return how far apart outputs are at the end, where a task measures it, and warn if they have collapsed."""
    last: dict[str, float] = next((point["metrics"] for point in reversed(run.read_metrics())), {})
    if OUTPUT_STD not in last:
        return {}
    if last[OUTPUT_STD] < COLLAPSED:
        progress.warn(
            f"{run.path.name}: outputs have collapsed: their standard deviation is {last[OUTPUT_STD]:.2f}; it is 1 if "
            "they use all directions alike, 0 if they are one point"
        )
    return {FINAL_OUTPUT_STD: last[OUTPUT_STD]}


def _warn_of_chance(run: RunDirectory, metrics: dict[str, float], progress: Progress) -> None:
    """Warn if a task that is a choice ends with the loss of a guess."""
    loss, chance = (metrics.get(name, math.nan) for name in (FINAL_LOSS, CHANCE_LOSS))
    if loss >= LEARNED * chance:
        progress.warn(
            f"{run.path.name}: the task is hardly learned: its loss ends at {loss:.3f}, and a guess has {chance:.3f}; "
            "more epochs, more images or a larger train.base_lr may do"
        )


def _list_left_out(data: ImageData, run: RunDirectory) -> None:
    """List in a run's folder the files that it has not seen."""
    if data.left_out:
        run.write_text("left_out.txt", "".join(f"{line}\n" for line in data.left_out))


def _tokenizer(config: Config, where: Workplace) -> KnownTokenizer | None:
    """Return the tokenizer that a config names, which process 0 alone reads; `UserError` if it is not fit for it."""
    processes, read = where.processes, []
    with processes.together():
        if processes.leads and (run := tokenizer_run(config, where.runs_dir)):
            facts, state = _facts_and_state(run)
            read = [resolve(file=run.path / "config.toml"), facts, state]
    found = processes.from_first(read)
    return known_tokenizer(*found) if found else None


def _beginning(config: Config, where: Workplace) -> Beginning | None:
    """Return the weights that a config begins with, which process 0 alone reads, and say which; None for random ones.

    `UserError` if they are not there, or of another shape.
    """
    processes, read = where.processes, []
    with processes.together():
        if processes.leads and (run := initial_run(config, where.runs_dir)):
            its = resolve(file=run.path / "config.toml")
            _, state = _facts_and_state(run)
            rest = any(not name.startswith("encoder.") for name in state)
            otherwise = task_differences(config, its) if rest else ["it has an encoder only"]
            what = f"encoder of {run.path.name}; the rest is new: {', '.join(otherwise)} there"
            where.progress.say(f"begins with the {what if otherwise else f'weights of {run.path.name}'}")
            read = [state, its.grid, not otherwise]
    found = processes.from_first(read)
    return Beginning(*found) if found else None


def run_import(model: Model, where: Workplace) -> RunDirectory:
    """Return the finished run of a model from elsewhere, writing it if it is not there yet."""
    run = RunDirectory(where.runs_dir / model.fingerprint)
    if run.result() is not None:
        where.progress.say(f"{run.path.name} is imported already")
        return run
    pretext = model.pretext()
    data = {"source": NO_IMAGES, "digest": model.digest, **model.facts.model_dump()}
    record = Record(
        stage="pretrain",
        name=f"imported {size_in_words(model.config)}",
        fingerprint=run.path.name,
        data=data,
        imported=model.described,
        cuts_off=model.cuts_off,
    )
    with _stage(run, record, model.config, where):
        write_weights(run.path / ENCODER, model.encoder)
        if model.rest:
            write_weights(run.path / PRETEXT, model.rest)
        counts = {"parameters": parameter_count(pretext), "parameters_encoder": parameter_count(pretext.encoder)}
        metrics = {f"cost/{name}": count for name, count in counts.items()}
        run.write_json("result.json", {"weights_sha256": model.digest, "metrics": metrics})
    return run


def _is_finished(run: RunDirectory, config: Config, where: Workplace) -> bool:
    """Say, also to people, whether a pretraining is finished; if it is, its folder is put in order."""
    if run.result() is None:
        return False
    where.progress.say(f"{run.path.name} is finished already: {name_run(config)}")
    take_notes(run, where.notes)
    record = run.read_record()
    if record is not None and record.status != "finished":
        with suppress(UserError), run.locked():  # a folder that cannot be written to stays as it is
            _put_in_order(run, record)
    return True


def _put_in_order(run: RunDirectory, record: Record) -> None:
    """Do what a process has left undone that was killed right after its result was safe."""
    checkpoints.remove(run.checkpoints)
    ended, seconds = (run.path / "result.json").stat().st_mtime, run.result()["metrics"][SECONDS]
    done = {"status": "finished", "reason": "", "ended": ended, "seconds": seconds}
    run.write_record(record.model_copy(update=done))


def run_probes(run: RunDirectory, config: Config, where: Workplace) -> dict[str, float]:
    """Return the metrics of every probe the config asks for, probing a finished pretraining where they are missing.

    All processes call this. Process 0 probes; the others make their share of the features and return nothing.
    """
    processes = where.processes
    with processes.joined(where.device), processes.failures_told():
        with processes.together():
            probes = _probes_of(run, config, where) if processes.leads else {}
        missing = processes.from_first([kind for kind, probe in probes.items() if probe.result() is None])
        if missing:
            _probe_missing(missing, probes, run, processes.from_first(config), where)
    return {name: value for probe in probes.values() for name, value in probe.metrics().items()}


def _probes_of(run: RunDirectory, config: Config, where: Workplace) -> dict[ProbeKind, RunDirectory]:
    subject = _probed_as(run, config, where)
    return {kind: run.probe(probe_name(config, kind, subject)) for kind in config.probe.kinds}


def _probe_missing(
    missing: list[ProbeKind], probes: dict[ProbeKind, RunDirectory], run: RunDirectory, config: Config, where: Workplace
) -> None:
    """Probe in process 0, which alone uses the directories `run` and `probes`; make features for it in the others."""
    processes = where.processes

    data = processes.in_turns(lambda: _probed_images(run, config, where))
    processes.same(data.digest, "fingerprint of the images")
    own_digest = ""
    if config.probe.source:
        where.progress.say(f"probed on {data.told()}")
        own_digest, mean, std = processes.from_first(_own_images(run) if processes.leads else ("", (), ()))
        data = replace(data, mean=mean, std=std)
    probed = subjects(config, data, load_pretext(run, config, where.device, processes), own_digest)
    sharing = Sharing(processes, where.stop)
    setup = Setup(config, data, where.device, where.progress, where.stop, sharing=sharing)
    if not processes.leads:
        named = {subject.name: subject for subject in probed}
        sharing.serve(lambda view: features_in_parts(named[view.subject], view, setup))
        return
    if "knn" in missing and (wrong := setup.too_few_voters()):
        where.progress.warn(wrong)
    with sharing.led():
        for kind in missing:
            probe = probes[kind]
            name = f"{kind} of {name_run(config)}"
            fingerprint, parent = probe.path.name.removeprefix(f"{kind}-"), run.path.name
            record = Record(stage="probe", name=name, fingerprint=fingerprint, parent=parent, data=data.describe())
            with _stage(probe, record, config, where), processes.failures_told():
                _list_left_out(data, probe)
                metrics = probe_all(kind, probed, setup, where.runs_dir, run=probe, last=kind == missing[-1])
                probe.write_json("result.json", {"metrics": metrics})
                checkpoints.remove(probe.checkpoints)


def _finished(run: RunDirectory) -> Record:
    """Return a finished run's record; `UserError` if it is not finished."""
    record = run.read_record()
    if run.result() is None or record is None:
        status = record.status if record else "unknown"
        raise UserError(f"{run.path.name} is not finished (status {status}); continue it with `mae-cli pretrain` first")
    return record


def _probed_as(run: RunDirectory, config: Config, where: Workplace) -> str:
    """Return what identifies the encoder of a run as it is probed: any may be probed on other images than its own."""
    record = run.read_record()
    if record is None or not (record.imported or config.probe.source):
        return run.path.name
    _check_named(run, config)
    digest = identify(config.probed_data, where.progress).digest
    return probed_fingerprint(run.path.name, record.data["digest"], digest)


def check_probed_images(config: Config, where: Workplace) -> None:
    """Raise `UserError` if `probe.source` has images that cannot be read: before a pretraining, not after it."""
    if config.probe.source:
        where.processes.in_turns(lambda: load_data(config.probed_data, config.run, where.progress))


def has_labels(run: RunDirectory, config: Config, where: Workplace) -> bool:
    """Say whether there are labels to probe a finished run with; all processes call this."""
    record = run.read_record() if where.processes.leads else None
    none = record is not None and record.data.get("classes") == 0 and config.probe.source is None
    return not where.processes.from_first(none)


def _probed_images(run: RunDirectory, config: Config, where: Workplace) -> ImageData:
    """Return the images that a finished run is probed on; `UserError` if they have no labels."""
    if where.processes.leads and config.probe.source is None:
        data = images_of(run, config, where)
    else:
        data = load_data(config.probed_data, config.run, where.progress)
    if not data.labelled:
        raise UserError(f"{run.path.name} cannot be probed: the images at {data.source} have no labels; {WITHOUT}")
    return data


def _own_images(run: RunDirectory) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Return digest, mean and standard deviation of the images that a finished run was trained on."""
    facts = facts_of(run)
    return _finished(run).data["digest"], facts.mean, facts.std


def _check_named(run: RunDirectory, config: Config) -> None:
    if config.probed_data.source == NO_IMAGES:
        raise UserError(f"{run.path.name} was imported, without images; name some with --set data.source=folder:PATH")


def images_of(run: RunDirectory, config: Config, where: Workplace) -> ImageData:
    """Return the images a finished run was trained on, or those that an imported one is to be probed on.

    `UserError` if it is not finished or its images have changed.
    """
    record = _finished(run)
    if record.imported:
        _check_named(run, config)
    data = load_data(config.data, config.run, where.progress)
    if not record.imported and data.digest != record.data["digest"]:
        raise UserError(f"the images at {config.data.source} are no longer those that {run.path.name} was trained on")
    return data


def stored_config(run: RunDirectory, settings: tuple[str, ...], changeable: tuple[str, ...]) -> Config:
    """Return the config a run was made with, changed by `settings` in `changeable` sections or keys, and data.source
    only."""
    original = resolve(file=run.path / "config.toml")
    config = resolve(file=run.path / "config.toml", settings=settings)
    for key in differences(config, original):
        if key not in ("data.source", *changeable) and key.split(".")[0] not in changeable:
            allowed = ", ".join(each if "." in each else f"{each}.*" for each in changeable)
            raise UserError(f"{key} cannot be changed for a finished pretraining; only {allowed} and data.source can")
    return config


def _stage(run: RunDirectory, record: Record, config: Config, where: Workplace) -> AbstractContextManager[None]:
    tracking = tracked(run, where.tracking_uri, where.runs_dir, where.progress.say)
    return worked_on(run, record, config, environment(where.device, where.processes), tracking)


def load_pretext(run: RunDirectory, config: Config, device: torch.device, processes: Processes = ALONE) -> Pretext:
    """Return the trained pretext task of a finished run, the encoder in it.

    The run's folder is enough for it, and process 0 alone reads it; `UserError` if it is not finished or lacks
    something.
    """
    with processes.together():
        read = _facts_and_state(run) if processes.leads else []
    return saved_pretext(config, *processes.from_first(read)).to(device)


def _facts_and_state(run: RunDirectory) -> list[Any]:
    record = _finished(run)
    facts, encoder = facts_of(run), read_weights(run.path / ENCODER)
    rest = {} if _has_encoder_only(run, record) else read_weights(run.path / PRETEXT)
    return [facts, {f"encoder.{name}": value for name, value in encoder.items()} | rest]


def finished_model(run: RunDirectory, settings: Sequence[str] = ()) -> Model:
    """Return the model of a finished run, changed by `settings`; `UserError` if it is not finished."""
    _finished(run)
    return read_model(run.path, settings)


def _has_encoder_only(run: RunDirectory, record: Record) -> bool:
    return bool(record.imported) and not (run.path / PRETEXT).exists()


def draw_reconstructions(run: RunDirectory, config: Config, files: list[Path], to: Path, where: Workplace) -> None:
    """Write a PNG of image files, or of the first test images, as a finished run reconstructs them under `config`."""
    record = _finished(run)
    if _has_encoder_only(run, record):
        raise UserError(f"{run.path.name} has no decoder to reconstruct with: it was imported from {record.imported}")
    config = keeping_as_officially(config) if record.cuts_off else config
    pretext = load_pretext(run, config, where.device)
    images = [torch.tensor(_decoded(file, config.data)) for file in files]
    if not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    chosen = torch.stack(images) if images else _test_images(run, config, where)
    alike = len({file.name for file in files}) < len(files)
    names = [shown(Path(file.parent.name, file.name) if alike else Path(file.name)) for file in files]
    title = title_of(run.path.name, config, "" if files else "test images")
    if not draw(pretext, chosen, to, title, names):
        raise UserError(f"{run.path.name}: pretext.kind={config.pretext.kind} has no picture to draw")


def _decoded(file: Path, data: DataConfig) -> np.ndarray:
    """Return a file, or the folder of a video's frames, as the images, or clips, of a run are decoded."""
    return decode_video(file, data) if data.has_clips else decode(file, data.stored_sides, data.channels)


def _test_images(run: RunDirectory, config: Config, where: Workplace) -> torch.Tensor:
    try:
        return shown_images(images_of(run, config, where))
    except (UserError, RunError) as error:
        kind = "images" if config.data.source.startswith("images:") else "folder"
        raise type(error)(
            f"{error}; without its data set give image files (mae-cli reconstruct {run.path.name} FILE), "
            f"or say where it is now: --set data.source={kind}:PATH"
        ) from error
