from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from ablations.sweeps.space import (
    Parameter,
    Space,
    check_space,
    default_space,
    grid,
    point_of,
    read_space,
    suggest,
    to_toml,
)
from mae.config.presets import PRESETS
from mae.config.resolve import build, change, resolve
from mae.config.tree import Config
from mae.errors import UserError

CONDITIONAL = """
[loss.region]
type = "categorical"
choices = ["masked", "weighted"]

["loss.visible_weight"]
type = "float"
low = 0.25
high = 0.75
step = 0.25
when = {"loss.region" = "weighted"}
"""


def space(text: str, folder: Path) -> Space:
    file = folder / "space.toml"
    file.write_text(text)
    return read_space(file)


def trials(space: Space, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(space, study.ask()) for _ in range(count)]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "moving-digits"])  # which has no `mae`
def test_the_default_space_fits_every_preset_and_holds_its_config(preset: str) -> None:
    base = resolve(preset)
    check_space(default_space(base), base)
    point = point_of(default_space(base), base)
    assert point is not None
    assert change(base, point) == base
    for chosen in trials(default_space(base), 50):
        change(base, chosen)


def test_a_space_written_to_a_file_is_read_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(to_toml(default_space(resolve())))
    assert read_space(tmp_path / "space.toml") == default_space(resolve())


def test_the_default_space_leaves_out_what_is_fixed() -> None:
    keys = [parameter.key for parameter in default_space(Config(), ["mask.ratio"])]
    assert "mask.ratio" not in keys
    assert "loss.region" in keys


def test_the_default_space_of_another_pretext_task_is_refused_saying_what_to_give() -> None:
    with pytest.raises(UserError, match=r"pretext\.kind=rotation; give --space FILE .*`mae-cli config --schema`"):
        default_space(change(Config(), {"pretext.kind": "rotation"}))


def test_a_space_with_unset_holds_a_config_where_it_is(tmp_path: Path) -> None:
    made = space('[train.clip_norm]\ntype = "categorical"\nchoices = ["unset", 1.0]', tmp_path)
    check_space(made, Config())
    assert point_of(made, Config()) == {"train.clip_norm": "unset"}
    assert change(Config(), {"train.clip_norm": "unset"}) == Config()


def test_a_parameter_exists_only_under_its_condition(tmp_path: Path) -> None:
    made = space(CONDITIONAL, tmp_path)
    check_space(made, Config())
    for chosen in trials(made, 20):
        assert ("loss.visible_weight" in chosen) == (chosen["loss.region"] == "weighted")
        change(Config(), chosen)


def test_a_grid_has_every_point_once(tmp_path: Path) -> None:
    points = grid(space(CONDITIONAL, tmp_path))
    assert points == [{"loss.region": "masked"}] + [
        {"loss.region": "weighted", "loss.visible_weight": weight} for weight in (0.25, 0.5, 0.75)
    ]


def test_a_grid_of_a_continuous_parameter_is_refused() -> None:
    with pytest.raises(UserError, match=r"mask\.ratio .* step"):
        grid((Parameter("mask.ratio", FloatDistribution(0.1, 0.9)),))


def test_stepped_values_are_those_a_study_would_write() -> None:
    values = {chosen["mask.ratio"] for chosen in trials(default_space(Config()), 200)}
    assert values == {share / 20 for share in range(2, 19)}


def test_a_config_outside_the_space_has_no_point(tmp_path: Path) -> None:
    made = space('[mask.ratio]\ntype = "float"\nlow = 0.8\nhigh = 0.9', tmp_path)
    assert point_of(made, Config()) is None
    assert point_of(made, build({"mask.ratio": 0.85})) == {"mask.ratio": 0.85}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[mask.ration]\ntype = "float"\nlow = 0.1\nhigh = 0.9', "did you mean 'mask.ratio'"),
        ('[mask.ratio]\ntype = "float"\nlow = 0.1\nhigh = 1.2', "mask.ratio=1.2: expected number, above 0, below 1"),
        ('[mask.ratio]\ntype = "float"\nlow = 0.9\nhigh = 0.1', "mask.ratio: .*low <= high"),
        ('[mask.ratio]\ntype = "float"\nlow = 0.1\nhigh = 0.9\nstep = 0.3', "not divisible by `step`"),
        ('[mask.ratio]\ntype = "float"\nlow = 0.5\nhigh = 0.999', "mask.ratio=0.999: keeps 0 of 64 patches"),
        ('[mask.ratio]\ntype = "float"\nlow = 0.1', "mask.ratio.high: Field required"),
        ('[mask.ratio]\ntype = "flaot"\nlow = 0.1', "flaot"),
        ("[mask]\nratio = 0.5", "mask.ratio=0.5: expected a table"),
        ("", "expected a table per key"),
        ("[mask", "not valid TOML"),
        ('[model.decoder.dim]\ntype = "int"\nlow = 16\nhigh = 30', "model.decoder.dim=17: .* multiple of 4"),
        ('[model.encoder.heads]\ntype = "int"\nlow = 1\nhigh = 3', "heads=3: expected a divisor of dim=64"),
        ('[train.epochs]\ntype = "float"\nlow = 1.5\nhigh = 9.5', "train.epochs=1.5: .*whole number"),
        ('[mask.sampling]\ntype = "categorical"\nchoices = ["random", "blok"]', "mask.sampling=blok"),
        ('[run.log_every]\ntype = "int"\nlow = 1\nhigh = 9', "run.log_every changes no result"),
        ('[loss.visible_weight]\ntype = "float"\nlow = 0.1\nhigh = 0.9', "loss.visible_weight=0.1 has no effect"),
        (CONDITIONAL.split("when")[0], "acts with loss.region=weighted only; give it when"),
        (CONDITIONAL.replace('when = {"loss.region', 'when = {"loss.regoin'), "no key of this space, did you mean"),
        (CONDITIONAL.replace('= "weighted"}', '= ["masked", "weighted"]}'), "region=weighted only; give it when"),
        (CONDITIONAL.replace('= "weighted"}', '= "al"}'), "which loss.region never is"),
    ],
)
def test_an_impossible_space_is_refused_saying_why(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        check_space(space(text, tmp_path), Config())


def test_conditions_in_a_circle_are_refused(tmp_path: Path) -> None:
    one, other = ("mask.sampling", "loss.region")
    table = '["{}"]\ntype = "categorical"\nchoices = ["random"]\nwhen = {{"{}" = "random"}}\n'
    with pytest.raises(UserError, match="each exists only when the next does"):
        space(table.format(one, other) + table.format(other, one), tmp_path)


def test_a_value_that_goes_with_another_parameter_is_possible(tmp_path: Path) -> None:
    text = '[model.encoder.heads]\ntype = "categorical"\nchoices = [4, 5]\n'
    with pytest.raises(UserError, match="heads=5"):
        check_space(space(text, tmp_path), Config())
    check_space(space(text + '[model.encoder.dim]\ntype = "categorical"\nchoices = [64, 80]\n', tmp_path), Config())


def test_a_key_searched_over_and_fixed_is_refused() -> None:
    with pytest.raises(UserError, match="leave out one of the two"):
        check_space((Parameter("mask.ratio", FloatDistribution(0.1, 0.9)),), Config(), ["mask.ratio"])
