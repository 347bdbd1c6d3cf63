import pytest
import torch

from mae.config.probe_sections import ProbeConfig
from mae.config.resolve import build
from mae.data.dataset import ImageData
from mae.errors import UserError
from mae.probing.probe import probe
from mae.probing.subject import Setup, Subject, learned_from
from mae.runtime.progress import Silent
from tests.conftest import TINY

CPU = torch.device("cpu")
LABELS = torch.tensor([0] * 40 + [-1] * 7 + [2] * 20 + [1] * 4)


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (ProbeConfig(), [40, 4, 20]),
        (ProbeConfig(labels=0.25), [10, 1, 5]),
        (ProbeConfig(labels=0.01), [1, 1, 1]),
        (ProbeConfig(labels_per_class=5), [5, 4, 5]),
    ],
)
def test_labels_are_learned_from_in_equal_shares_or_numbers_of_each_class(
    config: ProbeConfig, counts: list[int]
) -> None:
    chosen = learned_from(LABELS, config)
    assert LABELS[chosen].bincount().tolist() == counts
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_which_labels_are_learned_from_follows_from_the_probes_seed() -> None:
    first, again, other = (learned_from(LABELS, ProbeConfig(labels=0.5, seed=seed)).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_labels_of_a_smaller_share_are_among_those_of_a_larger_one() -> None:
    few, more = (set(learned_from(LABELS, ProbeConfig(labels=share)).tolist()) for share in (0.25, 0.5))
    assert few < more


@pytest.mark.parametrize(("k", "told"), [(5, False), (6, True)])
def test_more_voters_than_a_class_has_labels_are_told(k: int, told: bool, digits: ImageData) -> None:
    config = build(TINY | {"probe.labels_per_class": 5, "probe.knn.k": k})
    assert ("set probe.knn.k=5 or less" in Setup(config, digits, CPU, Silent()).too_few_voters()) is told


def test_a_share_and_a_number_of_labels_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"probe\.labels_per_class=3: set this or labels, not both"):
        build({"probe.labels": 0.5, "probe.labels_per_class": 3})


def test_a_probe_computes_features_of_the_images_it_learns_from_only(digits: ImageData) -> None:
    subject = Subject("pixels", "0", None)
    probe("knn", subject, Setup(build(TINY | {"probe.labels_per_class": 3}), digits, CPU, Silent()))
    assert len(subject.features["train"]) == 30
