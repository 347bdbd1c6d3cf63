"""A picture of a report."""

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `name` is its file's name without ending."""

    name: str
    caption: str
    figure: Figure
