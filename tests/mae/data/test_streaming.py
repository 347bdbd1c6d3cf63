import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.data.streaming import StreamedImages
from mae.errors import RunError, UserError
from mae.pretext.registry import new_pretext
from mae.probing.features import extract
from mae.probing.online import evaluate_online
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.training.loop import pretrain
from tests.conftest import TINY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 noise images in two classes for training, 20 for testing, one of them unreadable."""
    root, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 10)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 256, (8, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index:02d}.png")
    (root / "train" / "b" / "07.png").write_bytes(b"not an image")
    return root


def settings(folder: Path, limit: float, workers: int = 2, **more: object) -> Config:
    return build(
        {
            **TINY,
            "data.source": f"folder:{folder}",
            "data.channels": 3,
            "data.skip_bad_images": True,
            "train.batch_size": 40,
            "run.cache_limit_gb": limit,
            "run.loader_workers": workers,
            **more,
        }
    )


def load(config: Config) -> ImageData:
    return load_data(config.data, config.run, Silent())


def trained(config: Config, data: ImageData, path: Path, stop: StopRequest | None = None) -> str:
    return pretrain(config, data, RunDirectory(path), CPU, Silent(), stop or StopRequest(), evaluate_online)[
        "weights_sha256"
    ]


def workers_of(process: int) -> list[psutil.Process]:
    """Return the processes that decode for `process`, the youngest last."""
    children = [each for each in psutil.Process(process).children() if "spawn_main" in " ".join(each.cmdline())]
    return sorted(children, key=psutil.Process.create_time)


@pytest.mark.parametrize("workers", [1, 3])
def test_streamed_images_train_the_same_bits_as_cached_ones(workers: int, folder: Path, tmp_path: Path) -> None:
    cached_config, config = settings(folder, 1.0), settings(folder, 0.0, workers)
    cached, streamed = load(cached_config), load(config)
    assert isinstance(streamed.train.images, StreamedImages)
    assert (streamed.mean, streamed.std, streamed.left_out) == (cached.mean, cached.std, cached.left_out)
    assert streamed.train.labels.equal(cached.train.labels)
    assert trained(config, streamed, tmp_path / "1") == trained(cached_config, cached, tmp_path / "2")
    pretext, indexes = new_pretext(config, cached), torch.arange(20).flip(0)
    features = [extract(pretext, data.test.images, indexes, "both", CPU, Silent()) for data in (cached, streamed)]
    assert features[0].equal(features[1])


def test_a_batch_may_be_of_one_image(folder: Path) -> None:
    cached, streamed = (load(settings(folder, limit)).test.images for limit in (1.0, 0.0))
    chosen = [torch.tensor([3]), torch.tensor([0, 5]), torch.tensor([1])]
    for one, other in zip(cached.batches(chosen), streamed.batches(chosen), strict=True):
        assert one.equal(other)


def test_mean_and_deviation_are_those_of_the_readable_pixels(folder: Path) -> None:
    data = load(settings(folder, 1.0))
    pixels = data.train.images.pixels.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), unbiased=False).tolist(), rel=1e-12)


def test_a_bad_image_is_found_before_training(folder: Path) -> None:
    with pytest.raises(UserError, match=r"b/07\.png is not an image"):
        load(settings(folder, 0.0, **{"data.skip_bad_images": False}))


def test_images_are_looked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(settings(folder, 0.0))
    monkeypatch.setattr("mae.data.dataset._build", None)
    assert len(load(settings(folder, 0.0)).left_out) == 1


class KillWorker(StopRequest):
    """Does not stop the run, but kills one of its worker processes after the first step."""

    def __init__(self) -> None:
        self.killed = False

    @property
    def number(self) -> int:  # type: ignore[override]
        if not self.killed:
            workers_of(os.getpid())[-1].kill()
            self.killed = True
        return 0


def test_a_run_whose_worker_was_killed_fails_and_can_be_continued(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, 0.0, **{"run.checkpoint_seconds": 0.0, "train.epochs": 6})
    whole = trained(config, load(config), tmp_path / "whole")
    with pytest.raises(RunError, match="process that decodes images died"):
        trained(config, load(config), tmp_path / "parts", KillWorker())
    assert list((tmp_path / "parts").glob("checkpoints/*"))
    assert trained(config, load(config), tmp_path / "parts") == whole


def test_when_a_worker_dies_the_others_end(folder: Path) -> None:
    images = load(settings(folder, 0.0)).train.images  # held to the end, as by a traceback
    next(images.batches([torch.arange(40)]))
    first, second = workers_of(os.getpid())[-2:]
    first.kill()
    assert not psutil.wait_procs([second], timeout=20)[1]


HOLD = """
import sys, time
from pathlib import Path
from tests.mae.data.test_streaming import load, settings
import torch
images = load(settings(Path(sys.argv[1]), 0.0)).train.images
batches = images.batches([torch.arange(40)] * 1000)
next(batches)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(folder: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process with two workers, asleep."""
    script = tmp_path / "hold.py"
    script.write_text(f"if __name__ == '__main__':\n    exec({HOLD!r})\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_workers_ignore_signals_and_end_with_a_killed_main_process(holder: "subprocess.Popen[str]") -> None:
    workers = workers_of(holder.pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for worker in workers:
            worker.send_signal(number)
    assert len(psutil.wait_procs(workers, timeout=0.5)[1]) == 2
    holder.kill()
    holder.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
