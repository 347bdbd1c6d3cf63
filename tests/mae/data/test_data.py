import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.config.resolve import build
from mae.config.tree import RunConfig
from mae.data.dataset import CachedImages, ImageData, data_digest, load_data
from mae.data.image_files import decode, to_pixels
from mae.errors import UserError
from mae.runtime.progress import Silent


def write_tree(root: Path, per_class: int = 4) -> Path:
    """Class folders a (dark) and b (bright) under train/ and test/."""
    for split in ("train", "test"):
        for name, value in (("a", 40), ("b", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                Image.fromarray(np.full((12, 10, 3), value + index, np.uint8)).save(folder / f"{index}.png")
    return root


def load(root: Path, **more: object) -> ImageData:
    settings = {"data.source": f"folder:{root}", "data.image_size": 8, **{f"data.{k}": v for k, v in more.items()}}
    return load_data(build(settings).data, RunConfig(), Silent())


def test_folders_become_splits_and_labels(tmp_path: Path) -> None:
    data = load(write_tree(tmp_path / "set"))
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.images.pixels.shape == (8, 3, 8, 8)
    assert data.train.images.pixels[0].unique().tolist() == [40]
    assert data.mean[0] == pytest.approx((41.5 + 201.5) / 2 / 255)


def test_a_folder_without_splits_is_split_by_class(tmp_path: Path) -> None:
    data = load(write_tree(tmp_path / "set", 10) / "train", test_fraction=0.3)
    assert data.train.labels.bincount().tolist() == [7, 7]
    assert data.test.labels.bincount().tolist() == [3, 3]


def test_hidden_files_are_no_images_and_hidden_folders_no_classes(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "a" / "._0.jpg").write_bytes(b"resource fork")
    (root / "train" / "a" / "notes.txt").write_text("x")
    assert len(load(root).train.labels) == 8


def test_content_not_place_identifies_the_data(tmp_path: Path) -> None:
    first = write_tree(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    config = build({"data.source": f"folder:{first}"}).data
    moved = build({"data.source": f"folder:{tmp_path / 'second'}"}).data
    digest = data_digest(config, Silent())
    assert data_digest(moved, Silent()) == digest
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(first / "train" / "a" / "0.png")
    assert data_digest(config, Silent()) != digest


def test_files_are_hashed_again_only_when_one_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "set")
    config, image = build({"data.source": f"folder:{root}"}).data, root / "train" / "a" / "0.png"
    digest = data_digest(config, Silent())
    with monkeypatch.context() as patched:
        patched.setattr("mae.data.sources._hash_files", None)
        assert data_digest(config, Silent()) == digest
    times, changed = image.stat(), bytearray(image.read_bytes())
    changed[-1] ^= 1
    image.write_bytes(changed)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size and modification time
    assert data_digest(config, Silent()) != digest


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    (root / "train" / "a" / "link.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"link\.png cannot be read"):
        load(root)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"not an image", "not an image"), ("truncated", "cannot be read")]
)
def test_a_bad_image_is_named_and_nothing_is_left(content: bytes | str, reason: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    bad = root / "train" / "b" / "1.jpg"
    if content == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(bad)
        content = bad.read_bytes()[:2000]
    assert isinstance(content, bytes)
    bad.write_bytes(content)
    for _ in range(2):  # the second time meets no half-built cache
        with pytest.raises(UserError, match=rf"1\.jpg.*{reason}"):
            load(root)
    skipping = load(root, skip_bad_images=True)
    assert (len(skipping.left_out), len(skipping.train.labels)) == (1, 8)
    assert skipping.train.images.pixels[:4].max() < 100
    assert skipping.train.images.pixels[4:].min() > 100


def test_an_image_with_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x.png has more than 50 pixels"):
        decode(tmp_path / "x.png", (8, 8), 1)


@pytest.mark.parametrize(("spare", "kept_at"), [(0, "cpu"), (2, "meta")])
def test_training_images_move_to_a_device_of_more_than_twice_their_size(
    spare: int, kept_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(write_tree(tmp_path / "set"))
    monkeypatch.setattr("mae.data.dataset._free_bytes", lambda device: 2 * data.train.images.pixels.nbytes + spare)
    moved = data.on(torch.device("meta"))
    batch = next(iter(moved.train.images.batches([torch.tensor([3, 0])])))
    assert (batch.device.type, batch.shape) == (kept_at, (2, 3, 8, 8))


def test_one_image_again_and_again_takes_the_memory_of_one() -> None:
    images = CachedImages(torch.full((1, 3, 256, 256), 7, dtype=torch.uint8).expand(10**7, -1, -1, -1))  # else 2 TB
    batch = next(iter(images.batches([torch.tensor([3, 9_999_999])])))
    assert batch.shape == (2, 3, 256, 256)
    assert batch.unique().tolist() == [7]


def test_on_a_cpu_images_stay_mapped(tmp_path: Path) -> None:
    data = load(write_tree(tmp_path / "set"))
    assert data.on(torch.device("cpu")) is data


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    (root / "train" / "c").mkdir()
    with pytest.raises(UserError, match=r"train/c holds no image"):
        load(root)


def test_a_test_class_that_train_lacks_is_an_error(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    (root / "test" / "b").rename(root / "test" / "z")
    with pytest.raises(UserError, match=r"train/ lacks: z"):
        load(root)


def test_a_class_that_test_lacks_keeps_the_labels_of_train(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    shutil.rmtree(root / "test" / "a")
    assert load(root).test.labels.tolist() == [1] * 4


def test_a_test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    for image in (root / "test").rglob("*.png"):
        image.unlink()
    with pytest.raises(UserError, match="test holds no image"):
        load(root)


def test_a_split_of_which_no_image_can_be_read_is_an_error(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set")
    for image in (root / "test").rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(UserError, match="no test image can be read"):
        load(root, skip_bad_images=True)


@pytest.mark.parametrize("source", ["digitz", "folder:/nowhere", "folder:"])
def test_a_source_that_is_not_there_is_the_users_mistake(source: str) -> None:
    with pytest.raises(UserError, match=r"data\.source"):
        data_digest(build({"data.source": source}).data, Silent())


def pixels_of(image: Image.Image, path: Path, channels: int = 3) -> np.ndarray:
    image.save(path)
    return decode(path, (8, 8), channels)


def test_sixteen_bit_grey_is_scaled_not_saturated(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8), 32768, np.uint16))
    assert np.unique(pixels_of(image, tmp_path / "x.png")).tolist() == [128]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pixels = pixels_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "x.tif")
    assert pixels.mean(axis=(1, 2)).tolist() == [255, 0, 0]


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert pixels_of(image, tmp_path / "x.gif").mean(axis=(1, 2)).tolist() == pytest.approx([10, 200, 30], abs=4)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (50, 250)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "x.gif", (8, 8), 1).mean() == 50


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0] = 255  # a bright top row; turned by a quarter it is the right column
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert decode(tmp_path / "x.png", (8, 8), 1)[0, :, -1].tolist() == [255] * 8


def test_a_larger_image_is_resized_and_cut_to_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 8:24] = 200
    assert pixels_of(Image.fromarray(pixels), tmp_path / "x.png", 1).min() > 180  # no dark side is left


def test_a_name_that_is_not_utf8_can_be_read_and_shown(tmp_path: Path) -> None:
    path = Path(str(tmp_path / "a\udcff.png"))
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\\xff.png|a\\udcff.png") as caught:
        decode(path, (8, 8), 1)
    str(caught.value).encode("utf-8")


def photograph(height: int, width: int) -> Image.Image:
    """Gradients under noise that is coarser than a pixel, as in photographs."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    noise = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float)
    slope = np.linspace(0, 255, width)[None, :, None] + np.zeros((height, 1, 1))
    return Image.fromarray((0.5 * noise + 0.5 * slope).astype(np.uint8))


def decoded_both_ways(path: Path, size: tuple[int, int], channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels as the program decodes a file, and those from all of its pixels, as int64."""
    with Image.open(path) as image:
        whole = to_pixels(image, size, channels)
    return decode(path, size, channels).astype(int), whole.astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_a_much_larger_jpeg_is_decoded_smaller_to_nearly_the_same_pixels(
    size: tuple[int, int], orientation: int, mode: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(300, 400).convert(mode).save(tmp_path / "large.jpg", quality=90, exif=exif)
    reduced, whole = decoded_both_ways(tmp_path / "large.jpg", size)
    difference = np.abs(reduced - whole)
    assert 0 < difference.mean() < 1, "values of 0 to 255; 0 if all pixels were decoded"
    assert difference.max() <= 8


@pytest.mark.parametrize(("name", "size"), [("a.jpg", (32, 32)), ("a.jpg", (40, 40)), ("a.png", (8, 8))])
def test_a_jpeg_that_is_not_much_larger_and_other_formats_are_decoded_whole(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    photograph(96, 120).save(tmp_path / name)
    decoded, whole = decoded_both_ways(tmp_path / name, size)
    assert (decoded == whole).all()
