"""Fonts for names in any script: folders and classes are named in their users' languages."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib import font_manager

P = ParamSpec("P")
R = TypeVar("R")

FAMILIES = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Micro Hei"),  # Linux
    *("Arial Unicode MS", "PingFang SC", "Hiragino Sans"),  # macOS
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),  # Windows
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai"),
)
"""Fonts of systems that have what Matplotlib's own font lacks."""


@cache
def font_families() -> list[str]:
    """Return Matplotlib's own sans-serif font, then those of this machine that have what it lacks."""
    installed = set(font_manager.get_font_names())
    return ["sans-serif", *(name for name in FAMILIES if name in installed)]


def in_any_script(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function write into its figure with these fonts."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> R:
        with mpl.rc_context({"font.family": font_families()}):
            return draw(*arguments, **options)

    return drawn
