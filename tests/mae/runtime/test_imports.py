import subprocess
import sys

from mae.runtime.imports import importing


def test_modules_are_there_when_the_block_ends() -> None:
    code = (
        "import sys; from mae.runtime.imports import importing\n"
        "with importing(['colorsys', 'nothing.of_this_name', 'wave']): pass\n"
        "print([name in sys.modules for name in ('colorsys', 'wave')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[True, True]"


def test_an_error_of_the_block_passes() -> None:
    try:
        with importing([]):
            raise KeyError
    except KeyError:
        return
    raise AssertionError
