"""All pairs of a study's cells: which cells form a group that is not told apart."""

import pandas as pd

from analysis.statistics.comparisons import Test, compare_pairs
from analysis.statistics.intervals import ALPHA
from analysis.studies.tables import with_results
from mae.probing.kinds import probe_label

COLUMNS = ["probe", "cell", "other", "difference", "low", "high", "p", "test"]
LONGEST = 8
"""Characters: where a cell's name is longer, columns have numbers."""

MOST = 12
"""Cells: of more, a matrix has signs only."""

HOW = {
    "blocks": "seeds are blocks, Tukey and Kramer's correction",
    "paired": "differences within seeds, Holm's correction over all pairs",
    "welch": "Welch's tests, Holm's correction over all pairs",
}


def all_pairs(frame: pd.DataFrame, test: Test | None = None) -> pd.DataFrame:
    """Return a row per probe and pair of one study's cells that have results, in the order of its table.

    Columns: probe, cell, other; difference of the two, low, high (points; all pairs of a probe together hold with
    95 %), p (corrected for all pairs of a probe), test (asked for or chosen, see `analysis.statistics.comparisons`).
    low, high and p are NaN where there is no test, as with one seed.
    """
    rows = []
    for probe, done in with_results(frame):
        if done["cell"].nunique() > 1:
            done = done.sort_values("order", kind="stable")
            values, cells, seeds = (done[name].tolist() for name in ("top1", "cell", "seed"))
            found, by = compare_pairs(values, cells, seeds, test)
            rows += [(probe, *pair, *each, by) for pair, each in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def matrices(frame: pd.DataFrame, pairs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return for each probe of one study's pairs what they say in a sentence, and their matrix as text.

    The best cell is first, so that a group which is not told apart stands together; an entry is row minus column.
    """
    runs = dict(with_results(frame))
    parts = [(part, runs[str(probe)]) for probe, part in pairs.groupby("probe", sort=False)]
    return [(_told(*each), _matrix(*each)) for each in parts]


def _told(part: pd.DataFrame, done: pd.DataFrame) -> str:
    probe = str(part["probe"].iloc[0])
    entry = "sign of row minus column" if done["cell"].nunique() > MOST else "row minus column in points"
    told = f"{probe_label(probe)}: {len(part)} pairs of cells, {entry}, the best cell first"
    tested = part.dropna(subset=["p"])
    if tested.empty:
        why = "one seed" if done["seed"].nunique() == 1 else "too few runs or no spread"
        return f"{told}; {why}: no test, nothing is claimed"
    apart = int((tested["p"] < ALPHA).sum())
    lacking = f", {len(part) - len(tested)} without a test" if len(tested) < len(part) else ""
    widths = sorted({f"{half:.1f}" for half in (tested["high"] - tested["low"]) / 2}, key=float)
    width = " to ".join(dict.fromkeys([widths[0], widths[-1]]))
    return (
        f"{told}; {apart} told apart (▲ ▼), {len(tested) - apart} not (≈){lacking}; intervals are each difference "
        f"± {width} and hold together with 95 % ({HOW[part['test'].iloc[0]]})"
    )


def _matrix(part: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    means = done.groupby("cell")["top1"].mean().sort_values(ascending=False, kind="stable")
    default = set(done.loc[done["is_default"], "cell"])
    names = {str(cell): f"{cell} *" if cell in default else str(cell) for cell in means.index}
    heads = dict(names)
    if max(map(len, names.values())) > LONGEST:
        heads = {cell: str(number) for number, cell in enumerate(names, 1)}
        names = {cell: f"{heads[cell]}  {name}" for cell, name in names.items()}
    cells = list(names)
    found = {(row["cell"], row["other"]): (row["difference"], row["p"]) for row in part.to_dict("records")}
    found |= {(other, cell): (-difference, p) for (cell, other), (difference, p) in found.items()}
    rows = []
    for place, cell in enumerate(cells):
        entries = {
            heads[other]: _entry(*found[cell, other], len(cells) > MOST) if place < column else ""
            for column, other in enumerate(cells[1:], 1)
        }
        rows.append({"cell": names[cell], "mean %": f"{means[cell]:.1f}"} | entries)
    return pd.DataFrame(rows)


def _entry(difference: float, p: float, sign_only: bool) -> str:
    sign = "" if pd.isna(p) else "≈" if p >= ALPHA else "▲" if difference > 0 else "▼"
    return sign or "-" if sign_only else f"{sign} {difference:+.1f}".strip()
