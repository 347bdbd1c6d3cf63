"""What worker processes that decode are given: little memory each, whatever the number of images."""

import os
import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mae.config.data_section import DataConfig
from mae.data.decode_workers import Workers
from mae.data.image_files import PathList
from mae.data.sources import _file_decoder

PATHS = ["/data/a/1.png", "/data/ä/" + "long" * 50 + ".png", os.fsdecode(b"/data/\xff.png"), "relative.png"]


def test_a_list_of_paths_gives_them_back() -> None:
    paths = PathList.of(PATHS)
    assert [paths[index] for index in range(len(PATHS))] == [Path(path) for path in PATHS]


def test_a_decoder_of_many_files_takes_little_more_than_their_paths() -> None:
    paths = [f"/data/train/n{index % 1000:08}/n{index % 1000:08}_{index}.JPEG" for index in range(20_000)]
    sent = pickle.dumps(_file_decoder(paths, DataConfig()))
    tracemalloc.start()
    arrived = pickle.loads(sent)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert arrived.args[0][19_999] == Path(paths[-1])
    assert max(len(sent), taken) < sum(map(len, paths)) + 20 * len(paths)


def facts(array: np.ndarray, empty: np.ndarray, text: np.ndarray, index: int) -> np.ndarray:
    """In the place of an image: what a worker's arrays are like."""
    aligned = array.ctypes.data % array.itemsize == 0
    return np.array([array[index], array.flags.owndata, array.flags.writeable, aligned, len(empty), text[index]])


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    numbers = np.arange(100_000) + 5
    odd = np.arange(3, dtype=np.uint8)  # what follows it would lie askew
    return Workers({"odd": partial(facts, odd, odd, odd), "it": partial(facts, numbers, odd[:0], odd)}, 1, tmp_path)


def test_arrays_arrive_whole_and_are_mapped_not_copied(workers: Workers) -> None:
    (found,) = workers.decode("it", [[0, 2]], 1)
    assert found.tolist() == [[5, False, False, True, 0, 0], [7, False, False, True, 0, 2]]


def test_shared_arrays_lie_in_a_file_that_no_crash_leaves_behind(workers: Workers, tmp_path: Path) -> None:
    next(workers.decode("it", [[0]], 1))
    assert not list(tmp_path.iterdir())
