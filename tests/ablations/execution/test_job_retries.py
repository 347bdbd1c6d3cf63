"""The queue in front of a made-up pool: what the machine fails is tried again, others first, and not for ever."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ablations.execution.job import Job
from ablations.execution.job_retries import JobQueue, run_jobs
from ablations.execution.jobs_progress import JobsProgress
from ablations.execution.worker_pool import Report
from mae.config.tree import Config
from mae.errors import RunError
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import LINE_SECONDS, duration

FINISHED, FAULT = Report("finished"), Report("fault", "no images")


class MadeUp:
    """A pool whose jobs end at once, as `outcome` says by the job's name and how often it has been begun."""

    def __init__(self, size: int, outcome: Callable[[str, int], Report]) -> None:
        self.size, self.outcome = size, outcome
        self.begun: list[str] = []
        self.at_work: dict[int, Report] = {}

    def free(self) -> list[int]:
        return [number for number in range(self.size) if number not in self.at_work]

    def start(self, worker: int, job: Job) -> None:
        self.begun.append(job.label)
        self.at_work[worker] = self.outcome(job.label, self.begun.count(job.label))

    def poll(self) -> list[tuple[int, Report]]:
        came, self.at_work = list(self.at_work.items()), {}
        return came

    def answer(self, worker: int, prune: str) -> None: ...

    def stop(self) -> None: ...


def do(names: str, pool: MadeUp, runs_dir: Path) -> dict[str, str]:
    """Have a job done per letter; return the reasons of those that failed, by letter."""
    jobs = [Job(name, Config(), name, ()) for name in names]
    return run_jobs(jobs, queue_before(pool, runs_dir))


def queue_before(pool: MadeUp, runs_dir: Path) -> JobQueue:
    return JobQueue(pool, runs_dir, JobsProgress(Console(quiet=True), 20, pool.size), StopRequest())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_many_jobs_that_the_machine_fails_stop_the_command_with_the_reason(tmp_path: Path) -> None:
    pool = MadeUp(1, lambda name, time: FAULT)
    with pytest.raises(RunError, match="5 failures in a row, the last one of e: no images; the same command continues"):
        do("abcdefghij", pool, tmp_path)
    assert pool.begun == list("abcde")


@pytest.mark.usefixtures("at_once")
def test_a_job_that_ends_in_between_shows_that_the_machine_works(tmp_path: Path) -> None:
    pool = MadeUp(1, lambda name, time: FINISHED if name == "x" or time == 2 else FAULT)
    assert do("abcxdefx", pool, tmp_path) == {}


@pytest.mark.usefixtures("at_once")
def test_a_job_that_always_dies_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    pool = MadeUp(1, lambda name, time: Report("died", "gone") if name == "b" else FINISHED)
    assert do("abc", pool, tmp_path) == {"b": "gone, 3 times"}
    assert pool.begun == list("abcbb")


@pytest.mark.usefixtures("at_once")
def test_a_job_that_fails_by_its_settings_is_not_done_again_and_stops_nothing(tmp_path: Path) -> None:
    pool = MadeUp(1, lambda name, time: Report("failed", "not finite"))
    assert len(do("abcdefgh", pool, tmp_path)) == len(pool.begun) == 8


def test_a_job_that_failed_waits_longer_than_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 0.01)
    pool = MadeUp(1, lambda name, time: FAULT if (name, time) == ("a", 1) else FINISHED)
    assert do("ab", pool, tmp_path) == {}
    assert pool.begun == list("aba")


def test_nothing_is_started_in_the_pause_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.job_retries.PAUSE_SECONDS", 1e6)
    pool = MadeUp(8, lambda name, time: FAULT)
    queue = queue_before(pool, tmp_path)
    for name in "abcdefghijklmnopqrst":
        queue.submit(Job(name, Config(), name, ()))
    for _ in range(9):
        assert list(queue.events()) == []  # eight at once are one failure, not five in a row
    assert pool.begun == list("abcdefgh")


@pytest.mark.parametrize("stage", [0, 1])
def test_no_process_is_started_for_a_job_that_another_command_works_on(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.execution.job_retries.BUSY_SECONDS", 0.0)
    pool, job = MadeUp(1, lambda name, time: FINISHED), Job("a", Config(), "0123456789ab", ("knn",))
    queue = queue_before(pool, tmp_path)
    queue.submit(job)
    with job.stages(tmp_path)[stage].locked():  # the pretraining, or its probe
        assert list(queue.events()) == []
        assert (pool.begun, queue.pending) == ([], 1)
    assert [report for _, report in queue.events()] == [FINISHED]


def test_brackets_in_a_jobs_name_are_shown_as_they_are() -> None:
    shown = io.StringIO()
    with JobsProgress(Console(file=shown, force_terminal=True, width=120), 1, 1) as view:
        view.started(0, "study [/b] [red]")
        view.refresh()
        assert view.bars is not None
        view.bars.refresh()
    assert "study [/b] [red]" in shown.getvalue()


@pytest.mark.parametrize(
    ("note", "share", "told"),
    [("pretraining  loss 0.5", 0.42, "a, seed 0 42%"), ("fine-tuning, pretrained 7%  loss 2.1", 1.0, "pretrained 7%")],
)
def test_off_a_terminal_a_line_tells_how_far_the_training_is_and_then_its_probe(
    note: str, share: float, told: str
) -> None:
    shown = io.StringIO()
    with JobsProgress(Console(file=shown, width=120), 1, 1) as view:
        view.started(0, "a, seed 0")
        view.progress(0, note, share)
        view.reported -= LINE_SECONDS
        view.refresh()
    assert shown.getvalue().rstrip().endswith(told)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that progress goes by; it begins at 100 s."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("ablations.execution.jobs_progress.time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def last_line_of(view: JobsProgress, shown: io.StringIO) -> str:
    view.reported -= LINE_SECONDS
    view.refresh()
    return shown.getvalue().splitlines()[-1]


@pytest.mark.parametrize("resumed", [0.0, 0.4])
def test_time_left_is_by_what_this_command_has_trained_from_its_first_step_on(
    resumed: float, clock: SimpleNamespace
) -> None:
    shown = io.StringIO()
    with JobsProgress(Console(file=shown, width=120), 4, 1) as view:
        view.started(0, "a")
        view.progress(0, "identifying images 3%", 0.0)
        clock.seconds += 30  # imports, images
        view.progress(0, "pretraining", resumed)
        clock.seconds += 60
        view.progress(0, "pretraining", resumed + 0.5)
        assert f"about {duration(60 / 0.5 * (3.5 - resumed))} left" in last_line_of(view, shown)


def test_time_left_takes_from_jobs_that_have_ended_how_much_of_one_is_its_training(clock: SimpleNamespace) -> None:
    shown = io.StringIO()
    with JobsProgress(Console(file=shown, width=120), 2, 1) as view:
        for name in "ab":
            view.started(0, name)
            view.progress(0, "pretraining", 0.0)
            clock.seconds += 60
            view.progress(0, "pretraining", 1.0)
            if name == "a":  # then probes, for twice as long
                clock.seconds += 120
                view.idle(0)
                view.finished(name)
        assert "about 2m00s left" in last_line_of(view, shown)


def test_what_a_worker_warns_of_is_shown_with_the_jobs_name(tmp_path: Path) -> None:
    class Warning(MadeUp):
        def poll(self) -> list[tuple[int, Report]]:
            warned = [(worker, Report("warned", "checkpoint step-8 is damaged")) for worker in self.at_work]
            return [*warned, *super().poll()]

    console = Console(record=True, quiet=False, file=io.StringIO(), width=120)
    pool = Warning(1, lambda name, time: FINISHED)
    queue = JobQueue(pool, tmp_path, JobsProgress(console, 1, 1), StopRequest())
    assert run_jobs([Job("a", Config(), "a", ())], queue) == {}
    assert "a: checkpoint step-8 is damaged" in console.export_text()
