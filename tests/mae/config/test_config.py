import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.config.fingerprint import pretrain_fingerprint, probe_fingerprint
from mae.config.kinds import ProbeKind
from mae.config.presets import PRESETS
from mae.config.resolve import build, change, config_fields, flatten, name_run, resolve, to_toml
from mae.config.tree import Config
from mae.errors import UserError


@pytest.mark.parametrize("preset", PRESETS)
def test_a_stored_config_resolves_to_itself(preset: str, tmp_path: Path) -> None:
    config = resolve(preset)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert resolve(file=tmp_path / "config.toml") == config


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[mask]\nratio = 0.5\n[train]\nseed = 3\n")
    config = resolve("cifar10-tiny", tmp_path / "c.toml", ["mask.ratio=0.25"])
    assert (config.mask.ratio, config.train.seed, config.data.channels) == (0.25, 3, 3)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("mask.ratoi=0.5", ["mask.ratoi", "mask.ratio"]),
        ("ratio=0.5", ["'ratio'", "mask.ratio"]),
        ("mask.ratio=1.5", ["mask.ratio=1.5", "below 1"]),
        ("mask.ratio=0.99", ["mask.ratio=0.99", "keeps 0 of 16"]),
        ("mask.ratio=0.01", ["mask.ratio=0.01", "keeps 16 of 16"]),
        ("model.patch_size=3", ["model.patch_size=3", "divisor"]),
        ("model.encoder.heads=5", ["model.encoder.heads=5", "divisor of dim=64"]),
        ("model.encoder.depth=0", ["model.encoder.depth=0", "1"]),
        ("train.epochs=true", ["train.epochs=True", "whole number"]),
        ("train.warmup_epochs=200", ["train.warmup_epochs=200", "at most epochs=40"]),
        ("train.base_lr=nan", ["train.base_lr=nan", "number, above 0"]),
        ("mask=1", ["mask is a table", "mask.ratio"]),
        ("loss.visible_weight=0.2", ["loss.visible_weight", "loss.region=weighted"]),
        ("probe.linear.lars_flip=false", ["probe.linear.lars_flip", "probe.linear.solver=lars"]),
        ("probe.linear.lars_crop_scale=[0.5, 0.2]", ["probe.linear.lars_crop_scale", "low <= high"]),
        ("mask.ratio", ["dotted.key=value"]),
    ],
)
def test_a_bad_setting_names_key_value_and_rule(setting: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(settings=[setting])
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize("augmentation", ["none", "fixed_crop"])
def test_a_crop_scale_without_random_crops_is_refused(augmentation: str) -> None:
    with pytest.raises(
        UserError, match=r"crop_scale.* acts with data\.augmentation=random_resized_crop or color_jitter"
    ):
        resolve(settings=[f"data.augmentation={augmentation}", "data.crop_scale=[0.2, 1.0]"])


def test_a_setting_of_a_preset_that_others_leave_without_effect_goes_back_to_its_default() -> None:
    config = resolve("cifar10-tiny", settings=["data.augmentation=none"])
    assert config.data.crop_scale == Config().data.crop_scale
    assert config.data.channels == 3


def test_without_a_preset_the_default_is_the_digits() -> None:
    assert resolve() == resolve(settings=["data.source=digits"]) == resolve("digits")
    assert (resolve().data.image_size, resolve().data.channels) == ((8, 8), 1)


@pytest.mark.parametrize("source", ["cifar10", "folder:images"])
def test_other_images_alone_are_not_made_small_and_grey_like_the_digits(source: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'data.source = "{source}"')
    config = resolve(settings=[f"data.source={source}"])
    assert config == resolve(file=tmp_path / "c.toml")
    assert (config.data.image_size, config.data.channels, config.grid) == ((32, 32), 3, (8, 8))


NULLABLE = {"train.clip_norm": 1.0, "train.warmup_epochs": 3.0, "data.stored_size": [40, 40], "run.loader_workers": 2}


@pytest.mark.parametrize("key", NULLABLE)
def test_a_key_is_unset_by_a_setting_and_by_a_file(key: str, tmp_path: Path) -> None:
    given = build({key: NULLABLE[key]})
    assert change(given, {key: "unset"}) == Config()
    (tmp_path / "c.toml").write_text(f'{key} = "unset"')
    assert resolve(file=tmp_path / "c.toml", settings=[f"{key}={NULLABLE[key]}"]) != resolve()
    assert (
        resolve(settings=[f"{key}={NULLABLE[key]}", f"{key}=unset"]) == resolve(file=tmp_path / "c.toml") == resolve()
    )


def test_what_a_preset_gives_can_be_unset_and_the_name_says_so() -> None:
    config = resolve("imagenet-vit-b", settings=["data.mean=unset", "data.std=unset"])
    assert (config.data.mean, config.data.std) == (None, None)
    assert name_run(config) == "imagenet-vit-b data.mean=unset data.std=unset seed=0"


@pytest.mark.parametrize("key", ["mask.ratio", "data.source", "train.deterministic", "target.kind"])
def test_a_key_that_cannot_be_unset_says_so_and_which_can(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}=unset: it cannot be unset; keys that can: .*train\.clip_norm"):
        resolve(settings=[f"{key}=unset"])


@pytest.mark.parametrize("key", [key for key, _ in config_fields()])
def test_a_mistyped_key_is_refused_with_the_right_one(key: str) -> None:
    with pytest.raises(UserError, match="did you mean"):
        build({key[:-1]: 1})


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 0.99))
def test_an_accepted_mask_keeps_and_hides_at_least_one_patch(rows: int, columns: int, ratio: float) -> None:
    settings = {"data.image_size": [4 * rows, 4 * columns], "mask.ratio": ratio}
    try:
        config = build(settings)
    except UserError:
        kept = round(rows * columns * (1 - ratio))
        assert kept in (0, rows * columns)
    else:
        assert 1 <= config.kept_patches < config.patches


def test_the_name_says_what_differs_from_the_preset() -> None:
    assert name_run(resolve("cifar10-tiny", settings=["mask.ratio=0.9"])) == "cifar10-tiny mask.ratio=0.9 seed=0"


def test_the_name_leaves_out_what_has_no_effect() -> None:
    name = name_run(resolve("imagenet-vit-b", settings=["pretext.kind=rotation"]))
    assert name == "imagenet-vit-b pretext.kind=rotation seed=0"


def test_a_run_near_no_preset_is_not_named_after_one() -> None:
    config = resolve(settings=["data.source=cifar10", "mask.ratio=0.5"])
    assert name_run(config) == "cifar10 as defaults mask.ratio=0.5 seed=0"


@pytest.mark.parametrize("key", [key for key, _ in config_fields() if key.startswith(("run.", "probe.knn"))])
def test_what_changes_no_weight_changes_no_fingerprint(key: str) -> None:
    value = (flatten(Config().model_dump())[key] or 0) * 2 + 1
    assert pretrain_fingerprint(build({key: value}), "d") == pretrain_fingerprint(Config(), "d")


def test_toml_is_valid_and_complete() -> None:
    keys = flatten(tomllib.loads(to_toml(Config()))).keys()
    optional = {
        "data.stored_size",
        "data.mean",
        "data.std",
        "data.frames",
        "data.stored_frames",
        "target.tokenizer",
        "train.init_from",
        "train.clip_norm",
        "train.warmup_epochs",
        "probe.linear.lars_warmup_epochs",
        "probe.labels_per_class",
        "probe.layer",
        "probe.source",
        "probe.attentive.warmup_epochs",
        "probe.finetune.warmup_epochs",
        "run.loader_workers",
    }
    assert {key for key, _ in config_fields()} - keys == optional


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"probe.partial.blocks": 1.5}, r"probe\.partial\.blocks=1\.5: expected a whole number, or 0\.5"),
        ({"probe.finetune.crop_scale": [0.5, 0.2]}, r"probe\.finetune\.crop_scale=.*: expected 0 < low"),
        ({"probe.finetune.warmup_epochs": 51.0}, r"probe\.finetune\.warmup_epochs=51\.0: expected at most epochs=50"),
        ({"probe.finetune.augment": False, "probe.finetune.mixup": 0.8}, r"it acts with probe\.finetune\.augment=true"),
        ({"probe.kinds": ["attentive"], "probe.attentive.queries": 5}, r"attentive\.queries=5: expected a divisor"),
    ],
)
def test_impossible_fits_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(settings)


def test_fine_tuning_on_imagenet_is_the_papers() -> None:
    """Table 9."""
    for name, epochs, drop_path in (("b", 100, 0.1), ("l", 50, 0.1), ("h", 50, 0.2)):
        recipe = resolve(f"imagenet-vit-{name}").probe.finetune
        assert (recipe.epochs, recipe.warmup, recipe.drop_path) == (epochs, epochs / 20, drop_path)
        assert (recipe.base_lr, recipe.weight_decay, recipe.batch_size) == (1e-3, 0.05, 1024)
        assert (recipe.layer_decay, recipe.smoothing, recipe.mixup, recipe.cutmix) == (0.75, 0.1, 0.8, 1.0)


def test_queries_that_do_not_fit_the_encoder_matter_to_the_attentive_probe_only() -> None:
    assert build({"probe.attentive.queries": 5}).probe.attentive.queries == 5


def test_a_table_given_in_part_keeps_the_rest_of_its_defaults() -> None:
    assert build({"model.decoder.depth": 3}).model.decoder.dim == Config().model.decoder.dim


def test_warm_up_follows_the_epochs_unless_it_is_set() -> None:
    assert build({"train.epochs": 800}).train.warmup == 40
    assert build({"train.epochs": 800, "train.warmup_epochs": 10.0}).train.warmup == 10


def test_the_lars_probe_warms_up_for_a_ninth_of_its_epochs_unless_told_otherwise() -> None:
    lars = {"probe.linear.solver": "lars"}
    assert build(lars | {"probe.linear.lars_epochs": 5}).probe.linear.lars_warmup == 5 / 9
    assert build(lars | {"probe.linear.lars_warmup_epochs": 1.0}).probe.linear.lars_warmup == 1


def test_an_equal_warm_up_is_the_same_probe() -> None:
    implied, said = (
        build({"probe.linear.solver": "lars"} | more) for more in ({}, {"probe.linear.lars_warmup_epochs": 10.0})
    )
    assert probe_fingerprint(implied, "linear", "s") == probe_fingerprint(said, "linear", "s")


@pytest.mark.parametrize(
    ("kind", "solver", "acts"),
    [("knn", "lbfgs", True), ("knn", "lars", True), ("linear", "lbfgs", True), ("linear", "lars", False)],
)
def test_the_share_held_out_identifies_the_probes_that_hold_images_out(
    kind: ProbeKind, solver: str, acts: bool
) -> None:
    tenth, fifth = (build({"probe.linear.solver": solver, "probe.holdout_fraction": share}) for share in (0.1, 0.2))
    assert (probe_fingerprint(tenth, kind, "s") != probe_fingerprint(fifth, kind, "s")) == acts


def test_an_equal_warm_up_is_the_same_run() -> None:
    implied, said = build({"train.epochs": 40}), build({"train.epochs": 40, "train.warmup_epochs": 2.0})
    assert pretrain_fingerprint(implied, "d") == pretrain_fingerprint(said, "d")
