"""The driver in front of a made-up crew: what the machine fails is tried again, others first, and not for ever."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ablations.execution.crew import Report
from ablations.execution.driver import Driver, work_off
from ablations.execution.job import Job
from ablations.execution.live_view import LiveView
from mae.config.tree import Config
from mae.errors import RunError
from mae.runtime.interruption import StopRequest

FINISHED, FAULT = Report("finished"), Report("fault", "no images")


class MadeUp:
    """A crew whose jobs end at once, as `outcome` says by the job's name and how often it has been begun."""

    def __init__(self, size: int, outcome: Callable[[str, int], Report]) -> None:
        self.size, self.outcome = size, outcome
        self.begun: list[str] = []
        self.at_work: dict[int, Report] = {}

    def free(self) -> list[int]:
        return [place for place in range(self.size) if place not in self.at_work]

    def start(self, place: int, job: Job) -> None:
        self.begun.append(job.label)
        self.at_work[place] = self.outcome(job.label, self.begun.count(job.label))

    def poll(self) -> list[tuple[int, Report]]:
        heard, self.at_work = list(self.at_work.items()), {}
        return heard

    def answer(self, place: int, prune: str) -> None: ...

    def stop(self) -> None: ...


def do(names: str, crew: MadeUp, runs_dir: Path) -> dict[str, str]:
    """Have a job done per letter; return the reasons of those that failed, by letter."""
    jobs = [Job(name, Config(), name, ()) for name in names]
    return work_off(jobs, Driver(crew, runs_dir, LiveView(Console(quiet=True), len(jobs), crew.size)), StopRequest())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.driver.PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_many_jobs_that_the_machine_fails_stop_the_command_with_the_reason(tmp_path: Path) -> None:
    crew = MadeUp(1, lambda name, time: FAULT)
    with pytest.raises(RunError, match="5 failures in a row, the last one of e: no images; the same command continues"):
        do("abcdefghij", crew, tmp_path)
    assert crew.begun == list("abcde")


@pytest.mark.usefixtures("at_once")
def test_a_job_that_ends_in_between_shows_that_the_machine_works(tmp_path: Path) -> None:
    crew = MadeUp(1, lambda name, time: FINISHED if name == "x" or time == 2 else FAULT)
    assert do("abcxdefx", crew, tmp_path) == {}


@pytest.mark.usefixtures("at_once")
def test_a_job_that_always_dies_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    crew = MadeUp(1, lambda name, time: Report("died", "gone") if name == "b" else FINISHED)
    assert do("abc", crew, tmp_path) == {"b": "gone, 3 times"}
    assert crew.begun == list("abcbb")


@pytest.mark.usefixtures("at_once")
def test_a_job_that_fails_by_its_settings_is_not_done_again_and_stops_nothing(tmp_path: Path) -> None:
    crew = MadeUp(1, lambda name, time: Report("failed", "not finite"))
    assert len(do("abcdefgh", crew, tmp_path)) == len(crew.begun) == 8


def test_a_job_that_failed_waits_longer_than_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.driver.PAUSE_SECONDS", 0.01)
    crew = MadeUp(1, lambda name, time: FAULT if (name, time) == ("a", 1) else FINISHED)
    assert do("ab", crew, tmp_path) == {}
    assert crew.begun == list("aba")


def test_nothing_is_started_in_the_pause_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.execution.driver.PAUSE_SECONDS", 1e6)
    crew = MadeUp(8, lambda name, time: FAULT)
    driver = Driver(crew, tmp_path, LiveView(Console(quiet=True), 20, crew.size))
    for name in "abcdefghijklmnopqrst":
        driver.submit(Job(name, Config(), name, ()))
    for _ in range(9):
        assert list(driver.events()) == []  # eight at once are one failure, not five in a row
    assert crew.begun == list("abcdefgh")


@pytest.mark.parametrize("stage", [0, 1])
def test_no_process_is_started_for_a_job_that_another_command_works_on(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.execution.driver.BUSY_SECONDS", 0.0)
    crew, job = MadeUp(1, lambda name, time: FINISHED), Job("a", Config(), "0123456789ab", ("knn",))
    driver = Driver(crew, tmp_path, LiveView(Console(quiet=True), 1, 1))
    driver.submit(job)
    with job.stages(tmp_path)[stage].locked():  # the pretraining, or its probe
        assert list(driver.events()) == []
        assert (crew.begun, driver.pending) == ([], 1)
    assert [report for _, report in driver.events()] == [FINISHED]


def test_what_a_worker_warns_of_is_shown_with_the_jobs_name(tmp_path: Path) -> None:
    class Warning(MadeUp):
        def poll(self) -> list[tuple[int, Report]]:
            warned = [(place, Report("warned", "checkpoint step-8 is damaged")) for place in self.at_work]
            return [*warned, *super().poll()]

    console = Console(record=True, quiet=False, file=io.StringIO(), width=120)
    driver = Driver(Warning(1, lambda name, time: FINISHED), tmp_path, LiveView(console, 1, 1))
    assert work_off([Job("a", Config(), "a", ())], driver, StopRequest()) == {}
    assert "a: checkpoint step-8 is damaged" in console.export_text()
