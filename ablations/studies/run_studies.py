"""Studies from a command: which ones, on what, and their work from plan to finished runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from ablations.execution.executor import Executor
from ablations.execution.job_retries import run_jobs
from ablations.studies.own import OWN
from ablations.studies.paper import STUDIES
from ablations.studies.plan import Plan, all_jobs, make_plan, told_done
from ablations.studies.study import Digests, Study, product
from ablations.studies.study_file import read_study
from mae.config.data_section import DataConfig
from mae.config.resolve import inert_keys, nearest, refuse_without_effect
from mae.config.tree import Config
from mae.data.labels import check_labels
from mae.data.sources import Identity, identify
from mae.errors import UserError
from mae.runtime.progress import ConsoleProgress, Progress
from mae.tracking.background_delivery import tracked_studies

EVERYTHING = "paper"
"""The name that stands for all of the paper's studies in one plan, with the paper's cells only."""

JUDGED = "a study is judged by probes"


def choose_studies(name: str | None, file: Path | None, axes: Sequence[str]) -> list[Study]:
    """Return the studies that a name, a file or inline axes ask for; exactly one of the three is to be given."""
    if (name is not None) + (file is not None) + bool(axes) != 1:
        raise UserError("give a study's name (see `mae-cli ablate list`), or --file, or --axis")
    if file is not None:
        return [read_study(file)]
    if name is None:
        return [product(axes)]
    if name == EVERYTHING:
        return [study.of_the_paper() for study in STUDIES.values()]
    return [named_study(name)]


def named_study(name: str) -> Study:
    """Return a study of the paper's or of ours; `UserError` for a name that none has."""
    known = STUDIES | OWN
    if name not in known:
        raise UserError(f"study {name!r} is unknown{nearest(name, [*known])}; see `mae-cli ablate list`")
    return known[name]


def digests(progress: Progress) -> Digests:
    """Return a function that identifies data sets, each looked at once, however many ways it is split."""
    known: dict[str, Identity] = {}

    def digest_of(data: DataConfig) -> str:
        if data.source not in known:
            known[data.source] = identify(data, progress)
        identity = known[data.source]
        return identity.split_as(data).digest if identity.split else identity.digest

    return digest_of


def make_plans(
    studies: Sequence[Study],
    base: Config,
    seeds: int,
    runs_dir: Path,
    only: Sequence[str],
    progress: Progress,
    against: str | None = None,
    aloud: bool = True,
) -> list[Plan]:
    """Return a plan per study, and say what is worth saying of each unless not `aloud`; nothing is written or trained.

    What is set in `base` has to act there or in a cell; `UserError` if it does in none.
    """
    if base.probe.source:
        check_labels(base, progress, JUDGED)
    digest_of = digests(progress)
    plans = [make_plan(study, base, seeds, digest_of, runs_dir, only, against) for study in studies]
    cells = [job.config for plan in plans for job in plan.jobs]
    refuse_without_effect(base, set.intersection(*map(inert_keys, cells)) if cells else ())
    for note in [note for plan in plans if aloud for note in plan.notes]:
        progress.say(note)
    return plans


@contextmanager
def underway(plans: Sequence[Plan], uri: str, console: Console) -> Iterator[None]:
    """Work on studies within the block: they are on record from its start, and MLflow is kept up to date with them."""
    put_on_record(plans)
    directories = [plan.directory for plan in plans]
    with tracked_studies(directories, uri, _runs_dir(plans), ConsoleProgress(console).say), ExitStack() as stack:
        for directory in directories:
            stack.enter_context(directory.joined())
        yield


def put_on_record(plans: Sequence[Plan]) -> None:
    """Write what each plan consists of into its directory."""
    for plan in plans:
        plan.directory.write_text("study.json", plan.record.model_dump_json(indent=2) + "\n")


def check_labelled(plans: Sequence[Plan], progress: Progress) -> None:
    """Raise `UserError` if a study is judged by probes of images without labels: nothing is trained in vain."""
    probed = {job.config.probed_data: job.config for plan in plans for job in plan.jobs if job.kinds}
    for config in probed.values():
        check_labels(config, progress, JUDGED)


def check_comparable(plans: Sequence[Plan], only: Sequence[str]) -> None:
    """Raise `UserError` unless there are differences from a default that could be known to a precision."""
    if only:
        raise UserError("--precision is about all cells of a study; leave out --only")
    probed = [plan.record for plan in plans if any(trial.probes for trial in plan.record.trials)]
    if not probed:
        raise UserError(f"--precision is about probe accuracies; {plans[0].record.name} is not probed")
    for record in probed:
        if len(record.cells) < 2 or not any(cell.is_default for cell in record.cells):
            raise UserError(
                f"--precision is about differences from the default; no cell of {record.name} is the base config, or "
                "there is no other: add its value to the axis, or --set another base"
            )


def run_until(
    precise: Callable[[Plan], bool],
    plans: Sequence[Plan],
    seeds: int,
    executor: Executor,
    fail_fast: bool,
    console: Console,
) -> tuple[list[Plan], dict[str, str]]:
    """Run the first `seeds` seeds of plans, then one more at a time, while there is one, of those not `precise` yet.

    Returns the plans of the seeds that were run, and the reasons of failed jobs by fingerprint. Failed ones are not
    tried again.
    """
    done = work = [plan.of_seeds(seeds) for plan in plans]
    failures: dict[str, str] = {}
    while work:
        failures |= run_plans(work, executor, fail_fast, console)
        if failures and fail_fast:
            break
        work = []
        for index, (plan, now) in enumerate(zip(plans, done, strict=True)):
            if now.seeds < plan.seeds and not precise(now):
                work.append(plan.of_seeds(now.seeds + 1, now.seeds))
                done[index] = plan.of_seeds(now.seeds + 1)
        put_on_record(done)
    return done, failures


def run_plans(plans: Sequence[Plan], executor: Executor, fail_fast: bool, console: Console) -> dict[str, str]:
    """Train and probe what the plans miss; return the reasons of failed jobs by fingerprint."""
    jobs, runs_dir = all_jobs(plans), _runs_dir(plans)
    missing = [job for job in jobs if not job.is_done(runs_dir)]
    console.print(told_done(jobs, runs_dir), highlight=False)
    if not missing:
        return {}
    with executor.queue(runs_dir, len(missing), console) as queue:
        return run_jobs(missing, queue, fail_fast)


def _runs_dir(plans: Sequence[Plan]) -> Path:
    return plans[0].directory.path.parent.parent
