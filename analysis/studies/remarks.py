"""What has to be said with one study's table: caveats above it, the answer and the rest below."""

from itertools import combinations

import pandas as pd

from analysis.results.conditions import CONDITIONS, described, differ
from analysis.statistics.comparisons import Test
from analysis.statistics.intervals import rank_agreement
from analysis.studies.answer import answers, listed, power_lines
from analysis.studies.tables import BASELINES, compared_cells, differs, summarise, with_results
from mae.probing.kinds import PROBES, probe_label
from mae.runs.metrics import COLLAPSED, LEARNED

TEST_IN_WORDS = {
    "paired": "compared by the differences within seeds, each cell with a spread of its own, Holm's correction",
    "welch": "compared by Welch's tests, as if cells shared no seeds, Holm's correction",
}

RANKED = 5
"""Cells from which on the rankings of two probes are compared: four agree by chance too often."""

UNEVEN = 1.5
"""Times of one cell on one device that differ by more than this factor are told: they say little about its cost."""


def remarks(frame: pd.DataFrame, test: Test | None = None) -> list[str]:
    """Return sentences: the answer, power, tests and what speaks against them, agreement with the paper, baselines.

    `test` is the one asked for, as in `analysis.studies.tables.summarise`.
    """
    summary = summarise(frame, test)
    return [
        *answers(frame, test),
        *power_lines(frame, test),
        *_of_tests(frame, test),
        *_agreement(summary),
        *_winners(summary),
        *_baselines(summary),
    ]


def caveats(frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each reason to read one study's table with care."""
    trials = frame.drop_duplicates(["cell", "seed"])
    lines = []
    for status, part in frame[frame["status"] != "finished"].groupby("status"):
        count = len(part.drop_duplicates(["cell", "seed"]))
        reasons = ", ".join(dict.fromkeys(filter(None, part["reason"])))
        lines.append(
            f"{count} of {len(trials)} trainings {status}{f' ({reasons})' if reasons else ''}: not in any mean"
        )
    lines += _collapsed(trials) + _at_chance(trials)
    seeds = frame[frame["status"] == "finished"].groupby("cell")["seed"].nunique()
    if len(seeds) and seeds.max() == 1:
        lines.append("one seed: no test, no difference counts")
    lines += _versions(trials[trials["commit"] != ""])
    finished = trials[trials["status"] == "finished"]
    if differ(finished):
        lines.append(
            f"time and memory were measured under different conditions: {described(finished, _cells)}. "
            "Time is relative to the default under the same conditions; memory cannot be compared"
        )
    return lines + _uneven_times(finished) + _below_pixels(frame)


def _uneven_times(finished: pd.DataFrame) -> list[str]:
    """Return a sentence that names the cell whose seeds differ most in time per image under one condition, if much."""
    images = finished["tflop"] / finished["gflops"]  # NaN of an untrained encoder, which takes no step
    times = finished.assign(time=finished["seconds"] / images).groupby(["cell", *CONDITIONS])["time"]
    ratios = (times.max() / times.min()).groupby("cell").max().dropna()
    if ratios.empty or ratios.max() <= UNEVEN:
        return []
    return [
        f"times of {ratios.idxmax()} differ between seeds by {ratios.max():.1f} x: other work ran beside; go by GFLOPs"
    ]


def _collapsed(trials: pd.DataFrame) -> list[str]:
    """Return a sentence that names the cells in which a task's outputs have become one point."""
    found = trials[trials["output_std"] < COLLAPSED].sort_values("order")
    if found.empty:
        return []
    low, high = found["output_std"].min(), found["output_std"].max()
    return [
        f"outputs have collapsed in {len(found)} trainings, to a standard deviation of {low:.2f} to {high:.2f} where 1 "
        f"is healthy: {_cells(found)}"
    ]


def _at_chance(trials: pd.DataFrame) -> list[str]:
    """Return a sentence that names the cells in which a task's loss ends where a guess's is."""
    found = trials[trials["loss"] >= LEARNED * trials["chance_loss"]].sort_values("order")
    if found.empty:
        return []
    return [
        f"the task is hardly learned in {len(found)} trainings, whose loss ends at that of a guess: {_cells(found)}"
    ]


def _versions(trials: pd.DataFrame) -> list[str]:
    """Return which version of the code trained which cells, where there are several."""
    commits = trials.groupby("commit", sort=False)
    if len(commits) < 2:
        return []
    cells = trials.sort_values("order")["cell"].drop_duplicates().tolist()
    told = []
    for commit, part in commits:
        seeds_of: dict[str, list[int]] = {}
        for seed, of_seed in part.sort_values("order").groupby("seed"):
            chosen = of_seed["cell"].tolist()
            name = listed(chosen, cells, bool(trials["x"].notna().all())) if len(chosen) < len(cells) else "all cells"
            seeds_of.setdefault(name, []).append(int(str(seed)))
        by = [f"{name} of seed {', '.join(map(str, seeds))}" for name, seeds in seeds_of.items()]
        told.append(f"{commit} ({'; '.join(by)})")
    return [f"trained by {len(commits)} versions of the code: {', '.join(told)}"]


def _below_pixels(frame: pd.DataFrame) -> list[str]:
    """Return a sentence per probe under which the mean of every cell is below that of the raw pixels."""
    lines = []
    for probe, done in with_results(frame):
        means = done.groupby("cell")[["top1", "pixels"]].mean()
        if len(means) and (means["top1"] < means["pixels"]).all():
            pixels = means["pixels"].max()
            lines.append(
                f"{probe_label(probe)}: every cell is below the raw pixels ({pixels:.1f} %): for this "
                "probe no encoder here is better than the images themselves"
            )
    return lines


def _cells(part: pd.DataFrame) -> str:
    return "; ".join(dict.fromkeys(part["cell"]))


def _of_tests(frame: pd.DataFrame, test: Test | None) -> list[str]:
    """Return what speaks against the comparisons, by which test they are, and of several probes how many."""
    compared = {probe_label(probe): each for probe, each in compared_cells(frame, test).items() if probe in PROBES}
    lines = [f"{probe}: {remark}" for probe, each in compared.items() for remark in each.remarks]
    lines += [f"{probe}: {TEST_IN_WORDS[each.test]}" for probe, each in compared.items() if each.test in TEST_IN_WORDS]
    tests = [len(each.differences) for each in compared.values() if each.model.freedom]
    if len(tests) > 1:
        lines.append(f"{sum(tests)} comparisons in all, corrected for their number within a probe")
    return lines


def _agreement(summary: pd.DataFrame) -> list[str]:
    """Return a sentence per probe: how far the cells' ranking agrees with the paper's, by its probe or the linear."""
    lines = []
    for probe, part in summary.groupby("probe", sort=False):
        column = (PROBES[str(probe)].paper if probe in PROBES else "") or "paper_linear"
        pairs = part.dropna(subset=["mean", column])
        if told := _ranks(pairs["mean"], pairs[column]):
            paper = {"paper_linear": "linear probe", "paper_finetune": "fine-tuning"}[column]
            lines.append(f"{probe_label(str(probe))}: rank agreement with the paper's {paper} {told}")
    return lines


def _ranks(first: pd.Series, second: pd.Series) -> str:
    """Return how far two rankings of cells agree, in words, or "" where that is not defined."""
    rho, low, high = rank_agreement(first.tolist(), second.tolist())
    interval = "" if pd.isna(low) else f" (95 %: {low:.2f} to {high:.2f})"
    return "" if pd.isna(rho) else f"over {len(first)} cells: Spearman {rho:.2f}{interval}"


def _winners(summary: pd.DataFrame) -> list[str]:
    """Return a sentence for several probes: the best cell of each by its mean, and how the ranks of cells agree."""
    means = summary[summary["probe"].isin(PROBES)].pivot_table("mean", "cell", "probe")
    kinds = [kind for kind in PROBES if kind in means]
    best: dict[str, list[str]] = {}
    for kind in kinds:
        best.setdefault(str(means[kind].idxmax()), []).append(probe_label(kind))
    ranks = []
    for first, second in combinations(kinds, 2):
        both = means[[first, second]].dropna()
        if len(both) >= RANKED and (told := _ranks(both[first], both[second])):
            ranks.append(f"{probe_label(first)} and {probe_label(second)} {told}")
    if min(means.shape) < 2:
        return []
    leading = "probes have different best cells" if len(best) > 1 else "probes have the same best cell"
    winners = "; ".join(f"{cell} by {', '.join(labels)}" for cell, labels in best.items())
    agreement = f". Rank agreement: {'; '.join(ranks)}" if ranks else ""
    return [f"by their means alone, {leading}: {winners}{agreement}"]


def _baselines(summary: pd.DataFrame) -> list[str]:
    """Return a sentence per probe: what the baselines reach that all its cells share; the others are columns."""
    lines = []
    for probe, part in summary.groupby("probe", sort=False):
        shared = {name: part[name].max() for name in BASELINES if not differs(part[name])}
        told = [f"{BASELINES[name]} {value:.1f}" for name, value in shared.items() if not pd.isna(value)]
        lines += [f"{probe_label(str(probe))}: {', '.join(told)}"] if told else []
    return lines
