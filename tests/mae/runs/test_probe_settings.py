from typing import Any

import pytest

from mae.config.resolve import build, flatten, resolve
from mae.config.tree import Config
from mae.runs.probe_settings import base_probe, cell_probe, own_settings


def plain(**changed: Any) -> dict[str, Any]:
    """Return settings as a study's record has them; `features="both"` sets `probe.features`."""
    overrides = {f"probe.{key.replace('__', '.')}": value for key, value in changed.items()}
    return flatten(build(overrides).model_dump(mode="json"))


def test_the_default_probe_needs_no_words() -> None:
    assert base_probe(plain()) == ""


def test_what_differs_from_the_default_probe_is_named() -> None:
    values = plain(features="both", knn__k=5, linear__penalties=[0.1])
    assert base_probe(values) == "probe.features=both probe.linear.penalties=[0.1] probe.knn.k=5"


def test_which_probes_there_are_makes_no_difference() -> None:
    assert base_probe(plain(kinds=["knn"])) == ""


def test_later_kinds_of_probe_are_told_where_they_are_asked_for() -> None:
    assert base_probe(plain(finetune__epochs=7)) == ""
    for kind in ("finetune", "partial"):  # which reads fine-tuning's recipe
        assert base_probe(plain(kinds=[kind], finetune__epochs=7)) == "probe.finetune.epochs=7"


def test_a_probe_is_told_from_its_kind_as_the_nearest_preset_has_it() -> None:
    assert own_settings(plain(), "knn") == ""
    assert own_settings(plain(labels_per_class=5, seed=3, knn__k=5), "knn") == "labels_per_class=5 k=5"
    assert own_settings(plain(labels_per_class=5, knn__k=5), "linear") == "labels_per_class=5"
    vit = flatten(resolve("imagenet-vit-b").model_dump(mode="json"))
    assert own_settings(vit, "linear") == own_settings(vit, "finetune") == ""


def test_settings_that_do_not_act_are_left_out() -> None:
    values = plain(linear__solver="lars", linear__lars_epochs=50) | {"probe.linear.penalties": [0.5]}
    assert base_probe(values) == "probe.linear.solver=lars probe.linear.lars_epochs=50"


@pytest.mark.parametrize(
    ("probe", "text"), [("linear", "probe.features=both"), ("knn", "probe.features=both probe.knn.k=5")]
)
def test_a_cell_is_told_by_what_it_changes_of_the_rows_probe(probe: str, text: str) -> None:
    assert cell_probe(plain(), {"probe.features": "both", "probe.knn.k": 5, "mask.ratio": 0.5}, probe) == text


@pytest.mark.parametrize("value", [20, 20.0])
def test_a_cell_that_sets_what_the_base_has_changes_nothing(value: float) -> None:
    assert cell_probe(plain(), {"probe.knn.k": value}, "knn") == ""


def test_a_list_is_the_same_from_memory_and_from_a_record() -> None:
    assert cell_probe(plain(), {"probe.linear.penalties": Config().probe.linear.penalties}, "linear") == ""


def test_a_record_of_a_version_with_other_keys_is_read() -> None:
    values = plain()
    del values["probe.knn.k"]
    assert base_probe(values | {"probe.whitening": True}) == "probe.whitening=True"


def test_a_key_that_a_cell_unsets_is_told_as_people_write_it() -> None:
    values = plain(linear__solver="lars", linear__lars_warmup_epochs=3.0)
    told = cell_probe(values, {"probe.linear.lars_warmup_epochs": None}, "linear")
    assert told == "probe.linear.lars_warmup_epochs=unset"
