"""Video files, and folders of frames: some frames of one to pixels, as uint8 of a fixed size."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image

from mae.config.data_section import DataConfig
from mae.data.image_files import EXTENSIONS, PASSING, Pixels, decode, shown, to_pixels
from mae.errors import RunError, UserError

VIDEO_EXTENSIONS = {".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp"}


def is_video(path: Path) -> bool:
    """Say whether a path is a video: a file whose name ends like one, or a folder with frames in it."""
    if path.name.startswith("."):
        return False
    return bool(frames_in(path)) if path.is_dir() else path.suffix.lower() in VIDEO_EXTENSIONS


def frames_in(folder: Path) -> list[Path]:
    """Return the image files right in a folder, numbers in their names in order: `9.png` before `10.png`."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."))
    return sorted(files, key=lambda path: [(int(part), "") if part.isdigit() else (-1, part) for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return re.split(r"([0-9]+)", path.name)


def decoder_version() -> str:
    """Return the version of PyAV, which decodes video files; nothing where it is not installed."""
    try:
        return version("av")
    except PackageNotFoundError:
        return ""


def decode_video(path: Path, data: DataConfig) -> Pixels:
    """Return the middle of a video as uint8 (C, *data.stored): every `data.frame_stride`-th frame.

    `UserError` naming the video if it is broken, or too short; `RunError` if the system fails to read it.
    """
    if path.is_dir():
        files = frames_in(path)
        return _stacked(
            decode(files[place], data.stored_sides, data.channels) for place in _middle(path, len(files), data)
        )
    with _told(path):
        return _stacked(to_pixels(image, data.stored_sides, data.channels) for image in _images(path, data))


def _stacked(frames: Iterator[Pixels]) -> Pixels:
    return np.stack(list(frames), axis=1)


def _middle(path: Path, there: int, data: DataConfig) -> list[int]:
    """Return the numbers of the frames that are decoded, of those that are `there`."""
    stride, span = data.frame_stride, (data.stored[0] - 1) * data.frame_stride + 1
    if there < span:
        raise UserError(
            f"video {shown(path)} has {there} frames; expected at least {span}, which data.stored_frames="
            f"{data.stored[0]} and data.frame_stride={stride} come to"
        )
    first = (there - span) // 2
    return list(range(first, first + span, stride))


def _images(path: Path, data: DataConfig) -> Iterator[Image.Image]:
    """Yield the frames that are decoded. How many there are, its packets tell: what it says of itself may be wrong."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise UserError(f"video {shown(path)} has no pictures, only sound")
        there = sum(1 for packet in container.demux(video=0) if packet.size)
        wanted = _middle(path, there, data)
    with av.open(str(path)) as container:  # not every format can be wound back
        container.streams.video[0].thread_type = "NONE"  # many videos are decoded at a time
        found, number = 0, -1
        for number, frame in enumerate(container.decode(video=0)):
            if number == wanted[found]:
                yield frame.to_image().rotate(frame.rotation, expand=True)  # as a phone was held
                found += 1
            if found == len(wanted):
                return
    raise UserError(f"video {shown(path)} cannot be read: it ends in the middle, after {number + 1} of {there} frames")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what PyAV raises on a broken file into a line for people."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        if error.errno in PASSING:
            raise RunError(f"video {shown(path)} cannot be read now: {error}; the same command tries again") from None
        raise UserError(f"video {shown(path)} cannot be read: {error.strerror}") from None


def files_of_video(video: Path) -> list[Path]:
    """Return the files that a video consists of."""
    return frames_in(video) if video.is_dir() else [video]
