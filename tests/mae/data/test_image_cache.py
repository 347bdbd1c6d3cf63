"""The cache of decoded images: when it is used, when images are decoded anew, and what a failed build leaves."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mae.config.resolve import build
from mae.config.tree import RunConfig
from mae.data.dataset import ImageData, load_data
from mae.errors import RunError, UserError
from mae.runtime.progress import Silent
from tests.mae.data.test_data import write_tree


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    return write_tree(tmp_path / "set")


def load(root: Path, **data: object) -> ImageData:
    settings = {f"data.{key}": value for key, value in data.items()}
    return load_data(build({"data.source": f"folder:{root}", **settings}).data, RunConfig(), Silent())


class Decoded:
    """Counts the decoding of whole data sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mae.data import dataset as data

        self.times, decode = 0, data._build

        def counting(*arguments: Any) -> dict[str, Any]:
            self.times += 1
            return decode(*arguments)

        monkeypatch.setattr(data, "_build", counting)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    return Decoded(monkeypatch)


@pytest.mark.parametrize("settings", [{}, {"stored_size": 32}, {"split_seed": 1}, {"test_fraction": 0.4}])
def test_images_are_decoded_once_for_all_settings_that_give_the_same_pixels(
    settings: dict[str, object], root: Path, decoded: Decoded
) -> None:
    load(root)
    load(root, **settings)
    assert decoded.times == 1


@pytest.mark.parametrize("version", ["mae.data.dataset.ARITHMETIC", "PIL.__version__"])
def test_another_version_of_what_makes_the_pixels_decodes_anew(
    version: str, root: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(root)
    monkeypatch.setattr(version, "another")
    load(root)
    assert decoded.times == 2


def test_another_jpeg_library_decodes_anew(root: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    monkeypatch.setattr("PIL.features.version", lambda name: "another")
    load(root)
    assert decoded.times == 2


@pytest.mark.parametrize(
    ("name", "content"), [("train", b"short"), ("test", None), ("meta.json", b'{"bad"'), ("meta.json", None)]
)
def test_a_damaged_cache_is_built_again(name: str, content: bytes | None, root: Path, cache: Path) -> None:
    whole = load(root).train.images.pixels.clone()
    (damaged,) = cache.glob(f"pixels-*/{name}")
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    assert load(root).train.images.pixels.equal(whole)


def test_a_finished_cache_needs_no_right_to_write(root: Path, cache: Path, decoded: Decoded) -> None:
    load(root)
    for lock in cache.glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # cannot be opened for writing, even by root
    load(root)
    assert decoded.times == 1


def test_a_full_disk_is_told_and_given_back(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("mae.data.dataset.os.fsync", full)
        with pytest.raises(
            RunError, match=r"cannot write the image cache .*No space left on device; set MAE_CACHE_DIR"
        ):
            load(root)
    assert not list(cache.glob("pixels-*.building"))


def test_a_full_disk_is_told_when_images_are_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mae.data.shared_arrays.tempfile.TemporaryFile", full)
    with pytest.raises(RunError, match="No space left on device; set MAE_CACHE_DIR"):
        load_data(build({"data.source": f"folder:{root}"}).data, RunConfig(cache_limit_gb=0.0), Silent())


def test_an_image_that_cannot_be_read_leaves_no_pixels_of_others(root: Path, cache: Path) -> None:
    (root / "test" / "b" / "3.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"3\.png"):
        load(root)
    assert not list(cache.glob("pixels-*.building"))


def test_a_failing_disk_does_not_pass_for_a_broken_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> Image.Image:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("mae.data.image_files.Image.open", failing)
        with pytest.raises(RunError, match=r"0\.png cannot be read now: .*Input/output error"):
            load(root, skip_bad_images=True)
    assert load(root, skip_bad_images=True).left_out == ()
