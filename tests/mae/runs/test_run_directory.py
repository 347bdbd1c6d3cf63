"""The lock on a run directory, on a local disk and under the rules of NFS; and a folder that is gone."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from mae.errors import RunError
from mae.runs.directory import Busy, RunDirectory


@pytest.fixture(params=["local", "nfs"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run directory; over NFS, flock is emulated by byte-range locks, which heed how the file was opened."""
    flock = fcntl.flock

    def emulated(file: IO[Any], operation: int) -> None:
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        refused = {fcntl.LOCK_EX: os.O_RDONLY, fcntl.LOCK_SH: os.O_WRONLY}
        if refused.get(operation & ~fcntl.LOCK_NB) == mode:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    if request.param == "nfs":
        monkeypatch.setattr("fcntl.flock", emulated)
    return RunDirectory(tmp_path / "run")


def test_who_works_alone_is_seen_until_it_ends(run: RunDirectory) -> None:
    assert not run.is_locked()
    with run.locked():
        assert run.is_locked()
    assert not run.is_locked()


def test_of_several_who_work_together_the_last_one_is_still_seen(run: RunDirectory) -> None:
    with run.joined():
        with run.joined():
            assert run.is_locked()
        assert run.is_locked()
    assert not run.is_locked()


def test_the_first_of_several_may_leave_first(run: RunDirectory) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(run.joined())
        second.enter_context(run.joined())
        first.close()
        assert run.is_locked()


def test_two_cannot_work_alone(run: RunDirectory) -> None:
    with run.locked(), pytest.raises(Busy, match=f"process {os.getpid()}"), run.locked():
        pass


def at_once(count: int, look: Callable[[], bool]) -> set[bool]:
    """Return what threads that look again and again at the same time see; locks do not know threads from processes."""
    seen: set[bool] = set()
    threads = [threading.Thread(target=lambda: seen.update(look() for _ in range(300))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_those_who_look_at_once_do_not_take_each_other_for_work(run: RunDirectory) -> None:
    for work in (run.locked, run.joined):
        with work():
            pass
    assert at_once(4, run.is_locked) == {False}


def test_a_look_needs_no_right_to_write(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.locked():
        monkeypatch.setattr(
            "mae.runs.locks_and_writes.open", lambda path: path.open(), raising=False
        )  # no mode but reading
        assert run.is_locked()
    assert not run.is_locked()


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is gone: it was removed or moved away"):
        RunDirectory(tmp_path / "gone").append_metrics(1, {"train/loss": 1.0})
    with pytest.raises(RunError, match=r"has lost its result\.json"):
        RunDirectory(tmp_path / "gone").metrics()
