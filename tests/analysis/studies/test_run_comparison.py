"""`mae-cli compare`: which runs repeat a config, and how configs are told apart."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.statistics.comparisons import compare
from analysis.studies.run_comparison import Probed, compare_runs, config_differences, tell_differences
from cli import app
from mae.config.resolve import build, to_toml
from mae.runs.directory import Record, RunDirectory


def probed(accuracies: Mapping[str, Mapping[int, float]], kind: str = "knn", settings: str = "") -> list[Probed]:
    """Return results by config and seed."""
    return [
        Probed(kind, settings, config, seed, top1) for config, runs in accuracies.items() for seed, top1 in runs.items()
    ]


def make_run(runs_dir: Path, name: str, seed: int, top1: float, probe: Any = None, **settings: Any) -> str:
    """Make a run of which k-NN, with settings of its own, has found `top1`; return its name."""
    run = RunDirectory(runs_dir / name)
    overrides = {key.replace("__", "."): value for key, value in settings.items()} | {"train.seed": seed}
    for place, config in ((run, build(overrides)), (run.probe("knn-1"), build(overrides | (probe or {})))):
        place.path.mkdir(parents=True)
        data = {"source": "digits", "digest": "d" * 64}
        place.write_record(Record(stage="pretrain", name=name, fingerprint=name, status="finished", data=data))
        place.write_text("config.toml", to_toml(config))
    run.write_json("result.json", {"metrics": {"cost/steps": 1}})
    run.probe("knn-1").write_json("result.json", {"metrics": {"knn/top1": top1}})
    return name


def two_configs(runs_dir: Path) -> list[str]:
    """Four runs: two seeds of the default config, two of mask ratio 0.5, which is 5 points better in both."""
    accuracies = {("a", 0.75): [60.0, 70.0], ("b", 0.5): [65.1, 74.9]}
    return [
        make_run(runs_dir, f"{name}{seed}", seed, top1, mask__ratio=ratio)
        for (name, ratio), values in accuracies.items()
        for seed, top1 in enumerate(values)
    ]


def test_runs_that_differ_in_their_seed_alone_repeat_a_config_and_configs_are_told_apart(tmp_path: Path) -> None:
    (line,) = config_differences(tmp_path, two_configs(tmp_path))
    assert line.startswith("k-NN: difference from mask.ratio=0.75 (2 runs) in points: mask.ratio=0.5 (2 runs) ▲ +5.0 (")
    assert line.endswith("seeds are blocks, Dunnett's correction, all intervals hold together with 95 %")


def test_the_first_runs_config_is_what_the_others_are_compared_with(tmp_path: Path) -> None:
    (line,) = config_differences(tmp_path, two_configs(tmp_path)[::-1])
    assert line.startswith("k-NN: difference from mask.ratio=0.5 (2 runs) in points: mask.ratio=0.75 (2 runs) ▼ -5.0 (")


def test_what_one_run_leaves_unset_is_told_as_people_write_it(tmp_path: Path) -> None:
    names = [make_run(tmp_path, name, 0, 60.0, **more) for name, more in (("a", {}), ("b", {"train__clip_norm": 1.0}))]
    assert compare_runs(tmp_path, names).loc["train.clip_norm"].tolist() == ["unset", "1.0"]
    (line,) = config_differences(tmp_path, names)
    assert "difference from train.clip_norm=unset (1 run) in points: train.clip_norm=1.0 (1 run)" in line


def test_seeds_of_one_config_have_nothing_to_tell(tmp_path: Path) -> None:
    assert config_differences(tmp_path, two_configs(tmp_path)[:2]) == []


def test_how_a_run_was_executed_makes_no_other_config_of_it(tmp_path: Path) -> None:
    names = [make_run(tmp_path, "a0", 0, 60.0), make_run(tmp_path, "a1", 1, 61.0, run__checkpoint_seconds=1.0)]
    assert config_differences(tmp_path, names) == []


def test_runs_that_were_probed_in_different_ways_are_not_mixed(tmp_path: Path) -> None:
    names = two_configs(tmp_path)
    other = [make_run(tmp_path, f"c{seed}", seed, 90.0, {"probe.knn.k": 5}, mask__ratio=0.5) for seed in (2, 3)]
    assert config_differences(tmp_path, [*names, *other]) == config_differences(tmp_path, names)
    assert config_differences(tmp_path, [*names[:2], *other]) == [
        "k-NN: not compared, as no other config was probed in the same way as mask.ratio=0.75"
    ]


def test_few_labels_that_each_seed_draws_for_itself_are_one_way_of_probing(tmp_path: Path) -> None:
    names = [
        make_run(
            tmp_path, f"{ratio}{seed}", seed, 60 + seed, {"probe.labels": 0.1, "probe.seed": seed}, mask__ratio=ratio
        )
        for ratio in (0.5, 0.75)
        for seed in (0, 1)
    ]
    (line,) = config_differences(tmp_path, names)
    assert line.startswith("k-NN with probe.labels=0.1: difference from mask.ratio=0.5 (2 runs) in points")


def test_probes_of_one_run_that_differ_in_their_seed_are_one_value(tmp_path: Path) -> None:
    names = two_configs(tmp_path)
    (before,) = config_differences(tmp_path, names)
    for name in names:
        again = RunDirectory(tmp_path / name).probe("knn-2")
        shutil.copytree(RunDirectory(tmp_path / name).probe("knn-1").path, again.path)
        again.write_text("config.toml", to_toml(build({"probe.seed": 1})))
    assert config_differences(tmp_path, names) == [before]


def test_a_probe_with_settings_of_its_own_is_named_by_them() -> None:
    results = probed({"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 3.9}}, settings="probe.knn.k=5")
    assert tell_differences(results, "a")[0].startswith("k-NN with probe.knn.k=5: difference from a (2 runs)")


def test_one_seed_each_is_said_to_tell_nothing_from_noise() -> None:
    assert tell_differences(probed({"a": {0: 60.0}, "b": {0: 61.0}}, "linear"), "a") == [
        "linear: difference from a (1 run) in points: b (1 run) +1.0; one seed each: no difference is told from noise"
    ]


def test_seeds_of_their_own_are_no_blocks_and_it_is_said() -> None:
    (line,) = tell_differences(probed({"a": {0: 60.0, 1: 61.0}, "b": {2: 60.0, 3: 61.5}}), "a")
    assert "no blocks, as the configs are not linked by common seeds" in line


def test_intervals_are_those_of_all_configs_together() -> None:
    accuracies = {"a": {0: 60.0, 1: 61.0}, "b": {0: 62.0, 1: 63.2}, "c": {0: 59.5, 1: 61.0}}
    made = compare([60.0, 61.0, 62.0, 63.2, 59.5, 61.0], [*"aabbcc"], [0, 1] * 3, "a").differences["c"]
    assert f"c (2 runs) ≈ -0.2 ({made.low:+.1f} to {made.high:+.1f})" in tell_differences(probed(accuracies), "a")[0]


def test_where_the_model_does_not_fit_the_other_test_is_named_and_why() -> None:
    accuracies = {
        name: {seed: scale * value for seed, value in enumerate((1.0, 2.0, 4.1, 7.9 + scale / 100))}
        for name, scale in {"a": 1, "b": 2, "c": 9}.items()
    }
    line, why = tell_differences(probed(accuracies), "a")
    assert "compared by the differences within seeds" in line
    assert "seeds act differently" in why


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_command_tells_differences_below_the_table_and_as_json(as_json: list[str], tmp_path: Path) -> None:
    names = two_configs(tmp_path)
    result = CliRunner().invoke(app, ["compare", *names, "--runs-dir", str(tmp_path), *as_json])
    assert result.exit_code == 0, result.output
    told = config_differences(tmp_path, names)
    assert told[0] in result.output
    if as_json:
        assert json.loads(result.stdout.splitlines()[-1])["differences"] == told
