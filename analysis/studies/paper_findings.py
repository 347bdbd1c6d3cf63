"""The paper's findings as statements that the results can contradict, and the verdict on each.

A statement is a contrast of a study's cells (`contrast_of`: seeds are blocks) and what the paper expects of it. Its
verdict follows from the contrast's interval alone; the intervals of one finding's statements, of those whose probes
were run, hold together with 95 % (Bonferroni). A difference within `MARGIN` counts as none where the paper says that
something makes no difference. Training from scratch is fine-tuning of the untrained encoder.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.results.conditions import differ
from analysis.results.frame import SETTING, comparable
from analysis.statistics.comparisons import Test, contrast_of
from analysis.statistics.intervals import ALPHA, Contrast, trend

MARGIN = 1.0
"""Points of top-1."""

Verdict = Literal["agrees", "disagrees", "undecided", "no data"]
NO_DATA: Verdict = "no data"
"""Where no study was run that a finding is about."""
Weights = Callable[[pd.DataFrame], dict[str, float]]
"""From a study's cells (columns cell, x, is_default) to the weights of those that a contrast reads, if there."""


@dataclass(frozen=True)
class Statement:
    """What the paper expects of a contrast: a rise, a fall, no gain (at most `MARGIN`), or no difference.

    `probe` is the kind whose accuracy it is about, if not the one asked for; `less` is taken from it: the same run's
    accuracy by another kind, or `untrained`, that of the untrained encoder.
    """

    claim: str
    study: str
    weights: Weights
    expected: Literal["rise", "fall", "no gain", "no difference"] = "rise"
    value: Literal["top1", "loss", "seconds", "gflops"] = "top1"
    ratio: bool = False
    probe: str = ""
    less: str = ""

    def probes(self, asked: str) -> set[str]:
        """Return the kinds of probe that it needs, given the one asked for; none if it is about no accuracy."""
        if self.value != "top1":
            return set()
        return {self.probe or asked, self.less} - {"", "untrained"}


@dataclass(frozen=True)
class Finding:
    """One finding: its number, where the paper has it, what it says; `lacking` is what else a test would need."""

    number: str
    source: str
    claim: str
    statements: tuple[Statement, ...] = ()
    lacking: str = ""


def _difference(cell: str, reference: str) -> Weights:
    def weights(cells: pd.DataFrame) -> dict[str, float]:
        return {cell: 1.0, reference: -1.0} if {cell, reference} <= set(cells["cell"]) else {}

    return weights


def _trend(low: float = -math.inf, high: float = math.inf, log: bool = False) -> Weights:
    def weights(cells: pd.DataFrame) -> dict[str, float]:
        part = cells[cells["x"].between(low, high)]
        if len(part) < 2:
            return {}
        return dict(zip(part["cell"], trend(np.log2(part["x"]) if log else part["x"]), strict=True))

    return weights


def _last_step(cells: pd.DataFrame) -> dict[str, float]:
    names = cells.dropna(subset=["x"]).sort_values("x")["cell"].tolist()
    return {names[-1]: 1.0, names[-2]: -1.0} if len(names) > 1 else {}


def _widest_from_default(cells: pd.DataFrame) -> dict[str, float]:
    wider = cells[cells["x"] > cells.loc[cells["is_default"], "x"].max()].sort_values("x")["cell"].tolist()
    default = cells.loc[cells["is_default"], "cell"].tolist()
    return {wider[-1]: 1.0, default[0]: -1.0} if wider and default else {}


def _inside_from_outside(low: float, high: float) -> Weights:
    def weights(cells: pd.DataFrame) -> dict[str, float]:
        known = cells.dropna(subset=["x"])
        inside = known["x"].between(low, high)
        if inside.all() or not inside.any():
            return {}
        return dict(zip(known["cell"], np.where(inside, 1 / inside.sum(), -1 / (~inside).sum()), strict=True))

    return weights


def _first_block_from_others(cells: pd.DataFrame) -> dict[str, float]:
    """What tuning one block adds to tuning none, less what tuning all adds to that."""
    names = cells.dropna(subset=["x"]).sort_values("x").set_index("x")["cell"]
    if not {0.0, 1.0} <= set(names.index) or names.index[-1] <= 1:
        return {}
    return {names[1.0]: 2.0, names[0.0]: -1.0, names.iloc[-1]: -1.0}


NOTHING = Contrast(math.nan, math.nan, math.nan, math.nan)
TUNED = "finetune"

FINDINGS = (
    Finding(
        "1",
        "Fig. 5",
        "Linear accuracy rises with the mask ratio to 75 %, then falls.",
        (
            Statement("rises up to 75 %", "mask-ratio", _trend(high=0.75)),
            Statement("falls from 75 % on", "mask-ratio", _trend(low=0.75), "fall"),
        ),
    ),
    Finding(
        "2",
        "Fig. 5",
        "Fine-tuning is flat from 40 to 80 % and lower outside.",
        (
            Statement("flat from 40 to 80 %", "mask-ratio", _trend(0.4, 0.8), "no difference", probe=TUNED),
            Statement("higher inside than outside", "mask-ratio", _inside_from_outside(0.4, 0.8), probe=TUNED),
        ),
    ),
    Finding(
        "3",
        "Table 1a, 1b",
        "Decoder depth matters for linear probing, hardly for fine-tuning; beyond 8 blocks or the default width "
        "nothing improves.",
        (
            Statement("deeper is better, up to 8 blocks", "decoder-depth", _trend(high=8, log=True)),
            Statement("12 blocks are no better than 8", "decoder-depth", _difference("12", "8"), "no gain"),
            Statement("twice the width is no better", "decoder-width", _widest_from_default, "no gain"),
            Statement(
                "depth makes no difference to fine-tuning",
                "decoder-depth",
                _trend(high=8, log=True),
                "no difference",
                probe=TUNED,
            ),
        ),
    ),
    Finding(
        "4",
        "Table 1c, 2",
        "Leaving mask tokens out of the encoder is better and cheaper.",
        (
            Statement("more accurate without", "mask-token", _difference("without", "with mask tokens")),
            Statement(
                "less compute without", "mask-token", _difference("without", "with mask tokens"), "fall", "gflops", True
            ),
            Statement(
                "less time without",
                "wall-clock",
                _difference("none, default decoder", "mask tokens, default decoder"),
                "fall",
                "seconds",
                True,
            ),
        ),
    ),
    Finding(
        "5",
        "Table 1d",
        "Normalised pixels are a better target than pixels and PCA; dVAE tokens are not needed.",
        (
            Statement("normalised pixels beat pixels", "target", _difference("normalised pixels", "pixels")),
            Statement("normalised pixels beat PCA", "target", _difference("normalised pixels", "PCA")),
        ),
        "dVAE tokens",
    ),
    Finding(
        "6",
        "Table 1e",
        "Little augmentation is needed; colour jitter hurts.",
        (
            Statement(
                "a crop of fixed size does as well as one of random size",
                "augmentation",
                _difference("crop, fixed size", "crop, random size"),
                "no difference",
            ),
            Statement(
                "colour jitter hurts",
                "augmentation",
                _difference("crop and colour jitter", "crop, random size"),
                "fall",
            ),
        ),
    ),
    Finding(
        "7",
        "Table 1f",
        "Random masks are best; blocks work at 50 % but not at 75 %; a grid is easier and gives worse features.",
        (
            Statement("random beats block 50 %", "mask-sampling", _difference("random 75 %", "block 50 %")),
            Statement("random beats block 75 %", "mask-sampling", _difference("random 75 %", "block 75 %")),
            Statement("random beats grid", "mask-sampling", _difference("random 75 %", "grid 75 %")),
            Statement("block 50 % beats block 75 %", "mask-sampling", _difference("block 50 %", "block 75 %")),
            Statement(
                "a grid is easier: lower loss",
                "mask-sampling",
                _difference("grid 75 %", "random 75 %"),
                "fall",
                "loss",
                True,
            ),
        ),
    ),
    Finding(
        "8",
        "Fig. 7",
        "Longer pretraining helps, without saturation.",
        (
            Statement("rises with the logarithm of epochs", "schedule", _trend(log=True)),
            Statement("still rises in the last doubling", "schedule", _last_step),
        ),
    ),
    Finding(
        "9",
        "Table 1, Fig. 9",
        "Linear probing and fine-tuning rank settings differently: what linear probing lacks, one tuned block gives.",
        (
            Statement(
                "more hidden patches, up to 75 %, help linear probing more than fine-tuning",
                "mask-ratio",
                _trend(high=0.75),
                probe="linear",
                less=TUNED,
            ),
            Statement(
                "a deeper decoder, up to 8 blocks, helps linear probing more than fine-tuning",
                "decoder-depth",
                _trend(high=8, log=True),
                probe="linear",
                less=TUNED,
            ),
            Statement(
                "one tuned block adds more than all others after it",
                "partial-finetune",
                _first_block_from_others,
                probe="partial",
            ),
        ),
    ),
    Finding(
        "10",
        "Table 3",
        "The gain over training from scratch grows with the model.",
        (
            Statement(
                "the gain rises with the encoder's width",
                "encoder-width",
                _trend(log=True),
                probe=TUNED,
                less="untrained",
            ),
        ),
    ),
    Finding(
        "footnote 1",
        "section 3",
        "A loss on hidden patches only is better than one on all patches.",
        (Statement("hidden only beats all", "loss-region", _difference("masked only", "all patches")),),
    ),
)


def check(frame: pd.DataFrame, probe: str = "linear", test: Test | None = None) -> pd.DataFrame:
    """Return a row per statement, and per finding that has none, for each comparable part of the frame.

    `test` is the one asked for, as in `analysis.studies.tables.summarise`.

    Columns: those of `SETTING`, finding, source, claim, statement, study, effect, low, high (points of top-1, or a
    ratio where `ratio`), p, test, verdict, reason.
    """
    rows = []
    for part in comparable(frame):
        of = dict(part.iloc[0][SETTING])
        for finding in FINDINGS:
            found = [_statement(part, statement, probe, finding, test) for statement in finding.statements]
            lacking = [_lacking(finding.lacking)] if finding.lacking else []
            about = {"finding": finding.number, "source": finding.source, "claim": finding.claim}
            rows += [{**of, **about, **row} for row in [*found, *lacking]]
    return pd.DataFrame(rows)


def verdicts(checked: pd.DataFrame) -> pd.DataFrame:
    """Return a row per finding and comparable part: the verdict on all of it.

    It disagrees if one statement does, agrees if all that have data do, else it is undecided.
    """
    rows = []
    for _, part in checked.groupby([*SETTING, "finding"], sort=False):
        about = dict(part.iloc[0][[*SETTING, "finding", "source", "claim"]])
        rows.append(about | {"verdict": _combined(part["verdict"]), "here": "; ".join(map(_told, _records(part)))})
    return pd.DataFrame(rows)


def _records(part: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in part.to_dict("records")]


def _combined(each: Iterable[str]) -> Verdict:
    known = set(each) - {"no data"}
    if not known:
        return "no data"
    return "disagrees" if "disagrees" in known else "agrees" if known == {"agrees"} else "undecided"


def _told(row: dict[str, Any]) -> str:
    """Return a statement's result in words: "rises up to 75 %: +2.1 (0.3 to 3.9), agrees"."""
    if pd.isna(row["effect"]):
        return f"{row['statement']}: {row['verdict']} ({row['reason']})"
    style = "{:.3g} times" if row["ratio"] else "{:+.1f}"
    interval = "" if pd.isna(row["low"]) else f" ({style} to {style})".format(row["low"], row["high"])
    reason = f" ({row['reason']})" if row["reason"] else ""
    return f"{row['statement']}: {style.format(row['effect'])}{interval}, {row['verdict']}{reason}"


def _lacking(what: str) -> dict[str, Any]:
    return _row(f"needs {what}", "", NOTHING, False, "", "no data", "not measured by this program")


def _row(
    claim: str, study: str, result: Contrast, ratio: bool, test: str, verdict: Verdict, reason: str
) -> dict[str, Any]:
    return {
        "statement": claim,
        "study": study,
        **result._asdict(),
        "ratio": ratio,
        "test": test,
        "verdict": verdict,
        "reason": reason,
    }


def _statement(
    frame: pd.DataFrame, statement: Statement, probe: str, finding: Finding, asked: Test | None
) -> dict[str, Any]:
    part = frame[frame["study"] == statement.study]
    if part["study_id"].nunique() > 1:
        reason = f"{part['study_id'].nunique()} studies {statement.study} on this base, choose one by its folder's name"
        return _row(statement.claim, statement.study, NOTHING, statement.ratio, "", "undecided", reason)
    weights = statement.weights(part.drop_duplicates("order").sort_values("order"))
    runs = _results(part, statement, probe)
    if lacking := statement.probes(probe) - set(part["probe"]) if weights else set():
        reason = f"not probed: give --probe {','.join(sorted(lacking))}"
        return _row(statement.claim, statement.study, NOTHING, statement.ratio, "", "no data", reason)
    if not weights or not set(weights) <= set(runs["cell"]):
        missing = ", ".join(cell for cell in weights if cell not in set(runs["cell"]))
        reason = f"no results of {missing}" if missing else f"no study {statement.study} with such cells"
        return _row(statement.claim, statement.study, NOTHING, statement.ratio, "", "no data", reason)
    if statement.value == "seconds" and differ(runs[runs["cell"].isin(weights)]):
        reason = "its times are of different devices or numbers of threads"
        return _row(statement.claim, statement.study, NOTHING, statement.ratio, "", "undecided", reason)
    alpha = ALPHA / sum(each.probes(probe) <= set(frame["probe"]) for each in finding.statements)
    values, cells, seeds = (runs[name].tolist() for name in ("value", "cell", "seed"))
    result, by = contrast_of(values, cells, seeds, weights, alpha, asked)
    test = f"contrast of {len(weights)} cells, {by}, {100 * (1 - alpha):.4g} % interval"
    if math.isnan(result.p):
        verdict, reason = _without_test(result.effect, statement, runs)
    else:
        verdict, reason = _by_interval(result, statement), ""
    if statement.ratio:
        result = Contrast(math.exp(result.effect), math.exp(result.low), math.exp(result.high), result.p)
    return _row(statement.claim, statement.study, result, statement.ratio, test, verdict, reason)


def _results(part: pd.DataFrame, statement: Statement, probe: str) -> pd.DataFrame:
    """Return a study's finished runs with their `value`; logarithms where a ratio is asked about."""
    done = part[part["status"] == "finished"]
    done = _accuracies(done, statement, probe) if statement.value == "top1" else done.drop_duplicates(["cell", "seed"])
    done = done.dropna(subset=[statement.value])
    return done.assign(value=np.log(done[statement.value]) if statement.ratio else done[statement.value])


def _accuracies(done: pd.DataFrame, statement: Statement, probe: str) -> pd.DataFrame:
    """Return the rows of a statement's probe, with what it takes away taken from `top1`."""
    rows = done[done["probe"] == (statement.probe or probe)]
    if statement.less == "untrained":
        return rows.assign(top1=rows["top1"] - rows["untrained"])
    if statement.less:
        other = done[done["probe"] == statement.less][["cell", "seed", "top1"]]
        rows = rows.merge(other, on=["cell", "seed"], suffixes=("", "_less"))
        return rows.assign(top1=rows["top1"] - rows["top1_less"])
    return rows


def _without_test(effect: float, statement: Statement, runs: pd.DataFrame) -> tuple[Verdict, str]:
    """Compute is exact: it needs no test. Anything else without a spread over seeds is undecided."""
    if statement.value == "gflops":
        return _by_interval(Contrast(effect, effect, effect, 0.0), statement), "counted, not measured"
    if runs["seed"].nunique() < 2:
        return "undecided", "one seed"
    return "undecided", "no spread over seeds, or too few runs for the test"


def _by_interval(result: Contrast, statement: Statement) -> Verdict:
    _, low, high, _ = result
    agrees, disagrees = {
        "rise": (low > 0, high < 0),
        "fall": (high < 0, low > 0),
        "no gain": (high < MARGIN, low > MARGIN),
        "no difference": (low > -MARGIN and high < MARGIN, low > MARGIN or high < -MARGIN),
    }[statement.expected]
    return "agrees" if agrees else "disagrees" if disagrees else "undecided"
