"""A study's table: the paper's figures beside the measured ones, with noise, significance and cost."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.results.conditions import relative_seconds
from analysis.results.frame import setting
from analysis.statistics.comparisons import Comparisons, Test, compare
from analysis.statistics.intervals import ALPHA, NAN, Contrast, mean_interval
from mae.probing.kinds import PROBES, probe_label

NOTHING = Contrast(NAN, NAN, NAN, NAN)
BASELINES = {"untrained": "untrained encoder", "pixels": "raw pixels"}
UNTRAINED = "random"
"""The task that is the untrained encoder itself: no gain on it is told."""


def summarise(frame: pd.DataFrame, test: Test | None = None) -> pd.DataFrame:
    """Return one row per cell and probe of a study's frame.

    Columns: study, order, cell, is_default, probe, paper_*, runs, failed, reason; mean, low, high (top-1 in %, 95 %:
    Student-t over seeds; of a single seed Wilson's over test images); difference from the default in points,
    difference_low, difference_high (95 %, all cells of a probe together), p (corrected for all cells of a probe), by
    which test (see `analysis.statistics.comparisons`; asked for or chosen), verdict (higher, lower, within noise, n/a
    or default); untrained, pixels (top-1 in % of the baselines); gain, gain_low, gain_high (over the untrained encoders
    of the same seeds, in points, 95 %: Student-t over seeds, each cell for itself); gflops, tflop, seconds, memory_mb
    as means; time relative to the default, measured under the same conditions.
    """
    compared = compared_cells(frame, test)
    summary = pd.DataFrame(
        [row for probe, part in frame.groupby("probe", sort=False) for row in _rows(part, compared.get(str(probe)))]
    )
    summary["verdict"] = [_verdict(row) for row in summary.to_dict("records")]
    return summary


def compared_cells(frame: pd.DataFrame, test: Test | None = None) -> dict[str, Comparisons]:
    """Return by probe how its cells compare with the default, where that and another cell have results."""
    found = {}
    for probe, done in with_results(frame):
        defaults = done.loc[done["is_default"], "cell"].tolist()
        if defaults and done["cell"].nunique() > 1:
            values, cells, seeds = (done[name].tolist() for name in ("top1", "cell", "seed"))
            found[probe] = compare(values, cells, seeds, defaults[0], test)
    return found


def with_results(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each probe with its finished rows; of several cells that are the base config, those of the first."""
    for probe, part in frame.groupby("probe", sort=False):
        done = part[(part["status"] == "finished") & part["top1"].notna()]
        defaults = done.loc[done["is_default"], "cell"].unique()
        yield str(probe), done[~done["cell"].isin(defaults[1:])]


def _rows(part: pd.DataFrame, compared: Comparisons | None) -> Iterator[dict[str, Any]]:
    done = part[part["status"] == "finished"]
    default = done[done["is_default"]].drop_duplicates("run")  # two cells may both be the base config
    shared = _shared_baselines(done)
    part = part.assign(time=relative_seconds(part, default))
    for (order, cell), trials in part.groupby(["order", "cell"]):
        finished = trials[trials["status"] == "finished"]
        first = trials.iloc[0]
        mean, low, high = mean_interval(finished["top1"].tolist()) if len(finished) else (float("nan"),) * 3
        if len(finished) == 1:
            low, high = finished["low"].iloc[0], finished["high"].iloc[0]
        difference = (compared.differences if compared else {}).get(str(cell), NOTHING)
        yield {
            "study": first["study"],
            "order": order,
            "cell": cell,
            "is_default": bool(first["is_default"]),
            "probe": first["probe"],
            **{name: first[name] for name in part.columns if name.startswith("paper_")},
            "runs": len(finished),
            "failed": int((trials["status"] == "failed").sum()),
            "reason": next((reason for reason in trials["reason"] if reason), ""),
            "mean": mean,
            "low": low,
            "high": high,
            "difference": difference.effect,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "p": difference.p,
            "test": compared.test if compared else "",
            **{name: finished[name].mean() for name in BASELINES},
            **(shared if len(finished) else {}),
            **dict(zip(("gain", "gain_low", "gain_high"), _gain(finished), strict=True)),
            "gflops": finished["gflops"].mean(),
            "tflop": finished["tflop"].mean(),
            "seconds": finished["seconds"].mean(),
            "memory_mb": finished["memory_mb"].mean(),
            "time": finished["time"].mean(),
        }


def _gain(finished: pd.DataFrame) -> tuple[float, float, float]:
    gains = (finished["top1"] - finished["untrained"])[finished["task"] != UNTRAINED].dropna().tolist()
    return mean_interval(gains) if gains else (NAN, NAN, NAN)


def _shared_baselines(done: pd.DataFrame) -> dict[str, float]:
    """Return the means over seeds of those baselines of one probe that all cells have in common, as far as is known."""
    seeds = done.groupby("seed")
    if seeds["cell"].nunique().max() != done["cell"].nunique():  # no seed says that they are the same
        return {}
    return {name: seeds[name].first().mean() for name in BASELINES if seeds[name].nunique().max() == 1}


def _verdict(row: dict[str, Any]) -> str:
    if row["is_default"]:
        return "default"
    if pd.isna(row["p"]):
        return "n/a"
    if row["p"] >= ALPHA:
        return "within noise"
    return "higher" if row["difference"] > 0 else "lower"


def heading(frame: pd.DataFrame) -> str:
    """Return one study's question, and in brackets its name, where the paper asks it, and on what it was run."""
    first = frame.iloc[0]
    known = [first["study"], first["source"], setting(frame)]
    return f"**{first['question'] or first['study']}** ({', '.join(filter(None, known))})"


def display(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table as people read it: a row of text per cell, the default marked with *, empty columns left out."""
    own = {probe: [name for name in BASELINES if differs(part[name])] for probe, part in summary.groupby("probe")}
    rows = []
    for (_, cell), part in summary.groupby(["order", "cell"]):
        first = part.iloc[0]
        row = {"cell": f"{cell} *" if first["is_default"] else str(cell)}
        row |= {f"paper {name[6:]}": _number(first[name], ".1f") for name in part.columns if name.startswith("paper_")}
        for result in part.to_dict("records"):
            if result["probe"] in PROBES:
                probe = probe_label(result["probe"])
                row |= {probe: _estimate(result), f"{probe} Δ": _difference(result)}
                row |= {f"{probe} {name}": _number(result[name], ".1f") for name in own[result["probe"]]}
                if "untrained" in own[result["probe"]]:
                    row[f"{probe} gain"] = _gained(result)
        row |= {
            "GFLOPs": _number(first["gflops"], ".3g"),
            "time": _number(first["time"], ".2f"),
            "MB": _number(first["memory_mb"], ".0f"),
            "runs": str(first["runs"]),
            "failed": f"{first['failed']}: {first['reason']}" if first["failed"] else "",
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.loc[:, [name for name in table.columns if table[name].ne("").any()]]


def differs(of_cells: pd.Series) -> bool:
    """Say whether the means of a baseline are not the same for all cells."""
    return of_cells.nunique() > 1


def _estimate(row: dict[str, Any]) -> str:
    if pd.isna(row["mean"]):
        return "-"
    if row["runs"] == 1:
        return f"{row['mean']:.1f} ({row['low']:.1f}-{row['high']:.1f})"
    if pd.isna(row["low"]):
        return f"{row['mean']:.1f} ({row['runs']} equal seeds)"
    return f"{row['mean']:.1f} ± {row['high'] - row['mean']:.1f}"


def _gained(row: dict[str, Any]) -> str:
    """Return a cell's gain over its own untrained encoders, where these are others for each cell."""
    half = "" if pd.isna(row["gain_high"]) else f" ± {row['gain_high'] - row['gain']:.1f}"
    return "" if pd.isna(row["gain"]) else f"{row['gain']:+.1f}{half}"


def _difference(row: dict[str, Any]) -> str:
    if row["is_default"] or pd.isna(row["difference"]):
        return ""
    return difference_text(Contrast(row["difference"], row["difference_low"], row["difference_high"], row["p"]), "+.1f")


def difference_text(difference: Contrast, style: str) -> str:
    """Return a difference in words, its numbers in a format: `▲ +1.2 (+0.3 to +2.1) p .012`; without a test its size.

    ▲ and ▼ say higher and lower, not better and worse; ≈ says not told apart.
    """
    effect, low, high = (format(number, style) for number in difference[:3])
    if pd.isna(difference.p):
        return effect
    p = "<.001" if difference.p < 0.001 else f"{difference.p:.3f}".removeprefix("0")
    sign = "≈" if difference.p >= ALPHA else "▲" if difference.effect > 0 else "▼"
    return f"{sign} {effect} ({low} to {high}) p {p}"


def speedups(done: pd.DataFrame) -> pd.Series:
    """Return how many times faster each finished row of one study was pretrained than the mean of its reference cell.

    The reference is the cell that has a speed-up of 1 in the paper, else the default; NaN if it has no result under the
    same conditions.
    """
    reference = done[done["paper_speedup"] == 1.0]
    if reference.empty:
        reference = done[done["is_default"]]
    return 1 / relative_seconds(done, reference.drop_duplicates("run"))


def _number(value: float, style: str) -> str:
    return "" if pd.isna(value) else format(value, style)


COST_COLUMNS = ("GFLOPs", "time", "MB", "runs", "failed")
"""Columns of `display` that fit better in a second table on a terminal."""

NOTE = (
    "* the default. Top-1 in %; ±: 95 % interval of the mean over seeds (Student t); (-): of one seed, Wilson's 95 % "
    "interval over test images. Δ: difference from the default in points, with an interval; all intervals of a probe "
    "hold together with 95 %: seeds are blocks, Dunnett's correction over the cells, unless another test is named. "
    "What a seed does to all cells alike is in ± and not in Δ, so ± may be wider. ▲ ▼: told apart from the default, "
    "the interval leaves out 0; ≈: not told apart; no interval with one seed. Gain: over the untrained encoders of the "
    "same seeds, where these are others for each cell; 95 % for each cell by itself. GFLOPs per image and training "
    "step; time of pretraining relative to the default; MB at its peak."
)
