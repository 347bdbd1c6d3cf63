"""What a study has to train: its cells times seeds, what of that exists already, what is shared."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from ablations.execution.job import Job
from ablations.studies.study import Digests, PlannedCell, Study, fingerprints, plan_cells, possible
from mae.config.fingerprint import BEFORE, pretrain_fingerprint, probe_sections
from mae.config.kinds import ProbeKind
from mae.config.resolve import change, flatten, name_run
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.initial_run import initial_run
from mae.runs.named_runs import with_whole_fingerprints
from mae.runs.study_record import StudyRecord, TrialRecord
from mae.runs.tokenizer_run import tokenizer_run


@dataclass(frozen=True)
class Plan:
    """A study worked out for one base config and data set.

    `jobs` are one per trial, seed by seed; `left_out` has why by cell, `notes` all that has become of the study on this
    base.
    """

    record: StudyRecord
    directory: RunDirectory
    jobs: tuple[Job, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def missing(self, runs_dir: Path) -> list[Job]:
        """Return the trainings that are not done."""
        return [job for job in all_jobs([self]) if not job.is_done(runs_dir)]

    @property
    def seeds(self) -> int:
        """The number of trainings per cell."""
        return len({trial.seed for trial in self.record.trials})

    def of_seeds(self, stop: int, start: int = 0) -> "Plan":
        """Return the plan with its seeds from number `start` to before `stop` only."""
        kept = sorted({trial.seed for trial in self.record.trials})[start:stop]
        trials = [trial for trial in self.record.trials if trial.seed in kept]
        jobs = tuple(job for job in self.jobs if job.config.train.seed in kept)
        return replace(self, record=self.record.model_copy(update={"trials": trials}), jobs=jobs)


def make_plan(
    study: Study,
    base: Config,
    seeds: int,
    digest_of: Digests,
    runs_dir: Path,
    only: Sequence[str] | None = None,
    against: str | None = None,
) -> Plan:
    """Return the plan of `study` on `base` for the seeds `base.train.seed`, + 1, ...

    With `only`, the jobs are those of the named cells; the record has all cells all the same. The others are compared
    with the cell `against`, by default with the one that is the base config.
    """
    base = study.base(base)
    study, left_out = possible(study, base)
    cells = plan_cells(study, base, digest_of)
    names = [cell.name for cell in cells]
    if unknown := sorted(set(only or ()) - set(names)):
        raise UserError(f"--only {unknown[0]}: no such cell in {study.name}; its cells: {'; '.join(names)}")
    if against:
        if against not in names:
            raise UserError(f"--against {against}: no such cell in {study.name}; its cells: {'; '.join(names)}")
        told = [cell.record.model_copy(update={"is_default": cell.name == against}) for cell in cells]
        cells = [replace(cell, record=record) for cell, record in zip(cells, told, strict=True)]
    kinds = base.probe.kinds if study.probed else ()
    cells = [replace(cell, config=with_whole_fingerprints(cell.config, runs_dir)) for cell in cells]
    for cell in cells:
        for named in (tokenizer_run, initial_run):
            named(cell.config, runs_dir)  # refuses one that is not finished, or does not fit
    jobs, trials = [], []
    for seed in range(base.train.seed, base.train.seed + seeds):
        for cell in cells:
            config = change(cell.config, _seeds(cell.config, seed, seed - base.train.seed))
            fingerprint, subject = fingerprints(config, digest_of)
            job = Job(f"{study.name} {cell.name}, seed {seed}", config, fingerprint, kinds, probed_as=subject)
            probes = {kind: job.probe_name(kind) for kind in kinds}
            trials.append(TrialRecord(cell=cell.name, seed=seed, fingerprint=job.fingerprint, probes=probes))
            if not only or cell.name in only:
                jobs.append(job)
    record = StudyRecord(
        name=study.name,
        question=study.question,
        source=study.source,
        axis=study.axis,
        log_axis=study.log_axis,
        base=name_run(base),
        config=flatten(base.model_dump(mode="json")),
        data={"source": base.data.source, "digest": digest_of(base.data)},
        cells=[cell.record for cell in cells],
        trials=trials,
    )
    probed_on = digest_of(base.probed_data) if base.probe.source else ""
    folder = f"{study.name}-{_identity(base, record, probed_on)}"
    notes = tuple(notes_on(study.name, cells, left_out))
    return Plan(record, RunDirectory(runs_dir / "studies" / folder), tuple(jobs), left_out, notes)


def notes_on(name: str, cells: Sequence[PlannedCell], left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence about each thing that has become of the study `name` on a base config."""
    for cell_name, reason in left_out.items():
        yield f"study {name}: {cell_name} is left out on this base config: {reason}"
    for cell in cells:
        if len(cell.given) > 1:
            yield f"study {name}: {' and '.join(cell.given)} are equal on this base config: one cell, {cell.name}"
    if len(cells) == 1:
        yield f"study {name}: one cell, {cells[0].name}: there is nothing to compare it with"
    if len(cells) > 1 and not any(cell.record.is_default for cell in cells):
        yield (
            f"study {name}: no cell is the base config, so there is no default to compare with; --against CELL names "
            f"one of {'; '.join(cell.name for cell in cells)}"
        )


def _seeds(config: Config, seed: int, number: int) -> dict[str, int]:
    """Return the settings of a study's seed, number 0, 1, ...: where labels are few, which these are is noise too."""
    probe = config.probe
    few = probe.labels < 1 or probe.labels_per_class is not None
    return {"train.seed": seed} | ({"probe.seed": probe.seed + number} if few else {})


def all_jobs(plans: Iterable[Plan]) -> list[Job]:
    """Return every training of several plans once, with all probes that any of their trials asks for."""
    trainings: dict[str, dict[tuple[str, ...], Job]] = {}
    for plan in plans:
        for job in plan.jobs:
            trainings.setdefault(job.fingerprint, {}).setdefault(job.probes, job)
    return [replace(job, also=tuple(others)) for job, *others in map(dict.values, trainings.values())]


def told_done(jobs: Sequence[Job], runs_dir: Path) -> str:
    """Return how much of some jobs is done, in words: `15 trainings, 0 done already, 9 to be probed only`."""
    missing = [job for job in jobs if not job.is_done(runs_dir)]
    to_probe = sum(job.is_pretrained(runs_dir) for job in missing)
    told = f"{len(jobs)} trainings, {len(jobs) - len(missing)} done already"
    return told + (f", {to_probe} to be probed only" if to_probe else "")


def _identity(base: Config, record: StudyRecord, probed_on: str) -> str:
    """The same study on another base config, on other images or with other cells has a directory of its own.

    `probed_on` is the digest of the images of its probes where these are others.
    """
    cells: list[Any] = [cell.model_dump() for cell in record.cells]
    # Kinds may be added to a study. Those that came after the first two named no folder before.
    read = {section for kind in base.probe.kinds for section in probe_sections(kind)} | {"linear", "knn"}
    unread = set(get_args(ProbeKind)) - read
    later = ("labels", "labels_per_class", "layer")
    before = {name for name in later if getattr(base.probe, name) == BEFORE[f"probe.{name}"]}
    probes = base.probe.model_dump(mode="json", exclude={"kinds", "source"} | unread | before)
    identity = [pretrain_fingerprint(base, record.data["digest"]), probes, cells, *([probed_on] if probed_on else [])]
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
