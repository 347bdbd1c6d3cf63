"""One's own folders: which layouts there are, what of them is a class, what is left out, and what is said of it."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.config.resolve import build, name_run
from mae.data.dataset import ImageData
from mae.data.image_folders import contents_of
from mae.data.sources import identify
from mae.errors import UserError
from mae.runtime.progress import Silent
from tests.mae.data.test_data import load, write_tree


def images(folder: Path, count: int = 5, ending: str = "png") -> Path:
    """Grey images of 8 x 8 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(np.full((8, 8), 10 * index, np.uint8)).save(folder / f"{index}.{ending}")
    return folder


def sizes(data: ImageData) -> tuple[int, int]:
    return len(data.train.labels), len(data.test.labels)


@pytest.mark.parametrize("where", [".", "2023/05", "all"])
def test_images_that_lie_in_no_class_folders_have_no_labels_and_a_part_is_held_out(where: str, tmp_path: Path) -> None:
    images(tmp_path / where, 10)
    data = load(tmp_path)
    assert (data.classes, sizes(data)) == ((), (8, 2))
    assert {*data.train.labels.tolist(), *data.test.labels.tolist()} == {-1}
    assert not identify(build({"data.source": f"folder:{tmp_path}"}).data, Silent()).labelled


def test_all_images_are_without_labels_where_that_is_asked_for(tmp_path: Path) -> None:
    for name, count in ((".", 3), ("cat", 5), ("bird", 1), ("train", 1)):
        images(tmp_path / name, count)
    (tmp_path / "empty").mkdir()
    data = load(tmp_path, source=f"images:{tmp_path}")
    assert (data.classes, sizes(data)) == ((), (8, 2))
    assert {*data.train.labels.tolist(), *data.test.labels.tolist()} == {-1}
    assert data.told().endswith(": 8 train, 2 test, no labels; a share of 0.2 held out for testing")


@pytest.mark.parametrize("loose", [0, 3])
def test_the_same_files_with_and_without_their_labels_are_two_data_sets(loose: int, tmp_path: Path) -> None:
    for name, count in ((".", loose), ("cat", 5), ("bird", 5)):
        images(tmp_path / name, count)
    folder, flat = (build({"data.source": f"{kind}:{tmp_path}"}) for kind in ("folder", "images"))
    first, second = (identify(each.data, Silent()) for each in (folder, flat))
    assert first.digest != second.digest
    assert (first.labelled, second.labelled) == (True, False)
    assert name_run(flat).startswith(f"{tmp_path.name} as ")


@pytest.mark.parametrize("source", ["images:", "images:{0}", "images:{0}/nowhere"])
def test_no_images_at_all_are_refused_without_talk_of_classes(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with images in it or below") as refused:
        identify(build({"data.source": source.format(tmp_path)}).data, Silent())
    assert "class" not in str(refused.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(("source", "meant"), [("folder:{}/fotos", "'photos'"), ("{}/photos", "folder:{}/photos")])
def test_a_folder_of_nearly_this_name_or_of_this_path_is_offered(source: str, meant: str, tmp_path: Path) -> None:
    images(tmp_path / "photos")
    with pytest.raises(UserError, match=re.escape(f", did you mean {meant.format(tmp_path)}?")):
        identify(build({"data.source": source.format(tmp_path)}).data, Silent())


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/x", "folder:~nobody-of-this-name/x"])
def test_what_can_be_no_path_is_refused_as_any_other(source: str) -> None:
    with pytest.raises(UserError, match=r"unknown source|no such folder"):
        identify(build({"data.source": source}).data, Silent())


def test_flat_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    images(tmp_path / "train", 6)
    images(tmp_path / "test", 3)
    data = load(tmp_path)
    assert (data.classes, sizes(data)) == ((), (6, 3))


def test_a_folder_that_holds_images_itself_is_a_class_with_all_below_it(tmp_path: Path) -> None:
    for name in ("a", "b", "b/more", "years/2023"):
        images(tmp_path / "train" / name, 2)
    images(tmp_path / "test" / "a", 2)
    data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 1, -1, -1]


def test_images_without_a_label_are_never_tested_on_beside_ones_that_have_one(tmp_path: Path) -> None:
    for name in (".", "a", "b"):
        images(tmp_path / name, 10)
    data = load(tmp_path)
    assert (data.train.labels < 0).sum() == 10
    assert data.test.labels.bincount().tolist() == [2, 2]
    assert "10 training images without a label" in data.told()


def test_unlabelled_test_images_are_refused_where_train_has_classes(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    images(root / "test", 1)
    with pytest.raises(UserError, match=r"test has 1 image in no class folder, such as 0\.png.*give PATH/train"):
        load(root)


def test_one_line_says_what_was_found_and_what_was_not_used(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    images(root / "validation", 1)
    for number in range(12):
        (root / "train" / "a" / f"{number}.heic").write_bytes(b"x")
    told = load(root).told()
    assert told.endswith(
        "set: 8 train, 8 test, 2 classes; validation/ not used; 12 files with other endings ignored (.heic 12)"
    )


def test_a_validation_folder_is_tested_on_where_there_is_no_test_folder_and_that_is_said(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    (root / "test").rename(root / "validation")
    assert "tested on validation/" in load(root).told()


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "x.heic").write_bytes(b"x")])
def test_a_folder_without_images_is_told_the_layouts_and_what_is_in_it(make: object, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    found = r"5? ?.*\(\.heic 1\)" if any(tmp_path.iterdir()) else "nothing"
    with pytest.raises(UserError, match=rf"found: {found}; expected one of\n +PATH/train/<class>/<image>"):
        load(tmp_path)


def test_classes_with_a_single_image_are_named(tmp_path: Path) -> None:
    for name, count in (("cat", 5), ("bird", 1), ("frog", 1)):
        images(tmp_path / name, count)
    with pytest.raises(UserError, match=r"with a single image: bird, frog; .*needs two.*images:PATH"):
        load(tmp_path)


@pytest.mark.parametrize(("count", "fraction"), [(3, 0.1), (3, 0.9)])
def test_a_share_that_leaves_a_class_without_images_is_refused(count: int, fraction: float, tmp_path: Path) -> None:
    for name in ("a", "b"):
        images(tmp_path / name, count)
    with pytest.raises(UserError, match=r"test_fraction=0\.\d of 6 image.*at least one of each of 2 classes"):
        load(tmp_path, test_fraction=fraction)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def circular(path: Path) -> None:
    path.symlink_to(path)


def without_permission(path: Path) -> None:
    path.write_bytes((path.parent / "0.png").read_bytes())
    path.chmod(0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (dangling, "a link to what is not there"),
        (circular, "Too many levels"),
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (without_permission, "Permission denied"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"x"), "not an image"),
    ],
)
def test_whatever_cannot_be_read_is_named_or_left_out_and_listed(
    make: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "set")
    make(root / "train" / "a" / "x.png")  # type: ignore[operator]
    # For the super-user every file may be read.
    monkeypatch.setattr(os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o400))
    with pytest.raises(UserError, match=rf"train/a/x\.png .*{reason}.*data\.skip_bad_images=true"):
        load(root)
    data = load(root, skip_bad_images=True)
    assert len(data.train.labels) == 8
    (line,) = data.left_out
    assert line.startswith("train/a/x.png: ")
    assert reason in line


def test_a_folder_that_may_not_be_read_is_named_and_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scan = write_tree(tmp_path / "set"), os.scandir

    def refused(path: str | Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("mae.data.image_folders.os.scandir", refused)
    for skip in (False, True):
        with pytest.raises(UserError, match=r"train/b cannot be read: Permission denied"):
            load(root, skip_bad_images=skip)


def test_links_to_folders_are_followed_once_and_never_back(tmp_path: Path) -> None:
    elsewhere = images(tmp_path / "elsewhere", 3)
    (elsewhere / "up").symlink_to(tmp_path)
    root = images(tmp_path / "root" / "a", 2).parent
    (root / "b").symlink_to(elsewhere)
    (root / "c").symlink_to(root)
    (root / "d").symlink_to(elsewhere)
    found = contents_of(root)
    assert [parts[0] for parts in found.images] == ["a"] * 2 + ["b"] * 3
    assert found.unfollowed == 3


def test_hidden_folders_below_a_class_hold_no_images(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    images(root / "train" / "a" / ".thumbnails", 3)
    assert len(load(root).train.labels) == 8


def test_reasons_are_known_where_images_come_from_the_cache(tmp_path: Path) -> None:
    images(tmp_path, 10)
    (tmp_path / "3.png").write_bytes(b"")
    first, again = load(tmp_path, skip_bad_images=True), load(tmp_path, skip_bad_images=True)
    assert first.left_out == again.left_out == ("3.png: is empty (0 bytes)",)


def test_the_digits_tell_what_they_are(digits: ImageData) -> None:
    assert digits.told() == "digits: 1,437 train, 360 test, 10 classes"
