"""What a study has to train: its cells times seeds, what of that exists already, what is shared."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.study import Digests, Study, plan_cells
from mae.config import Config, ProbeKind
from mae.config_sources import change, flatten, name_run
from mae.errors import UserError
from mae.fingerprint import pretrain_fingerprint, probe_name
from mae.run_directory import RunDirectory
from mae.study_record import StudyRecord, TrialRecord


@dataclass(frozen=True)
class Job:
    """One pretraining with its probes: the unit a worker takes.

    A watched one reports every online evaluation and waits for the word whether to go on. `also` are jobs with the same
    pretraining and other probes, which are done with it.
    """

    label: str
    config: Config
    fingerprint: str
    kinds: tuple[ProbeKind, ...]
    watched: bool = False
    also: tuple["Job", ...] = ()

    def probe_name(self, kind: ProbeKind) -> str:
        """Return the name of a probe's directory."""
        return probe_name(self.config, kind, self.fingerprint)

    @property
    def probes(self) -> tuple[str, ...]:
        """The names of all probes' directories."""
        names = [job.probe_name(kind) for job in (self, *self.also) for kind in job.kinds]
        return tuple(dict.fromkeys(names))

    def stages(self, runs_dir: Path) -> list[RunDirectory]:
        """Return the directories of the pretraining and of every probe."""
        return RunDirectory(runs_dir / self.fingerprint).stages(self.probes)

    def is_done(self, runs_dir: Path) -> bool:
        """Say whether the pretraining and every probe have their results."""
        return all((stage.path / "result.json").exists() for stage in self.stages(runs_dir))


@dataclass(frozen=True)
class Plan:
    """A study worked out for one base config and data set.

    `jobs` are one per trial, seed by seed; `notes` say what has become of the study on this base.
    """

    record: StudyRecord
    directory: RunDirectory
    jobs: tuple[Job, ...]
    notes: tuple[str, ...] = ()

    def missing(self, runs_dir: Path) -> list[Job]:
        """Return the trainings that are not done."""
        return [job for job in all_jobs([self]) if not job.is_done(runs_dir)]

    @property
    def seeds(self) -> int:
        """The number of trainings per cell."""
        return len({trial.seed for trial in self.record.trials})

    def of_seeds(self, stop: int, start: int = 0) -> "Plan":
        """Return the plan with its seeds from place `start` to before `stop` only."""
        kept = sorted({trial.seed for trial in self.record.trials})[start:stop]
        trials = [trial for trial in self.record.trials if trial.seed in kept]
        jobs = tuple(job for job in self.jobs if job.config.train.seed in kept)
        return replace(self, record=self.record.model_copy(update={"trials": trials}), jobs=jobs)


def make_plan(
    study: Study, base: Config, seeds: int, digest_of: Digests, runs_dir: Path, only: Sequence[str] | None = None
) -> Plan:
    """Return the plan of `study` on `base` for the seeds `base.train.seed`, + 1, ...

    With `only`, the jobs are those of the named cells; the record has all cells all the same.
    """
    cells = plan_cells(study, base, digest_of)
    names = [cell.name for cell in cells]
    if unknown := sorted(set(only or ()) - set(names)):
        raise UserError(f"--only {unknown[0]}: no such cell in {study.name}; its cells: {'; '.join(names)}")
    kinds = base.probe.kinds if study.probed else ()
    jobs, trials = [], []
    for seed in range(base.train.seed, base.train.seed + seeds):
        for cell in cells:
            config = change(cell.config, {"train.seed": seed})
            job = Job(
                f"{study.name} {cell.name}, seed {seed}",
                config,
                pretrain_fingerprint(config, digest_of(config.data)),
                kinds,
            )
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
    folder = f"{study.name}-{_identity(base, record)}"
    notes = [
        f"study {study.name}: {' and '.join(cell.given)} are equal on this base config: one cell, {cell.name}"
        for cell in cells
        if len(cell.given) > 1
    ]
    return Plan(record, RunDirectory(runs_dir / "studies" / folder), tuple(jobs), tuple(notes))


def all_jobs(plans: Iterable[Plan]) -> list[Job]:
    """Return every training of several plans once, with all probes that any of their trials asks for."""
    trainings: dict[str, dict[tuple[str, ...], Job]] = {}
    for plan in plans:
        for job in plan.jobs:
            trainings.setdefault(job.fingerprint, {}).setdefault(job.probes, job)
    return [replace(job, also=tuple(others)) for job, *others in map(dict.values, trainings.values())]


def _identity(base: Config, record: StudyRecord) -> str:
    """The same study on another base config, on other images or with other cells has a directory of its own."""
    cells: list[Any] = [cell.model_dump() for cell in record.cells]
    probes = base.probe.model_dump(mode="json", exclude={"kinds"})
    text = json.dumps([pretrain_fingerprint(base, record.data["digest"]), probes, cells], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
