"""Under which conditions time and memory were measured; what was measured under different ones is not compared."""

from collections.abc import Callable

import pandas as pd

CONDITIONS = ["device", "processes", "threads"]
"""Columns of a frame, as text. A training that was continued elsewhere has several values with commas."""


def differ(rows: pd.DataFrame) -> bool:
    """Say whether rows were measured under more than one condition."""
    return len(rows[CONDITIONS].drop_duplicates()) > 1


def described(rows: pd.DataFrame, name: Callable[[pd.DataFrame], str]) -> str:
    """Return each condition and, by `name`, what was measured under it: `x86_64, 2 threads (0.5; 0.75), ...`."""
    parts = rows.groupby(CONDITIONS, sort=False)
    return ", ".join(f"{_text(*condition)} ({name(part)})" for condition, part in parts)


def relative_seconds(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.Series:
    """Return the seconds of each row over the mean of those reference rows that were measured under its condition.

    NaN where there is no such reference row; an untrained encoder, which takes no step, is none.
    """
    reference = reference[reference["gflops"] != 0]
    means = reference.groupby(CONDITIONS)["seconds"].mean()
    return rows["seconds"] / means.reindex(pd.MultiIndex.from_frame(rows[CONDITIONS])).to_numpy()


def _text(device: str, processes: str, threads: str) -> str:
    """Return a condition in words; runs of earlier versions have kept less of it."""
    several = f"{processes} processes of " if processes not in ("", "1") else ""
    workers = several + (f"{threads} thread{'s' if threads != '1' else ''}" if threads else "unknown threads")
    return f"{device or 'unknown device'}, {workers}"
