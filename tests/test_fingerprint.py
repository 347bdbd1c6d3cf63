"""Which settings identify a pretraining: all that can change its numbers, and no others."""

from contextlib import suppress
from typing import Any

import pytest
from pydantic import TypeAdapter

from mae.config import Config
from mae.config_sources import INERT_UNLESS, build, change, config_fields
from mae.errors import UserError
from mae.fingerprint import pretrain_fingerprint, untrained_fingerprint

LEFT_OUT = {
    *("data.source", "data.test_fraction", "data.split_seed"),  # the digest of the data has what they come to
    *("data.stored_size", "data.std"),  # some values come to the same; cannot be set alone
}
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
        case {"type": "array", "items": item}:
            return [[value] for value in values(item)]
        case {"type": "integer"}:
            return [1, 2, 3, 4, 8, 16, 24, 32, 64, 100]
        case {"type": "number"}:
            return [0.1, 0.25, 0.5, 0.75, 1.0, 7.5]
        case {"type": "boolean"}:
            return [False, True]
        case {"type": "null"}:
            return [None]
    raise AssertionError(f"no values known for {schema}")


def variants(key: str) -> list[Config]:
    """Return all configs that differ in `key` alone, where it acts, in a value that is allowed."""
    base: dict[str, Any] = {"data.std": [0.2], "data.mean": [0.3]} if key == "data.mean" else {}
    if key in INERT_UNLESS:
        other, needed = INERT_UNLESS[key]
        base[other] = needed[0]
    found = []
    for value in values(TypeAdapter(dict(config_fields())[key].annotation).json_schema()):
        with suppress(UserError):
            found.append(change(build(base), {key: value}))
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
        {"data.stored_size": 8},
        {"data.source": "folder:elsewhere"},
        {"data.test_fraction": 0.3},
        {"data.split_seed": 1},
    ],
)
def test_what_changes_no_number_changes_no_fingerprint(settings: dict[str, Any], fingerprint: Any) -> None:
    assert fingerprint(build(settings), "d") == fingerprint(Config(), "d")


def test_a_stored_size_other_than_the_image_size_changes_the_fingerprint() -> None:
    assert pretrain_fingerprint(build({"data.stored_size": 9}), "d") != pretrain_fingerprint(Config(), "d")


@pytest.mark.parametrize("augmentation", ["none", "fixed_crop"])
def test_the_scale_of_crops_that_are_not_made_changes_no_fingerprint(augmentation: str) -> None:
    configs = [build({"data.augmentation": augmentation}) for _ in range(2)]
    configs[1] = configs[1].model_copy(update={"data": configs[1].data.model_copy(update={"crop_scale": (0.1, 0.2)})})
    assert pretrain_fingerprint(configs[0], "d") == pretrain_fingerprint(configs[1], "d")
