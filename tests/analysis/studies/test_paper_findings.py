import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.studies.own import OWN
from ablations.studies.paper import STUDIES
from ablations.studies.study import plan_cells
from analysis.statistics.intervals import contrast, trend, welch
from analysis.studies.paper_findings import FINDINGS, check, verdicts
from mae.config.resolve import build, flatten
from mae.config.tree import Config
from tests.helpers.study_factory import study_frame_of

NOISE = (-0.2, 0.0, 0.2)
PAPER_LIKE: dict[str, dict[str, float]] = {
    "mask-ratio": {"0.1": 54.6, "0.5": 69.9, "0.75": 73.5, "0.9": 66.1},
    "decoder-depth": {"1": 65.5, "2": 70.0, "8": 73.5, "12": 73.3},
    "decoder-width": {"16": 71.3, "32": 73.5, "64": 73.1},
    "mask-token": {"with mask tokens": 59.6, "without": 73.5},
    "target": {"pixels": 73.5, "normalised pixels": 74.9, "PCA": 72.3},
    "augmentation": {"crop, fixed size": 73.4, "crop, random size": 73.5, "crop and colour jitter": 71.9},
    "mask-sampling": {"random 75 %": 73.5, "block 50 %": 72.3, "block 75 %": 63.9, "grid 75 %": 66.0},
    "schedule": {"25": 64.4, "50": 69.7, "100": 73.5, "200": 75.1},
    "loss-region": {"masked only": 73.5, "all patches": 72.0},
}
AXES = {
    "mask-ratio": "mask.ratio",
    "decoder-depth": "model.decoder.depth",
    "decoder-width": "model.decoder.dim",
    "schedule": "train.epochs",
}
DEFAULTS = {"decoder-depth": "8", "decoder-width": "32", "schedule": "100"}


def study(name: str, means: dict[str, float], noise: Sequence[float] = NOISE, **more: Any) -> pd.DataFrame:
    accuracies = {  # each cell has the same noise in other seeds
        cell: [mean + noise[(place + seed) % len(noise)] for seed in range(len(noise))]
        for place, (cell, mean) in enumerate(means.items())
    }
    return study_frame_of(accuracies, name=name, axis=AXES.get(name, ""), default=DEFAULTS.get(name, "0.75"), **more)


def paper_like(noise: Sequence[float] = NOISE) -> pd.DataFrame:
    """All studies as the paper found them, with the costs it found too."""
    frames = [study(name, means, noise) for name, means in PAPER_LIKE.items()]
    seconds = {"mask tokens, default decoder": 28.0, "none, default decoder": 10.0}
    frames.append(
        study("wall-clock", dict.fromkeys(seconds, 0.0), noise, probes=(), seconds=seconds)
    )  # a training lasts a second longer with each seed
    frame = pd.concat(frames, ignore_index=True)
    frame.loc[frame["cell"] == "with mask tokens", "gflops"] *= 3.3
    frame["loss"] += 0.001 * ((frame["seed"] + frame["order"]) % 3)
    frame.loc[frame["cell"] == "grid 75 %", "loss"] *= 0.5
    return frame


def verdict_of(frame: pd.DataFrame, number: str) -> str:
    found = verdicts(check(frame))
    return str(found.loc[found["finding"] == number, "verdict"].iloc[0])


def test_results_like_the_papers_agree_with_every_finding_that_can_be_tested() -> None:
    found = verdicts(check(paper_like()))
    by_number = dict(zip(found["finding"], found["verdict"], strict=True))
    untested = {"2", "9", "10"}
    assert by_number == {finding.number: "no data" if finding.number in untested else "agrees" for finding in FINDINGS}


@pytest.mark.parametrize(
    ("name", "changed", "number"),
    [
        ("mask-ratio", {"0.9": 78.0}, "1"),
        ("mask-ratio", {"0.1": 80.0, "0.5": 75.0}, "1"),
        ("decoder-depth", {"12": 78.0}, "3"),
        ("decoder-depth", {"1": 75.0, "2": 74.0}, "3"),
        ("decoder-width", {"64": 78.0}, "3"),
        ("mask-token", {"without": 50.0}, "4"),
        ("target", {"pixels": 80.0}, "5"),
        ("target", {"PCA": 80.0}, "5"),
        ("augmentation", {"crop, fixed size": 60.0}, "6"),
        ("augmentation", {"crop and colour jitter": 80.0}, "6"),
        ("mask-sampling", {"grid 75 %": 80.0}, "7"),
        ("mask-sampling", {"block 50 %": 60.0}, "7"),
        ("schedule", {"200": 70.0}, "8"),
        ("loss-region", {"all patches": 80.0}, "footnote 1"),
    ],
)
def test_the_opposite_disagrees(name: str, changed: dict[str, float], number: str) -> None:
    assert verdict_of(study(name, PAPER_LIKE[name] | changed), number) == "disagrees"


FLAT = {"0.1": 83.2, "0.4": 84.7, "0.6": 85.0, "0.8": 84.5, "0.9": 83.0}
BLOCKS = {"0.0": 73.5, "0.5": 79.1, "1.0": 81.0, "4.0": 84.2}
WIDTHS = {"32": 70.0, "64": 75.0, "128": 80.0}


def tuned(name: str, means: dict[str, float], axis: str, probe: str) -> pd.DataFrame:
    accuracies = {cell: [mean + noise for noise in NOISE] for cell, mean in means.items()}
    frame = study_frame_of(accuracies, name=name, axis=axis, default="none", probes=(probe,))
    return frame.assign(top1=frame["top1"] + 0.01 * ((frame["order"] + frame["seed"]) % 3))  # seeds are no mere blocks


@pytest.mark.parametrize(
    ("changed", "verdict"), [({}, "agrees"), ({"0.4": 80.0}, "disagrees"), ({"0.1": 86.0, "0.9": 86.0}, "disagrees")]
)
def test_fine_tuning_is_judged_by_its_own_accuracies(changed: dict[str, float], verdict: str) -> None:
    assert verdict_of(tuned("mask-ratio", FLAT | changed, "mask.ratio", "finetune"), "2") == verdict


@pytest.mark.parametrize(("changed", "verdict"), [({}, "agrees"), ({"1.0": 76.0}, "disagrees")])
def test_one_tuned_block_is_judged_beside_all_others(changed: dict[str, float], verdict: str) -> None:
    found = check(tuned("partial-finetune", BLOCKS | changed, "probe.partial.blocks", "partial"))
    row = found[found["statement"] == "one tuned block adds more than all others after it"].iloc[0]
    assert row["verdict"] == verdict


def test_linear_probing_is_judged_beside_fine_tuning_of_the_same_runs() -> None:
    linear = study("mask-ratio", PAPER_LIKE["mask-ratio"])
    linear = linear[linear["probe"] == "linear"]
    tuned_too = linear.assign(probe="finetune", top1=85.0)
    for frame, verdict in ((pd.concat([linear, tuned_too]), "agrees"), (linear, "no data")):
        assert verdict_of(frame, "9") == verdict
    assert "give --probe finetune" in verdicts(check(linear)).query("finding == '9'")["here"].iloc[0]


@pytest.mark.parametrize(("untrained", "verdict"), [([60.0, 60.0, 60.0], "agrees"), ([60.0, 70.0, 80.0], "disagrees")])
def test_the_gain_over_training_from_scratch_is_over_the_untrained_encoder(
    untrained: list[float], verdict: str
) -> None:
    frame = tuned("encoder-width", WIDTHS, "model.encoder.dim", "finetune")
    assert verdict_of(frame.assign(untrained=[untrained[order] for order in frame["order"]]), "10") == verdict


def test_costs_that_do_not_fall_disagree() -> None:
    frame = paper_like()
    frame.loc[frame["cell"] == "with mask tokens", "gflops"] = 0.1
    assert verdict_of(frame, "4") == "disagrees"


def test_wide_noise_is_undecided() -> None:
    assert verdict_of(study("mask-token", PAPER_LIKE["mask-token"], (-20.0, 0.0, 20.0)), "4") == "undecided"


def test_one_seed_is_undecided_but_its_effect_is_told() -> None:
    found = check(study("mask-ratio", PAPER_LIKE["mask-ratio"], (0.0,)))
    first = found.iloc[0]
    assert (first["verdict"], first["reason"]) == ("undecided", "one seed")
    assert first["effect"] > 10
    assert math.isnan(first["low"])


def test_a_missing_cell_is_no_data_and_named() -> None:
    accuracies: Any = {"with mask tokens": [1.0, 2.0], "without": [None, None]}
    found = check(study_frame_of(accuracies, name="mask-token", axis="", default="without"))
    row = found[found["statement"] == "more accurate without"].iloc[0]
    assert (row["verdict"], row["reason"]) == ("no data", "no results of without")


def test_bases_are_judged_apart() -> None:
    other = study("mask-token", {"with mask tokens": 80.0, "without": 60.0}, base="another")
    found = verdicts(check(pd.concat([paper_like(), other])))
    assert found.loc[found["finding"] == "4", "verdict"].tolist() == ["agrees", "disagrees"]


def test_results_of_different_probes_are_judged_apart() -> None:
    config = flatten(build({"probe.features": "class_token"}).model_dump(mode="json"))
    other = study("mask-token", {"with mask tokens": 80.0, "without": 60.0}, config=config)
    found = verdicts(check(pd.concat([paper_like(), other])))
    assert found.loc[found["finding"] == "4", "verdict"].tolist() == ["agrees", "disagrees"]


def test_times_of_different_numbers_of_threads_are_undecided() -> None:
    frame = paper_like()
    frame.loc[frame["cell"] == "none, default decoder", "threads"] = "8"
    row = check(frame).query("statement == 'less time without'").iloc[0]
    assert (row["verdict"], row["reason"]) == (
        "undecided",
        "its times are of different devices or numbers of threads",
    )


def test_two_studies_of_one_name_on_one_base_are_not_mixed() -> None:
    one = study("mask-token", PAPER_LIKE["mask-token"], study_id="mask-token-1")
    two = study("mask-token", PAPER_LIKE["mask-token"], study_id="mask-token-2")
    row = check(pd.concat([one, two])).query("statement == 'more accurate without'").iloc[0]
    assert row["verdict"] == "undecided"
    assert "2 studies mask-token" in row["reason"]


def test_statements_of_a_finding_share_its_error_rate() -> None:
    frame = study("mask-token", {"with mask tokens": 70.0, "without": 73.0}, (-1.0, 0.0, 1.0))
    row = check(frame).query("statement == 'more accurate without'").iloc[0]
    alone = contrast([[72, 73, 74], [69, 70, 71]], [1, -1])
    assert row["low"] < alone.low < row["effect"] == pytest.approx(3)


@pytest.mark.parametrize("finding", [each for each in FINDINGS if each.statements], ids=lambda each: each.number)
def test_every_statement_finds_its_cells_in_the_studies(finding: Any) -> None:
    for statement in finding.statements:
        study = (STUDIES | OWN)[statement.study]
        records = [cell.record for cell in plan_cells(study, Config())]
        cells = pd.DataFrame(
            {
                "cell": [record.name for record in records],
                "x": [record.overrides.get(study.axis, math.nan) for record in records],
                "is_default": [record.is_default for record in records],
            }
        )
        assert statement.weights(cells), statement.claim


def test_a_contrast_of_two_groups_is_welchs_test() -> None:
    a, b = [5.0, 6.0, 9.0], [1.0, 2.0]
    result = contrast([a, b], [1, -1])
    assert (result.effect, result.p) == pytest.approx(welch(a, b))
    assert (result.low > 0) == (result.p < 0.05)


def test_the_interval_of_a_contrast_covers_the_truth_in_19_of_20_samples() -> None:
    draws = np.random.default_rng(0).normal([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], size=(2000, 5, 3))
    results = [contrast(list(each.T), trend([0, 1, 2])) for each in draws]
    assert np.mean([each.low <= 2 <= each.high for each in results]) == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True), st.floats(-5, 5), st.floats(-9, 9))
def test_the_trend_of_a_line_is_its_rise(x: list[int], slope: float, offset: float) -> None:
    means = [[offset + slope * value] for value in x]
    assert contrast(means, trend(x)).effect == pytest.approx(slope * (max(x) - min(x)), abs=1e-6)
