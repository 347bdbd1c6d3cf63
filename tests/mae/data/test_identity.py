"""What data sets are known by: the content of their images, what of it was looked at, and the split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from ablations.studies.run_studies import digests
from mae.config.data_section import DataConfig
from mae.config.resolve import build
from mae.config.tree import RunConfig
from mae.data import sources
from mae.data.dataset import load_data
from mae.data.sources import identify, open_source
from mae.runtime.progress import Silent
from tests.mae.data.test_data import write_tree
from tests.mae.data.test_torchvision_sources import Cifar, ImageNet, OtherCifar

OTHERWISE_SPLIT = [{"data.split_seed": 1}, {"data.test_fraction": 0.5}]


def own_split(root: Path) -> str:
    return f"folder:{write_tree(root)}"


def torchvision_split(root: Path) -> str:
    return f"cifar10:{root}"


def made_split(root: Path) -> str:
    return f"folder:{write_tree(root, 10) / 'train'}"


def embedded(root: Path) -> str:
    return "digits"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CIFAR10", Cifar)
    monkeypatch.setattr(datasets, "ImageNet", ImageNet)


def data(source: str, **settings: object) -> DataConfig:
    return build({"data.source": source, **settings}).data


@pytest.mark.parametrize("otherwise", OTHERWISE_SPLIT)
@pytest.mark.parametrize(
    ("make", "acts"), [(own_split, False), (torchvision_split, False), (made_split, True), (embedded, True)]
)
def test_split_settings_identify_data_where_the_program_splits_them(
    make: Callable[[Path], str], acts: bool, otherwise: dict[str, Any], tmp_path: Path
) -> None:
    source = make(tmp_path)
    plain, other = (open_source(data(source, **settings), Silent()).digest for settings in ({}, otherwise))
    assert (other != plain) == acts


@pytest.mark.parametrize("make", [own_split, torchvision_split, made_split, embedded])
def test_a_study_identifies_data_as_a_run_does_and_looks_at_them_once(
    make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))  # where nothing is remembered yet
    source = make(tmp_path)
    asked = [data(source, **settings) for settings in ({}, *OTHERWISE_SPLIT)]
    expected = [open_source(each, Silent()).digest for each in asked]
    opened = []
    kind = source.split(":")[0]
    opener = sources.SOURCES[kind]
    monkeypatch.setitem(sources.SOURCES, kind, lambda *given: opened.append(given) or opener(*given))
    digest_of = digests(Silent())
    assert [digest_of(each) for each in asked] == expected
    assert len(opened) == 1


def test_a_study_identifies_data_that_only_its_own_settings_can_split(tmp_path: Path) -> None:
    source = f"folder:{write_tree(tmp_path, 2) / 'train'}"  # a fifth of four images is not one of each class
    assert digests(Silent())(data(source, **{"data.test_fraction": 0.5}))


@pytest.mark.parametrize(
    ("make", "limit", "covers"),
    [
        (embedded, 4 << 30, "every byte"),
        (own_split, 4 << 30, "every byte"),
        (own_split, 100, "names and sizes"),
        (made_split, 100, "names and sizes"),
        (torchvision_split, 100, "every byte"),
        (lambda root: f"imagenet:{root}", 4 << 30, "names and labels"),
    ],
)
def test_a_record_says_what_of_the_images_was_looked_at(
    make: Callable[[Path], str], limit: int, covers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path)
    monkeypatch.setattr(sources, "HASHED_BYTES", limit)
    described = load_data(data(source), RunConfig(), Silent()).describe()
    assert described["identified_by"] == covers


def test_what_is_remembered_of_names_and_sizes_does_not_pass_for_all_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = data(own_split(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(sources, "HASHED_BYTES", 100)
        less = open_source(config, Silent()).digest
    assert open_source(config, Silent()).digest != less


def test_the_names_of_files_identify_a_torchvision_set_and_their_place_does_not(tmp_path: Path) -> None:
    class Renamed(ImageNet):
        def __init__(self, root: str, split: str):
            super().__init__(root, split)
            self.samples = [(path.replace("_1", "_2"), label) for path, label in self.samples]

    digest = open_source(data(f"imagenet:{tmp_path / 'here'}"), Silent()).digest
    assert open_source(data(f"imagenet:{tmp_path / 'there'}"), Silent()).digest == digest
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "ImageNet", Renamed)
        assert open_source(data(f"imagenet:{tmp_path / 'here'}"), Silent()).digest != digest


def cifar_files(root: Path) -> tuple[str, Path]:
    file = root / "cifar-10-batches-py" / "data_batch_1"
    file.parent.mkdir()
    file.write_bytes(b"pixels")
    return f"cifar10:{root}", file


def refuse(*given: object) -> None:
    raise AssertionError("it was opened")


def test_a_data_set_that_was_identified_before_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = cifar_files(tmp_path)
    first = [identify(data(each), Silent()) for each in (source, "digits")]
    for kind in ("cifar10", "digits"):
        monkeypatch.setitem(sources.SOURCES, kind, refuse)
    assert [identify(data(each), Silent()) for each in (source, "digits")] == first


def test_a_data_set_whose_files_have_changed_is_identified_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = cifar_files(tmp_path)
    first = identify(data(source), Silent())
    file.write_bytes(b"others")
    monkeypatch.setattr(datasets, "CIFAR10", OtherCifar)
    assert identify(data(source), Silent()) != first


@pytest.mark.parametrize("otherwise", OTHERWISE_SPLIT)
def test_an_identity_that_is_remembered_is_split_as_asked(otherwise: dict[str, Any]) -> None:
    identify(data("digits"), Silent())
    asked = data("digits", **otherwise)
    assert identify(asked, Silent()) == open_source(asked, Silent()).identity
