"""The driver's queue in front of a crew that only writes down what it is told."""

from pathlib import Path

import pytest
from rich.console import Console

from ablations.crew import Report
from ablations.driver import Driver
from ablations.live_view import LiveView
from ablations.plan import Job
from mae.config_sources import build
from tests.conftest import TINY


class IdleCrew:
    """Takes any job and never tells of it again."""

    size = 1

    def __init__(self) -> None:
        self.started: list[str] = []

    def free(self) -> list[int]:
        return [0]

    def start(self, place: int, job: Job) -> None:
        self.started.append(job.label)

    def hear(self) -> list[tuple[int, Report]]:
        return []

    def answer(self, place: int, prune: str) -> None: ...

    def stop(self) -> None: ...


@pytest.mark.parametrize("stage", [0, 1])
def test_no_process_is_started_for_a_job_that_another_command_works_on(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.driver.BUSY_SECONDS", 0.0)
    crew, job = IdleCrew(), Job("a job", build(TINY), "0123456789ab", ("knn",))
    with LiveView(Console(quiet=True), 1, 1) as view:
        driver = Driver(crew, tmp_path, view)
        driver.submit(job)
        with job.stages(tmp_path)[stage].locked():  # the pretraining, or its probe
            assert list(driver.events()) == []
            assert (crew.started, driver.pending) == ([], 1)
        assert list(driver.events()) == []
    assert crew.started == ["a job"]
