"""Sources of clips: moving digits, folders of frames, video files."""

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build
from mae.config.tree import RunConfig
from mae.data import video_files
from mae.data.dataset import CachedImages, ImageData, load_data
from mae.data.moving_digits import SPEEDS, frames_of, motions
from mae.data.video_files import decode_video
from mae.errors import UserError
from mae.runtime.progress import Silent

SIZE = {"data.image_size": 12, "data.frames": 4}


def load(source: str, streamed: bool = False, **more: Any) -> ImageData:
    settings = SIZE | {f"data.{key}": value for key, value in more.items()}
    kind = {"pretext.kind": "video_mae", "data.source": source}
    run = RunConfig(cache_limit_gb=0, loader_workers=1) if streamed else RunConfig()
    return load_data(build(settings | kind).data, run, Silent())


def pixels(data: ImageData) -> torch.Tensor:
    assert isinstance(data.train.images, CachedImages)
    return data.train.images.pixels


def frame(value: int, size: int = 12) -> Image.Image:
    """A colour gradient whose brightness tells the number of the frame."""
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([np.full((size, size), value), rows * 10, columns * 10], axis=2)
    return Image.fromarray(image.astype(np.uint8))


def write_frames(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        frame(20 * number).save(folder / f"{number}.png")
    return folder


def write_video(path: Path, count: int, codec: str = "ffv1", pixel_format: str = "bgr0", size: int = 12) -> Path:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = size, size, pixel_format
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(frame(20 * number, size))))
        container.mux(stream.encode())
    return path


def tree(root: Path, videos: int = 2, count: int = 9) -> Path:
    """Folders of frames in two classes, in train/ and test/."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            for number in range(videos):
                write_frames(root / split / name / f"video {number}", count)
    return root


def test_a_video_is_turned_as_the_phone_was_held(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mp4", 2, "mpeg4", "yuv420p", size=16)
    turned, header = tmp_path / "turned.mp4", plain.read_bytes()
    matrix = header.index(b"tkhd") + 44  # of the track's header: a, b, u, c, d, v, x, y, w
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned.write_bytes(header[:matrix] + quarter + header[matrix + 36 :])
    sizes = {"data.image_size": 16, "data.frames": 2}
    data = build({"pretext.kind": "video_mae", "data.source": "clips:x"} | sizes).data
    upright, held = (decode_video(path, data) for path in (plain, turned))
    assert np.array_equal(held, np.rot90(upright, -1, axes=(2, 3)))
    assert not np.array_equal(held, upright)


def test_a_digit_moves_at_the_speed_of_its_class_and_bounces() -> None:
    digit = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    moving = motions(64)
    for phase, label in zip(*moving, strict=True):
        frames, speed = frames_of(digit, phase, label, np.arange(40)), SPEEDS[label]
        corners = np.array([np.argwhere(frame == 1)[0] for frame in frames])
        assert all(
            np.array_equal(frame[top : top + 8, left : left + 8], digit)
            for frame, (top, left) in zip(frames, corners, strict=True)
        )
        for places, start, own in zip(corners.T.tolist(), phase.tolist(), speed, strict=True):
            expected, away = [min(start, 16 - start)], own if start < 8 else -own
            for _ in places[1:]:  # a ball between two walls, step by step
                ahead = expected[-1] + away
                if not 0 <= ahead <= 8:
                    ahead, away = (-ahead if ahead < 0 else 16 - ahead), -away
                expected.append(ahead)
            assert places == expected


def test_moving_digits_are_the_embedded_ones_and_split_by_seed() -> None:
    first, again, other = (load("moving_digits", image_size=16, channels=1, split_seed=seed) for seed in (0, 0, 1))
    assert pixels(first).shape == (1437, 1, 4, 16, 16)
    assert len(first.test.labels) == 360
    assert first.train.labels.bincount().tolist() == pytest.approx([1437 / 8] * 8, abs=1)
    digits = {image.tobytes() for image in np.round(load_digits().images * (255 / 16)).astype(np.uint8)}
    clip = pixels(first)[7, 0].numpy()
    assert any(clip[0, top : top + 8, left : left + 8].tobytes() in digits for top in range(9) for left in range(9))
    assert first.digest == again.digest != other.digest
    assert not torch.equal(first.train.labels, other.train.labels)


def test_the_middle_of_a_folder_of_frames_is_decoded_in_the_order_of_numbers(tmp_path: Path) -> None:
    source = f"clips:{tree(tmp_path / 'set', count=12)}"
    assert pixels(load(source))[0, 0, :, 0, 0].tolist() == [80, 100, 120, 140]
    strided = load(source, stored_frames=5, frame_stride=2)
    assert pixels(strided)[0, 0, :, 0, 0].tolist() == [20, 60, 100, 140, 180]
    assert pixels(strided).shape == (4, 3, 5, 12, 12)
    assert strided.train.labels.tolist() == [0, 0, 1, 1]
    assert strided.mean[0] == pytest.approx(100 / 255)


def test_a_video_file_is_its_folder_of_frames(tmp_path: Path) -> None:
    tree(tmp_path / "folders")
    for split in ("train", "test"):
        for name in ("a", "b"):
            for number in range(2):
                write_video(tmp_path / "files" / split / name / f"{number}.avi", 9)
    folders, files = (load(f"clips:{tmp_path / name}", frame_stride=2) for name in ("folders", "files"))
    assert torch.equal(pixels(folders), pixels(files))
    assert folders.digest != files.digest


def test_common_formats_are_read(tmp_path: Path) -> None:
    data = build(SIZE | {"data.source": "clips:x", "pretext.kind": "video_mae", "data.image_size": 32}).data
    for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mov", "mjpeg"), ("a.mkv", "mpeg4")):
        format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        clip = video_files.decode_video(write_video(tmp_path / name, 10, codec, format, 32), data)
        assert clip.shape == (3, 4, 32, 32)
        assert np.diff(clip[0].mean(axis=(1, 2))) == pytest.approx(20, abs=8)  # each frame is brighter by that


def damaged(root: Path) -> Path:
    """A tree with one video file that is cut off."""
    tree(root, videos=3)
    path = write_video(root / "train" / "a" / "broken.mp4", 10, "libx264", "yuv420p", 32)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return root


def test_a_damaged_video_is_named_in_one_line(tmp_path: Path) -> None:
    settings = [f"data.source=clips:{damaged(tmp_path / 'set')}", "data.frames=4", "pretext.kind=video_mae"]
    arguments = [part for each in settings for part in ("--set", each)]
    result = CliRunner().invoke(app, ["pretrain", *arguments, "--runs-dir", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert "broken.mp4 cannot be read" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list((tmp_path / "runs").glob("*/config.toml"))


def test_damaged_and_short_videos_are_left_out_if_asked_for(tmp_path: Path) -> None:
    root = damaged(tmp_path / "set")
    write_frames(root / "train" / "b" / "short", 3)
    data = load(f"clips:{root}", skip_bad_images=True)
    assert (len(data.train.labels), len(data.left_out)) == (6, 2)


def test_a_video_that_is_too_short_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    with pytest.raises(
        UserError, match=r"video .* has 9 frames; expected at least 10, which data\.stored_frames=4 and"
    ):
        load(f"clips:{root}", frame_stride=3)


def test_video_files_ask_for_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "set")
    (root / "train" / "a" / "a.mp4").write_bytes(b"")
    monkeypatch.setattr("mae.data.clip_folders.decoder_version", lambda: "")
    with pytest.raises(UserError, match=r"a\.mp4 is a video file, which needs PyAV: pip install 'mae-cli\[video\]'"):
        load(f"clips:{root}")


def test_streamed_clips_are_the_cached_ones(tmp_path: Path) -> None:
    source = f"clips:{tree(tmp_path / 'set')}"
    cached, streamed = load(source), load(source, streamed=True)
    chosen = [torch.tensor([3, 0]), torch.tensor([1])]
    for one, other in zip(cached.train.images.batches(chosen), streamed.train.images.batches(chosen), strict=True):
        assert torch.equal(one, other)
    assert cached.mean == streamed.mean


def test_another_stride_is_another_cache(tmp_path: Path) -> None:
    source = f"clips:{tree(tmp_path / 'set')}"
    assert not torch.equal(pixels(load(source)), pixels(load(source, frame_stride=2)))


def test_a_changed_frame_is_another_data_set(tmp_path: Path) -> None:
    first = tree(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    frame(7).save(tmp_path / "second" / "train" / "a" / "video 0" / "0.png")
    assert load(f"clips:{first}").digest != load(f"clips:{tmp_path / 'second'}").digest


def test_images_are_no_videos(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b"):
        write_frames(root / name, 3)
    with pytest.raises(UserError, match=r"holds no video \(a folder of frames, or \.3gp, "):
        load(f"clips:{root}")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"data.source": "moving_digits"}, r"data\.frames=unset: data\.source=moving_digits has clips; expected the"),
        ({"data.frames": 4}, r"data\.frames=4: data\.source=digits has images; it acts with data\.source=moving"),
        ({"data.frame_stride": 2}, r"data\.frame_stride=2: data\.source=digits has images"),
        ({"model.tubelet": 4}, r"model\.tubelet=4: data\.source=digits has images"),
        ({"pretext.kind": "video_mae"}, r"pretext\.kind=video_mae: video_mae is for clips, and data\.source=digits"),
        (
            {"data.source": "moving_digits", "data.frames": 4, "pretext.kind": "rotation"},
            r"pretext\.kind=rotation: rotation is for images, .* expected one of cvrl, video_mae, supervised, random",
        ),
        (
            {"data.source": "moving_digits", "data.frames": 4, "data.stored_frames": 3, "pretext.kind": "video_mae"},
            r"data\.stored_frames=3: expected at least data\.frames=4",
        ),
        (
            {"data.source": "moving_digits", "data.frames": 3, "pretext.kind": "video_mae"},
            r"model\.tubelet=2: expected a divisor of data\.frames=3",
        ),
        (
            {"data.source": "moving_digits", "data.frames": 4, "pretext.kind": "video_mae", "mask.sampling": "block"},
            r"mask\.sampling=block: it is for images, and data\.source=moving_digits has clips; expected random",
        ),
        (
            {"data.source": "moving_digits", "data.frames": 4, "pretext.kind": "cvrl"},
            r"data\.stored_frames=unset: cvrl cuts two clips out of each, at different times; expected more than",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_key(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(settings)
