"""Text of figures in scripts that Matplotlib's own font lacks."""

from collections.abc import Iterator

import matplotlib as mpl
import pytest

from mae.runtime import fonts
from mae.runtime.fonts import font_families, in_any_script


@pytest.fixture
def of_another_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A font that is installed with Matplotlib, for one of another script; none of the others is there."""
    monkeypatch.setattr(fonts, "FAMILIES", ("No Such Font", "cmr10"))
    font_families.cache_clear()
    yield "cmr10"
    font_families.cache_clear()


def test_fonts_that_a_machine_has_stand_in_for_what_the_first_one_lacks(of_another_script: str) -> None:
    assert font_families() == ["sans-serif", of_another_script]


def test_a_figure_is_drawn_with_them_and_others_are_as_before(of_another_script: str) -> None:
    before = mpl.rcParams["font.family"]
    assert in_any_script(lambda: mpl.rcParams["font.family"])() == ["sans-serif", of_another_script]
    assert mpl.rcParams["font.family"] == before
