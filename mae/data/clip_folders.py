"""Which videos of a folder are for training and which for testing, and of what class.

A video is a file, or a folder of frames. Every one has to have a class: a folder of its own under `PATH`, or under
`PATH/train` and one of `PATH/test`, `PATH/val` and `PATH/validation`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae.config.data_section import DataConfig, local_path
from mae.data.image_files import shown
from mae.data.image_folders import TEST_FOLDERS, Part
from mae.data.video_files import VIDEO_EXTENSIONS, decoder_version, is_video
from mae.errors import UserError


class ClipFolder(NamedTuple):
    """What was found: the folder, the videos of both splits, or of all if there is no split, and the classes."""

    root: Path
    train: Part
    test: Part | None
    classes: tuple[str, ...]


def read_clip_folder(data: DataConfig, location: str) -> ClipFolder:
    """Return the videos that `data.source=clips:PATH` names; `UserError` saying what was found and what is expected."""
    root = local_path(location)
    if not location or not root.is_dir():
        raise UserError(
            f"data.source={shown(Path(data.source))}: no such folder; expected PATH/train/<class>/<video> and "
            "PATH/test/<class>/<video>, or PATH/<class>/<video>, where a video is a file or a folder of frames"
        )
    if not (root / "train").is_dir():
        classes = _class_names(root)
        return ClipFolder(root, _part(root, classes), None, classes)
    classes = _class_names(root / "train")
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test_root is None:
        raise UserError(f"{shown(root)} has train/ but none of {', '.join(TEST_FOLDERS)}; give PATH/train to split it")
    if unknown := set(_class_names(test_root, least=0)) - set(classes):
        raise UserError(f"{shown(test_root)} has classes that train/ lacks: {', '.join(sorted(unknown))}")
    test = _part(test_root, classes, needed=False)
    if not test.files:
        raise UserError(f"{shown(test_root)} holds no video, and probes need test videos; add some, or give PATH/train")
    return ClipFolder(root, _part(root / "train", classes), test, classes)


def _class_names(root: Path, least: int = 2) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < least:
        raise UserError(f"{shown(root)} holds {len(names)} class folder(s); expected at least {least}")
    return tuple(names)


def _part(root: Path, classes: tuple[str, ...], needed: bool = True) -> Part:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _videos_in(root / name)
        if needed and not found:
            endings = ", ".join(sorted(VIDEO_EXTENSIONS))
            raise UserError(f"class folder {shown(root / name)} holds no video (a folder of frames, or {endings})")
        files += found
        labels += [label] * len(found)
    return Part(files, np.asarray(labels, dtype=np.int64))


def _videos_in(folder: Path) -> list[Path]:
    """Return video files and folders of frames right in a folder; `UserError` if PyAV, which they need, is missing."""
    videos = sorted(filter(is_video, folder.iterdir())) if folder.is_dir() else []
    if (file := next((path for path in videos if path.is_file()), None)) and not decoder_version():
        raise UserError(f"{shown(file)} is a video file, which needs PyAV: pip install 'mae-cli[video]'")
    return videos
