"""A worker's log: what no terminal shows, and where a failure's line says that it is."""

import os
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

from ablations.execution.forkserver import fork_context
from ablations.execution.job import Job
from ablations.execution.job_retries import JobQueue
from ablations.execution.worker_log import log_file, say_into
from mae.config.resolve import build


def speak_and_die(file: Path) -> None:
    say_into(file, "a job")
    print("a line")
    os.system("echo a child >&2")
    os.kill(os.getpid(), signal.SIGSEGV)


def test_all_that_a_process_says_is_in_its_log_its_crash_too(tmp_path: Path) -> None:
    file = log_file(tmp_path, "0123456789ab")
    for _ in range(2):
        process = fork_context().Process(target=speak_and_die, args=(file,))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGSEGV
    said = file.read_text()
    assert said.count(": a job\n") == said.count("a line\n") == said.count("a child\n") == 2
    assert "speak_and_die" in said  # the traceback that the interpreter left when it crashed


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    say_into(tmp_path / "file" / "log", "a job")


def speak_on_a_full_disk() -> None:
    say_into(Path("/dev/full"), "a job")
    print("a line")
    print("another", file=sys.stderr, flush=True)
    os._exit(7)


def test_a_full_disk_takes_a_worker_its_words_and_not_its_work() -> None:
    process = fork_context().Process(target=speak_on_a_full_disk)
    process.start()
    process.join(60)
    assert process.exitcode == 7


def test_the_line_of_a_failure_names_the_log_if_it_is_here(tmp_path: Path) -> None:
    job, queue = Job("x", build({}), "0123456789ab", ()), JobQueue(Mock(), tmp_path, Mock(), Mock())
    assert queue.logged(job) == ""
    log_file(tmp_path, job.fingerprint).parent.mkdir()
    log_file(tmp_path, job.fingerprint).touch()
    assert queue.logged(job) == f" (log: {tmp_path}/logs/0123456789ab.log)"
