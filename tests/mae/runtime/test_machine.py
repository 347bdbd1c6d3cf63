import shutil
import subprocess
import sys
from pathlib import Path

from mae.runtime import machine


def test_the_commit_is_that_of_the_program_and_not_of_a_checkout_it_is_installed_in(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=somebody", "-c", "user.email=nobody@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "theirs.txt").write_text("theirs")
    git("init")
    git("add", "theirs.txt")
    git("commit", "--message", "theirs")
    installed = tmp_path / ".venv" / "machine.py"
    installed.parent.mkdir()
    shutil.copy(machine.__file__, installed)
    told = "import runpy; print(repr(runpy.run_path('machine.py')['_git_commit']()))"
    asked = subprocess.run([sys.executable, "-c", told], cwd=installed.parent, capture_output=True, text=True)
    assert asked.stdout.strip() == "''"
