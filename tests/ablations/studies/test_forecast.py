"""What a dry run tells: arithmetic on a made-up clock, and what measuring processes answer."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ablations.execution.forked_calls import call_in
from ablations.execution.job import Job
from ablations.execution.worker_pool import Slot
from ablations.studies import forecast as forecasting
from ablations.studies.forecast import (
    Counts,
    Forecast,
    ends,
    fit_line,
    fit_on_a_gpu,
    forecast,
    makespan,
    probing_seconds,
    training_seconds,
)
from ablations.studies.forecast_measuring import size_of
from ablations.studies.forecast_speeds import FitSpeed, Size, Speed, seconds_per_image
from ablations.studies.paper import STUDIES
from ablations.studies.plan import make_plan
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.errors import RunError
from mae.runtime.progress import Silent

HERE = Slot(Path("runs"), "cpu", 1)
FITS = FitSpeed(0.0, 0.0, 0.0)


class Machine:
    """A clock, and work that takes `per_call + per_image * n` seconds of it, more when `delay` says so."""

    def __init__(self, per_image: float, per_call: float = 0.0, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.now, self.per_image, self.per_call, self.delay = 0.0, per_image, per_call, delay
        self.counts: list[int] = []

    def __call__(self) -> float:
        return self.now

    def work(self, count: int) -> None:
        self.counts.append(count)
        self.now += self.per_call + self.per_image * count + self.delay()


def job(config: Config, kinds: Any = ("linear", "knn")) -> Job:
    return Job("a job", config, "f" * 12, kinds)


def job_seconds(job: Job, counts: Counts, speed: Speed, fits: FitSpeed, done: set[Any]) -> float:
    """A job of which nothing is done."""
    return training_seconds(job.config, counts, speed) + probing_seconds(job, job.kinds, counts, speed, fits, done)


def test_between_its_ends_time_is_a_line_over_flops() -> None:
    line = fit_line([(30.0, 2.0), (10.0, 1.0)])
    assert [line.at(flops) for flops in (10.0, 20.0, 30.0)] == [1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("points", "fixed", "slope"),
    [
        ([(10.0, 3.0), (30.0, 1.0)], 2.0, 0.0),  # more work cannot take less time
        ([(10.0, 1.0), (30.0, 6.0)], 0.0, 0.15),  # nor more of it than its FLOPs
        ([(10.0, 1.0), (10.0, 3.0)], 2.0, 0.0),
        ([(10.0, 1.0)], 1.0, 0.0),
    ],
)
def test_measured_ends_that_cannot_be_meet_in_the_middle(
    points: list[tuple[float, float]], fixed: float, slope: float
) -> None:
    line = fit_line(points)
    assert (line.fixed, line.slope) == pytest.approx((fixed, slope))


def test_a_whole_batch_is_measured_where_time_allows() -> None:
    machine = Machine(per_image=1e-4, per_call=0.01)
    assert seconds_per_image(machine.work, 32, 2.0, machine) == pytest.approx(1e-4 + 0.01 / 32)
    assert machine.now < 2.2


def test_a_batch_too_large_for_the_time_is_measured_in_part() -> None:
    machine = Machine(per_image=0.01)
    assert seconds_per_image(machine.work, 4096, 4.0, machine) == pytest.approx(0.01)
    assert machine.now < 5
    assert max(machine.counts) < 4096


def test_work_that_takes_longer_than_there_is_time_is_done_three_times() -> None:
    machine = Machine(per_image=60.0)
    seconds_per_image(machine.work, 32, 2.0, machine)
    assert machine.counts == [2, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_on_a_machine_that_comes_and_goes_ten_trainings_are_within_a_factor_of_two(seed: int) -> None:
    draws = random.Random(seed)

    def delay() -> float:  # others work here: half of the steps wait for a turn, some for long
        return draws.choice([0.0, 0.0, 0.02, 0.04]) + (3.0 if draws.random() < 0.005 else 0.0)

    flops = [float(value) for value in range(10, 101, 10)]
    measured = {}
    for end in (flops[0], flops[-1]):
        machine = Machine(per_image=end * 2e-5, per_call=0.005, delay=delay)
        measured[end] = seconds_per_image(machine.work, 32, 3.0, machine)
    line = fit_line(list(measured.items()))
    truth = [value * 2e-5 + (0.005 + 0.015) / 32 for value in flops]  # standstills are not expected
    assert all(0.5 < line.at(value) / true < 2 for value, true in zip(flops, truth, strict=True))


def test_a_standstill_does_not_count() -> None:
    waits = iter([0.0] * 20 + [30.0] + [0.0] * 1000)
    machine = Machine(per_image=0.001, delay=lambda: next(waits))
    assert seconds_per_image(machine.work, 32, 40.0, machine) == pytest.approx(0.001)


def test_of_each_family_the_cheapest_and_the_dearest_are_measured() -> None:
    small, middle, large = (build({"mask.ratio": ratio}) for ratio in (0.9, 0.5, 0.1))
    batches = build({"train.batch_size": 64})
    alike = build({"mask.ratio": 0.9, "mask.sampling": "grid"})
    assert ends({middle: 2.0, large: 3.0, batches: 2.0, small: 1.0, alike: 1.0}) == [small, large, batches]
    assert ends({small: 1.0, alike: 1.0}) == [small]


def test_a_job_is_its_start_its_steps_its_evaluations_and_its_features() -> None:
    config = build({"train.epochs": 25, "run.knn_every": 10, "train.batch_size": 32})
    done: set[Any] = set(forecasting.baselines(job(config)))
    seconds = job_seconds(job(config), Counts(100, 20, 10, 3.0), Speed(1.0, 0.1, 2.0), FITS, done)
    assert seconds == pytest.approx(2 * (3 + 2) + 25 * 96 + 3 * (100 + 10 * 10) * 0.1 + 120 * 0.1)


def test_the_untrained_encoder_takes_no_steps() -> None:
    untrained = job(build({"pretext.kind": "random", "train.epochs": 25, "run.knn_every": 10}), ())
    assert job_seconds(untrained, Counts(100, 20, 10, 3.0), Speed(1.0, 0.1, 2.0), FITS, set()) == 3 + 2


@pytest.mark.parametrize(
    ("kinds", "passes"), [(("knn",), 1), (("finetune",), 1 + 3 * 7), (("partial",), 1 + 7 * 1.5), (("attentive",), 2)]
)
def test_a_step_of_fine_tuning_is_three_passes_through_what_is_tuned(kinds: Any, passes: float) -> None:
    settings = {"train.epochs": 1, "run.knn_every": 0, "probe.finetune.epochs": 7, "model.encoder.depth": 4}
    tuned = job(build(settings | {"probe.labels": 0.5}), kinds)
    done: set[Any] = set(forecasting.baselines(tuned))
    seconds = job_seconds(tuned, Counts(100, 20, 10, 0.0), Speed(0.0, 0.1, 0.0), FITS, done)
    assert seconds == pytest.approx(50 * passes * 0.1 + 20 * 0.1)


@pytest.mark.parametrize(("kinds", "passes"), [(("knn",), 1 / 4), (("attentive",), 2 / 4), (("finetune",), 4)])
def test_features_of_a_layer_take_its_share_of_the_blocks(kinds: Any, passes: float) -> None:
    layer = {"probe.layer": 1} if kinds != ("finetune",) else {}
    settings = {"train.epochs": 1, "run.knn_every": 0, "probe.finetune.epochs": 1, "model.encoder.depth": 4}
    probed = job(build(settings | layer), kinds)
    done: set[Any] = set(forecasting.baselines(probed))
    seconds = job_seconds(probed, Counts(100, 0, 10, 0.0), Speed(0.0, 0.1, 0.0), FITS, done)
    assert seconds == pytest.approx(100 * passes * 0.1)


@pytest.mark.parametrize(
    ("labels", "axes"), [({"probe.labels_per_class": 5}, 50), ({"probe.labels": 0.01}, 50), ({}, 1024)]
)
def test_a_linear_fit_has_an_axis_per_feature_or_of_few_labels_per_image(labels: dict[str, Any], axes: int) -> None:
    probed = job(build({"model.encoder.dim": 1024, "probe.features": "patch_mean"} | labels), ("linear",))
    done: set[Any] = set(forecasting.baselines(probed))
    costs = Counts(5000, 0, 10, 0.0), Speed(0.0, 0.0, 0.0), FitSpeed(0.0, 0.0, 1.0)  # a second per cubed axis
    assert probing_seconds(probed, probed.kinds, *costs, done) == pytest.approx(2 * axes**3)


def test_encoders_of_pixels_are_baselines_of_their_own() -> None:
    kinds = [build({"pretext.kind": kind}) for kind in ("mae", "rotation", "igpt_ar", "igpt_bert")]
    small = build({"pretext.kind": "igpt_ar", "igpt.side": 8})
    encoders = [forecasting.baselines(job(config))[0] for config in [*kinds, small]]
    assert len(set(encoders)) == 4
    assert encoders[0] == encoders[1]


def test_the_size_of_a_training_on_principal_components_is_that_on_pixels_at_most() -> None:
    assert size_of(build({"target.kind": "pca"})) == size_of(build({"target.kind": "pixels"}))


@pytest.mark.parametrize("kind", ["igpt_ar", "igpt_bert"])
def test_the_size_of_a_training_on_pixels_is_known_without_an_image(kind: str) -> None:
    large, small = (size_of(build({"pretext.kind": kind, "igpt.side": side})) for side in (32, 16))
    assert large.training > 4 * small.training  # attention grows faster than the pixels do
    assert large.training > 2 * large.encoder


def test_images_that_are_decoded_at_each_use_come_no_faster() -> None:
    counts = Counts(96, 20, 10, 0.0, decoding=7.0)
    config = build({"train.epochs": 2, "run.knn_every": 0})
    assert job_seconds(job(config, ()), counts, Speed(1.0, 0.1, 0.0), FITS, set()) == 2 * 96 * 7


def test_a_baseline_is_paid_for_once() -> None:
    first, second = (job(build({"mask.ratio": ratio})) for ratio in (0.5, 0.75))
    other_seed = job(build({"train.seed": 1}))
    done: set[Any] = set()
    speed, counts = Speed(0.0, 1.0, 0.0), Counts(100, 20, 10, 0.0)
    costs = [job_seconds(each, counts, speed, FitSpeed(1.0, 0.0, 0.0), done) for each in (first, second, other_seed)]
    one = 120 + forecasting.EVALUATIONS
    assert [cost - 4 * (100 + 10 * 10) for cost in costs] == [
        3 * one - 120,
        one,
        2 * one,
    ]  # pixels have no features to compute


def test_workers_take_the_next_job_when_they_are_free() -> None:
    assert makespan([3.0, 1.0, 1.0, 3.0], 1) == 8
    assert makespan([3.0, 1.0, 1.0, 3.0], 2) == 5
    assert makespan([], 2) == 0


def measure(monkeypatch: pytest.MonkeyPatch, fits: FitSpeed = FITS) -> list[Any]:
    """Have processes answer at once: a step takes a millisecond per patch and image, twice that on average of two
    places; return what they are asked."""
    asked: list[Any] = []

    def answer(slots: list[Slot], function: Any, configs: list[Config], *more: Any) -> list[Any]:
        if not more:
            return [[Size(1e9 * config.kept_patches, 1e9, 8) for config in configs]]
        asked.append((len(slots), [config.mask.ratio for config in configs]))
        speeds = [Speed(config.kept_patches / 1000, 0.0, 0.0, 0.1 + config.mask.ratio / 10) for config in configs]
        return [(speeds, fits), ([replace(each, step=3 * each.step) for each in speeds], fits)]

    monkeypatch.setattr(forecasting, "call_in", answer)
    monkeypatch.setattr(forecasting, "count", lambda *arguments: Counts(32, 8, 10, 0.0))
    return asked


def test_a_study_is_forecast_from_two_of_its_trainings_measured_at_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measure(monkeypatch)
    base = build({"train.epochs": 1})
    jobs = make_plan(STUDIES["mask-ratio"], base, 2, lambda data: "digest", tmp_path).jobs
    costs = forecast(jobs, [], [HERE, HERE], tmp_path, Silent())
    assert asked == [(2, [0.9, 0.1])]
    assert [cost.gpu_share for cost in costs] == pytest.approx([0.19] * len(jobs))
    assert [cost.seconds for cost in costs] == pytest.approx([job.config.kept_patches * 32 * 2 / 1000 for job in jobs])


def test_what_is_done_of_a_job_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, FitSpeed(1.0, 0.0, 0.0))
    whole = job(build({"train.epochs": 1}), ("linear", "knn"))
    again = replace(whole, config=change(whole.config, {"probe.layer": 1}))  # the same pretraining, probed otherwise
    work = replace(whole, also=(again,))
    results = [tmp_path / work.fingerprint, *(stage.path for stage in work.stages(tmp_path)[1:])]
    linear = [place for place in results if place.name.startswith("linear-")]
    told = []
    for place in (None, results[0], *linear):
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            (place / "result.json").write_text("{}")
        (cost,) = forecast([work], [], [HERE, HERE], tmp_path, Silent())
        told.append((cost.disk, cost.seconds))
    fit, steps = forecasting.EVALUATIONS, 2 * work.config.kept_patches * 32 / 1000
    assert [disk for disk, _ in told] == [8, 0, 0, 0]
    assert [seconds for _, seconds in told] == pytest.approx([steps + 6 * fit, 6 * fit, 3 * fit, 0])


@pytest.mark.parametrize(("shares", "expected"), [([0.0, 0.0], 0), ([0.1, 0.2], 4), ([0.95], 1), ([], 0)])
def test_trainings_fit_on_a_gpu_beside_one_another_as_the_largest_of_them_does(
    shares: list[float], expected: int
) -> None:
    assert fit_on_a_gpu([Forecast("", 1.0, 1.0, 1, share) for share in shares]) == expected


def threads(device: torch.device) -> tuple[str, int]:
    return device.type, torch.get_num_threads()


def test_calls_have_the_device_and_threads_of_workers() -> None:
    assert call_in([Slot(Path("runs"), "cpu", 8)], threads) == [("cpu", 1)]  # OMP_NUM_THREADS


def fail(device: torch.device, how: str) -> None:
    if how == "dies":
        os._exit(9)
    raise MemoryError("no memory\nfor that")


@pytest.mark.parametrize(("how", "reason"), [("dies", "its process died"), ("raises", "MemoryError: no memory$")])
def test_a_call_that_fails_says_why(how: str, reason: str) -> None:
    with pytest.raises(RunError, match=f"measuring failed: {reason}"):
        call_in([HERE], fail, how)
