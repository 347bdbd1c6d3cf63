"""Image files in a folder, decoded as an encoder's runs decode theirs."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from mae.config.tree import Config
from mae.data.image_files import EXTENSIONS, decode, shown
from mae.data.image_folders import TEST_FOLDERS
from mae.errors import UserError
from mae.runtime.progress import Task

BATCH = 128
"""Images that are decoded and encoded at a time."""


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, in it or below, by name; `UserError` if there is none."""
    if not folder.is_dir():
        raise UserError(f"{shown(folder)}: expected a folder of images; there is no such folder")
    found = (file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and not _hidden(file, folder))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"{shown(folder)}: no images; expected files that end in {', '.join(sorted(EXTENSIONS))}")
    return files


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def class_of(file: Path, folder: Path) -> str:
    """Return the class of an image as layouts of training images have it: its folder's name, "" if there is none.

    Of `train/cat/1.png` and `cat/old/1.png` it is `cat`; a file that lies in `folder` itself has no class.
    """
    parents = list(file.relative_to(folder).parts[:-1])
    if parents and parents[0] in ("train", *TEST_FOLDERS):
        del parents[0]
    return shown(Path(parents[0])) if parents else ""


def decoded(files: Sequence[Path], config: Config, task: Task) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield the files that can be read, batch by batch, and their pixels, uint8 (b, C, h, w), at the stored size.

    A file that cannot be read is a `UserError`, or left out with `data.skip_bad_images`.
    """

    def pixels(file: Path) -> Tensor | None:
        try:
            return torch.from_numpy(decode(file, config.data.stored_sides, config.data.channels).copy())
        except UserError as error:
            if config.data.skip_bad_images:
                return None
            raise UserError(f"{error}; --set data.skip_bad_images=true leaves such files out") from None

    with ThreadPoolExecutor(config.run.workers) as pool:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            read = [
                (file, image) for file, image in zip(batch, pool.map(pixels, batch), strict=True) if image is not None
            ]
            if read:
                yield [file for file, _ in read], torch.stack([image for _, image in read])
            task.advance(len(batch))
