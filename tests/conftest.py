"""Shared settings: one thread per process, a cache of its own, tiny pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mae.config.presets import PRESETS
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.runtime.progress import Silent

DIGITS = PRESETS["digits"].overrides
TINY = DIGITS | {
    "model.encoder.dim": 16,
    "model.encoder.depth": 2,
    "model.encoder.heads": 2,
    "model.decoder.dim": 8,
    "model.decoder.depth": 1,
    "model.decoder.heads": 2,
    "train.epochs": 2,
    "train.batch_size": 256,
    "train.base_lr": 1e-3,
    "train.warmup_epochs": 1.0,
    "run.log_every": 2,
}


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of processes that tests start: threads of several would wait in turn
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # whatever the load of the machine that runs the tests
    torch.set_num_threads(1)
    torch.manual_seed(0)  # a test that fails fails again


@pytest.fixture
def tiny() -> Config:
    """A pipeline of seconds on the embedded digits."""
    return build(TINY)


@pytest.fixture
def digits(tiny: Config) -> ImageData:
    return load_data(tiny.data, tiny.run, Silent())


@pytest.fixture
def tiny_settings() -> list[str]:
    """The same as `--set` arguments."""
    return [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def streamed(tmp_path: Path) -> dict[str, Any]:
    """Settings of a pipeline of seconds on a folder of images too many to keep decoded."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for name in ("a", "b"):
            (folder := tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    source = {"data.source": f"folder:{tmp_path / 'images'}", "run.cache_limit_gb": 0, "run.loader_workers": 1}
    return TINY | source | {"train.batch_size": 20}
