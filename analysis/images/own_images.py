"""`mae-cli features` and `mae-cli neighbours`: a run's encoder on a folder of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from analysis.images.features import feature_table, features_of_files, features_of_images
from analysis.images.files import class_of, image_files
from analysis.images.neighbours import evenly, file_figure, most_similar, neighbour_figure
from analysis.results.loading import check_ending, export
from mae.config.tree import Config
from mae.data.image_files import shown
from mae.errors import UserError
from mae.exchange.feature_encoder import FeatureEncoder
from mae.pipeline import Workplace, finished_model, images_of, stored_config
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StoppableTask, stop_on_signals
from mae.runtime.machine import choose_device
from mae.runtime.progress import Progress, Silent
from mae.tracking.mlflow_store import NONE


class OwnImages:
    """A finished run's encoder, as `settings` have it read, on a device."""

    def __init__(self, run: RunDirectory, settings: Sequence[str], config: Config, where: Workplace) -> None:
        self.run, self.config, self.where = run, config, where
        self.encoder = FeatureEncoder(finished_model(run, settings)).to(where.device)

    @contextmanager
    def _task(self, total: int) -> Iterator[StoppableTask]:
        with self.where.progress.task("features", total) as task:
            yield StoppableTask(task, self.where.stop)

    def write_features(self, folder: Path, to: Path) -> dict[str, Any]:
        """Write the table of a folder's images; say what is in it."""
        check_ending(to)
        files = image_files(folder)
        with self._task(len(files)) as task:
            read, features = features_of_files(self.encoder, files, self.where.device, task)
        export(feature_table(folder, read, features), to)
        left_out = [shown(file) for file in files if file not in {*read}]
        return {"file": str(to), "images": len(read), "features": features.shape[1], "left_out": left_out}

    def neighbours_in(self, folder: Path, images: Sequence[Path], count: int) -> tuple[Figure, list[dict[str, Any]]]:
        """Return a picture of images, or of some of the folder's, beside those of the folder most similar to them, and
        the same as rows."""
        for image in images:
            if not image.is_file():
                raise UserError(f"{shown(image)}: expected an image file; there is none")
        files = image_files(folder)
        with self._task(len(files) + len(images)) as task:
            files, features = features_of_files(self.encoder, files, self.where.device, task)
            asked, queries = [files[index] for index in evenly(len(files))], features[evenly(len(files))]
            if images:
                asked, queries = features_of_files(self.encoder, images, self.where.device, task)
        _check_count(len(files))
        places = {file.resolve(): index for index, file in enumerate(files)}
        own = torch.tensor([places.get(file.resolve(), -1) for file in asked])
        found = most_similar(queries, features, count, own)
        rows = [
            [file, *(files[index] for index in row)] for file, row in zip(asked, found.indexes.tolist(), strict=True)
        ]
        told = [
            {
                "image": shown(row[0]),
                "neighbours": [
                    {"path": shown(file), "class": class_of(file, folder), "similarity": similarity}
                    for file, similarity in zip(row[1:], similarities, strict=True)
                ],
            }
            for row, similarities in zip(rows, found.similarity.tolist(), strict=True)
        ]
        return file_figure(rows, folder, self.encoder.config), told

    def neighbours_in_test_images(self, count: int) -> tuple[Figure, list[dict[str, Any]]]:
        """Return the same of the run's test images, which are known by their numbers."""
        data = images_of(self.run, self.config, self.where)
        total = len(data.test.labels)
        _check_count(total)
        with self._task(total) as task:
            features = features_of_images(self.encoder, data.test.images, torch.arange(total), self.where.device, task)
        asked = torch.tensor(evenly(total))
        found = most_similar(features[asked], features, count, asked)
        numbers = torch.cat([asked[:, None], found.indexes], dim=1)
        names = [data.classes[label] if label >= 0 else "" for label in data.test.labels.tolist()]
        pictures = [*data.test.images.batches(list(numbers))]
        told = [
            {
                "image": row[0],
                "class": names[row[0]],
                "neighbours": [
                    {"image": index, "class": names[index], "similarity": similarity}
                    for index, similarity in zip(row[1:], similarities, strict=True)
                ],
            }
            for row, similarities in zip(numbers.tolist(), found.similarity.tolist(), strict=True)
        ]
        return neighbour_figure(pictures, [[names[index] for index in row] for row in numbers.tolist()]), told


@contextmanager
def own_images(
    run: RunDirectory, settings: Sequence[str], config: Config, device: str, progress: Progress
) -> Iterator[OwnImages]:
    """Give a run's encoder at work on images, until a signal stops it."""
    with stop_on_signals() as stop:
        yield OwnImages(run, settings, config, Workplace(run.path.parent, NONE, choose_device(device), progress, stop))


def _check_count(images: int) -> None:
    if images < 2:
        raise UserError("neighbours: expected at least 2 images to choose from, found 1")


def neighbours_of_a_run(path: Path, folder: Path | None, count: int) -> Figure:
    """Return the picture of a folder's images, or of the test images, as the run in the folder `path` sees them."""
    run = RunDirectory(path)
    with own_images(run, (), stored_config(run, (), ()), "cpu", Silent()) as images:
        return (images.neighbours_in(folder, (), count) if folder else images.neighbours_in_test_images(count))[0]
