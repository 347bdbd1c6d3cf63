"""How many tests a report makes, and over what each is corrected."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.comparisons import Test
from analysis.statistics.intervals import ALPHA
from analysis.studies.answer import compared_with_best
from analysis.studies.tables import compared_cells

Kind = Literal["default", "best", "pairs", "finding"]
KINDS: dict[Kind, str] = {
    "default": "differences of a cell from the default",
    "best": "differences of a cell from the best one",
    "pairs": "differences of two cells",
    "finding": "statements of the paper's findings",
}


class Family(NamedTuple):
    """Tests that are corrected together: of one study under one probe, or of one finding's statements."""

    kind: Kind
    tests: int


def families_of_study(frame: pd.DataFrame, pairs: pd.DataFrame, test: Test | None = None) -> list[Family]:
    """Return the families of what is said about one study; its `pairs` are empty if not asked for.

    The best cell's comparisons are among all pairs, and are no family beside them.
    """
    compared = compared_cells(frame, test).values()
    against = [
        Family("default", int(np.isfinite([each.p for each in one.differences.values()]).sum())) for one in compared
    ]
    if len(pairs):
        against += [Family("pairs", int(part["p"].notna().sum())) for _, part in pairs.groupby("probe")]
    else:
        against += [Family("best", count) for count in compared_with_best(frame, test)]
    return [family for family in against if family.tests]


def families_of_findings(checked: pd.DataFrame) -> list[Family]:
    """Return the families of the statements of `analysis.studies.paper_findings.check`, of one base."""
    tested = checked.dropna(subset=["p"])
    return [Family("finding", len(part)) for _, part in tested.groupby("finding", sort=False)]


def multiplicity(families: Sequence[Family]) -> str:
    """Return in words how many tests there are, over what they are corrected, and how many wrong claims to expect."""
    if not families:
        return "No test was made, so no difference is claimed."
    tests, of = Counter[Kind](), Counter(family.kind for family in families)
    for kind, count in families:
        tests[kind] += count
    parts = [f"{tests[kind]} {what} in {of[kind]}" for kind, what in KINDS.items() if tests[kind]]
    return (
        f"This report makes {sum(tests.values())} tests in {len(families)} families: {', '.join(parts)}. "
        "A family is the tests of one kind in one study under one probe, or those of one finding. Tests are corrected "
        f"for their number within a family, not over the report: a family has a chance of {ALPHA * 100:g} % or less to "
        f"hold a wrong claim. Of {1 / ALPHA:.0f} families expect up to one that holds a wrong claim, of these "
        f"{len(families)} up to {ALPHA * len(families):.2g}."
    )
