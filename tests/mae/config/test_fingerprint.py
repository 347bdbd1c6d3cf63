"""Which settings identify a pretraining and a probe: all that can change its numbers, and no others."""

from contextlib import suppress
from typing import Any

import pytest
from pydantic import TypeAdapter

from mae.config.fingerprint import (
    BEFORE,
    pretrain_fingerprint,
    pretrain_settings,
    probe_fingerprint,
    untrained_fingerprint,
)
from mae.config.kinds import CLIP_KINDS, ProbeKind
from mae.config.reference import schema
from mae.config.resolve import ACTS_WHEN, build, change, config_fields, flatten, resolve
from mae.config.tree import Config
from mae.errors import UserError

LEFT_OUT = {
    *("data.source", "data.test_fraction", "data.split_seed"),  # the digest of the data has what they come to
    *("data.stored_size", "data.stored_frames", "data.std"),  # some values come to the same; cannot be set alone
}
CLIPS = {"data.source": "moving_digits", "data.frames": 8, "data.stored_frames": 100}
OF_CLIPS = ("data.frames", "data.stored_frames", "data.frame_stride", "model.tubelet")
KEYS = [key for key, _ in config_fields() if not key.startswith(("run.", "probe.")) and key not in LEFT_OUT]


def values(schema: dict[str, Any]) -> list[Any]:
    """Return values of a JSON-schema node, some of which break its rules."""
    match schema:
        case {"anyOf": options}:
            return [value for option in options for value in values(option)]
        case {"enum": names}:
            return list(names)
        case {"type": "array", "prefixItems": [item, _]}:
            return [[low, high] for low in values(item) for high in values(item)]
        case {"type": "array", "prefixItems": [item, *more]}:
            return [[value, *[0.3] * len(more)] for value in values(item)]
        case {"type": "array", "items": item}:
            return [[value] for value in values(item)]
        case {"type": "integer"}:
            return [1, 2, 3, 4, 8, 16, 24, 32, 64, 100]
        case {"type": "number"}:
            return [0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 7.5]
        case {"type": "boolean"}:
            return [False, True]
        case {"type": "string"}:
            return ["3fa9c1", "4fa9c1"]
        case {"type": "null"}:
            return [None]
    raise AssertionError(f"no values known for {schema}")


def variants(key: str) -> list[Config]:
    """Return all configs that differ in `key` alone, where it acts, in a value that is allowed."""
    grey: dict[str, Any] = {"data.channels": 1, "data.std": [0.2], "data.mean": [0.3]}
    base = grey if key == "data.mean" else {}
    base |= {other: needed[0] for other, needed in ACTS_WHEN.get(key, {}).items()}
    if base.get("pretext.kind") == "beit":
        base["target.tokenizer"] = "0123"
    if key in OF_CLIPS or base.get("pretext.kind") in CLIP_KINDS:
        base = CLIPS | {"pretext.kind": "video_mae"} | base
    found = []
    for value in values(TypeAdapter(dict(config_fields())[key].annotation).json_schema()):
        with suppress(UserError):
            found.append(build(base | {key: value}, refuse_inert=False))
    return found


@pytest.mark.parametrize("key", KEYS)
def test_every_value_of_a_setting_that_changes_numbers_has_a_fingerprint_of_its_own(key: str) -> None:
    configs = variants(key)
    assert len(configs) > 1
    assert len({pretrain_fingerprint(config, "d") for config in configs}) == len(configs)


@pytest.mark.parametrize("fingerprint", [pretrain_fingerprint, untrained_fingerprint])
@pytest.mark.parametrize(
    "settings",
    [
        {"data.stored_size": 32},
        {"data.source": "folder:elsewhere"},
        {"data.test_fraction": 0.3},
        {"data.split_seed": 1},
    ],
)
def test_what_changes_no_number_changes_no_fingerprint(settings: dict[str, Any], fingerprint: Any) -> None:
    assert fingerprint(build(settings), "d") == fingerprint(Config(), "d")


def test_a_stored_size_other_than_the_image_size_changes_the_fingerprint() -> None:
    assert pretrain_fingerprint(build({"data.stored_size": 33}), "d") != pretrain_fingerprint(Config(), "d")


@pytest.mark.parametrize("augmentation", ["none", "fixed_crop"])
def test_the_scale_of_crops_that_are_not_made_changes_no_fingerprint(augmentation: str) -> None:
    configs = [build({"data.augmentation": augmentation}) for _ in range(2)]
    configs[1] = configs[1].model_copy(update={"data": configs[1].data.model_copy(update={"crop_scale": (0.1, 0.2)})})
    assert pretrain_fingerprint(configs[0], "d") == pretrain_fingerprint(configs[1], "d")


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"model.encoder.depth": 3}, False),
        ({"data.mean": [0.3, 0.3, 0.3], "data.std": [0.2, 0.2, 0.2]}, False),
        ({"train.seed": 1}, False),
        ({"model.decoder.depth": 3}, True),
        ({"mask.ratio": 0.5, "train.epochs": 7, "loss.region": "all"}, True),
    ],
)
def test_an_untrained_encoder_is_known_by_its_data_its_shape_and_its_seed(settings: dict[str, Any], same: bool) -> None:
    assert (untrained_fingerprint(build(settings), "d") == untrained_fingerprint(Config(), "d")) == same


LARS = {"probe.linear.solver": "lars"}


@pytest.mark.parametrize(
    ("kind", "base", "changed", "same"),
    [
        ("knn", {}, {"probe.knn.k": 3}, False),
        ("knn", {}, {"probe.linear.penalties": [0.5]}, True),
        ("knn", {}, {"probe.holdout_fraction": 0.4}, False),
        ("knn", {}, {"probe.features": "both"}, False),
        ("knn", {}, {"probe.seed": 7}, False),
        ("knn", {}, {"probe.kinds": ["knn"]}, True),
        ("knn", {}, {"model.encoder.depth": 3, "train.seed": 3}, True),  # the subject's fingerprint has them
        ("linear", {}, {"probe.linear.penalties": [0.5]}, False),
        ("linear", {}, {"probe.holdout_fraction": 0.4}, False),
        ("linear", {}, {"probe.seed": 7}, False),
        ("linear", {}, {"probe.knn.k": 3}, True),
        ("linear", LARS, {"probe.holdout_fraction": 0.4}, True),  # LARS holds no image out
        ("linear", LARS, {"probe.linear.lars_warmup_epochs": 3.0}, False),
        ("linear", LARS, {"probe.linear.lars_epochs": 8}, False),
        ("linear", LARS, {"probe.labels": 0.1}, False),
        ("knn", {}, {"probe.labels": 1.0}, True),
        ("knn", {}, {"probe.labels_per_class": 5}, False),
        ("linear", {}, {"probe.finetune.epochs": 7, "probe.attentive.queries": 4, "probe.partial.blocks": 2.0}, True),
        ("finetune", {}, {"probe.finetune.mixup": 0.8}, False),
        ("finetune", {}, {"probe.finetune.warmup_epochs": 2.5}, True),  # a twentieth of 50 epochs
        ("finetune", {}, {"probe.features": "both"}, False),
        ("finetune", {}, {"probe.holdout_fraction": 0.4}, False),
        ("finetune", {}, {"probe.partial.blocks": 2.0}, True),
        ("partial", {}, {"probe.finetune.mixup": 0.8}, False),
        ("partial", {}, {"probe.partial.blocks": 0.5}, False),
        ("partial", {"probe.partial.blocks": 4.0}, {"probe.partial.blocks": 24.0}, True),  # all there are
        ("knn", {}, {"probe.layer": 2}, False),
        ("linear", {}, {"probe.layer": 1}, False),
        ("linear", {}, {"probe.layer": 4}, True),  # the last block
        ("attentive", {}, {"probe.layer": 2}, False),
        ("finetune", {}, {"probe.layer": 2}, True),
        ("partial", {}, {"probe.layer": 2}, True),
        ("attentive", {}, {"probe.attentive.queries": 4}, False),
        ("attentive", {}, {"probe.features": "both"}, True),  # it reads patches
    ],
)
def test_a_probe_is_known_by_what_can_change_its_result(
    kind: ProbeKind, base: dict[str, Any], changed: dict[str, Any], same: bool
) -> None:
    before, after = (probe_fingerprint(build(settings), kind, "0123") for settings in (base, base | changed))
    assert (before == after) == same


@pytest.mark.parametrize("key", [key for key in BEFORE if not key.startswith("probe.")])
def test_a_key_that_came_later_changes_no_fingerprint_at_the_value_that_means_as_before(key: str) -> None:
    acting = {other: needed[0] for other, needed in ACTS_WHEN.get(key, {}).items()}
    earlier = build(acting | {key: BEFORE[key]})
    assert key not in pretrain_settings(earlier, "d")
    others = [config for config in variants(key) if value_of(config, key) != BEFORE[key]]
    assert all(key in pretrain_settings(config, "d") for config in others)
    assert others


def value_of(config: Config, key: str) -> Any:
    return flatten(config.model_dump(mode="json"))[key]


PIXELS = {"pretext.kind": "igpt_bert"}


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"igpt.side": 16}, False),
        ({"igpt.colors": 64}, False),
        ({"pretext.kind": "igpt_ar"}, False),
        ({"model.encoder.depth": 3}, False),
        ({"pretext.kind": "mae"}, False),
        ({"igpt.mask_ratio": 0.5, "train.epochs": 7}, True),
    ],
)
def test_an_untrained_encoder_of_pixels_is_known_by_what_makes_its_tokens_too(
    settings: dict[str, Any], same: bool
) -> None:
    found = untrained_fingerprint(change(build(PIXELS), settings), "d")
    assert (found == untrained_fingerprint(build(PIXELS), "d")) == same


def test_how_a_denoising_loss_reads_patches_changes_nothing_where_all_pixels_are_noisy() -> None:
    with pytest.raises(UserError, match=r"loss\.region=all has no effect: it acts with denoise\.noise=masked_pixels"):
        build({"pretext.kind": "denoise", "loss.region": "all"})
    build({"pretext.kind": "denoise", "denoise.noise": "masked_pixels", "loss.region": "all"})


def test_a_key_that_does_not_act_keeps_no_other_from_acting() -> None:
    assert "mask.ratio" in pretrain_settings(Config(), "d")
    assert "mask.ratio" not in pretrain_settings(build({"pretext.kind": "denoise"}), "d")
    patches = build({"pretext.kind": "denoise", "denoise.noise": "masked_patches", "mask.ratio": 0.5})
    assert pretrain_settings(patches, "d")["mask.ratio"] == 0.5


def test_a_condition_that_holds_for_one_task_only_is_told_so() -> None:
    rows = {row["key"]: row["description"] for row in schema()}
    patches = "acts with pretext.kind=mae or denoise or video_mae and denoise.noise=masked_patches where that acts"
    assert rows["mask.ratio"].endswith(patches)
    assert rows["denoise.deviation"].endswith("acts with pretext.kind=denoise and denoise.noise=gaussian")


def test_an_untrained_encoder_without_positions_is_another_one() -> None:
    tiles, patches = (build({"pretext.kind": "jigsaw", "jigsaw.pieces": pieces}) for pieces in ("tiles", "patches"))
    assert untrained_fingerprint(tiles, "d") == untrained_fingerprint(build({"pretext.kind": "rotation"}), "d")
    assert untrained_fingerprint(patches, "d") != untrained_fingerprint(tiles, "d")


ROTATION = {"pretext.kind": "rotation"}
CONTEXT = {"model.decoder.mixing": "convolutions", "model.decoder.global_token": True, "model.decoder.fusion": [1]}


@pytest.mark.parametrize(
    ("kind", "preset", "settings", "fingerprint"),
    [
        ("pretrain", "digits", {}, "aa787b9146ca"),
        ("pretrain", "digits", ROTATION, "f658f43fee98"),
        ("pretrain", "digits", {"pretext.kind": "denoise"}, "757e53f4d73e"),
        ("pretrain", "digits", {"pretext.kind": "inpaint"}, "5772cf66667a"),
        ("pretrain", "digits", {"target.kind": "low_pass"}, "7a34b80193e5"),
        ("pretrain", "digits", {"mask.sampling": "colored_noise"}, "a3009ef37f11"),
        ("pretrain", "digits", CONTEXT, "282dfce7b7be"),
        ("pretrain", "cifar10-tiny", {}, "d4c0a7bc4ee1"),
        ("pretrain", "cifar10-tiny", ROTATION, "054ca550de2f"),
        ("pretrain", "imagenet-vit-b", {}, "8843153ac7c0"),
        ("untrained", "digits", {}, "b13714f5b50b"),
        ("untrained", "cifar10-tiny", {}, "99fc115e6c65"),
        ("knn", "digits", {}, "dff562b96895"),
        ("linear", "digits", {}, "fa68e0825972"),
        ("linear", "digits", LARS, "7d052b3cccc3"),
        ("linear", "imagenet-vit-b", {}, "d99820ee9d9d"),
    ],
)
def test_fingerprints_are_those_of_earlier_versions(
    kind: str, preset: str, settings: dict[str, Any], fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No result of an earlier version is found where this fails: a new key or another preset has that price."""
    monkeypatch.setattr("mae.config.fingerprint.ARITHMETIC", 0)
    config = change(resolve(preset), settings)
    match kind:
        case "pretrain":
            found = pretrain_fingerprint(config, "d")
        case "untrained":
            found = untrained_fingerprint(config, "d")
        case _:
            found = probe_fingerprint(config, kind, "0123")  # type: ignore[arg-type]
    assert found == fingerprint
