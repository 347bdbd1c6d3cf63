from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.studies.encode_study import IMAGES, encode_study
from mae.config.resolve import build, change, to_toml
from mae.data.augmentation import centre
from mae.data.dataset import ImageData
from mae.pretext.registry import new_pretext
from mae.probing.features import pool
from mae.runs.directory import ENCODER, PRETEXT, Record, RunDirectory
from mae.runs.weights import read_weights, write_weights
from mae.runtime.progress import Silent
from tests.conftest import TINY
from tests.helpers.study_factory import fingerprint, study_frame_of

FRAME = study_frame_of(
    {"mae": [60.0], "rotation": [50.0]}, name="pretext", axis="", default="mae",
    overrides={kind: {"pretext.kind": kind} for kind in ("mae", "rotation")},
)  # fmt: skip


@pytest.fixture
def runs(runs_dir: Path, digits: ImageData) -> Path:
    """Runs of both tasks, which are called finished."""
    for kind in ("mae", "rotation"):
        config, run = (
            change(build(TINY), {"pretext.kind": kind}),
            RunDirectory(runs_dir / fingerprint("pretext", kind, 0)),
        )
        run.path.mkdir(parents=True)
        pretext = new_pretext(config, digits)
        rest = {name: value for name, value in pretext.state_dict().items() if not name.startswith("encoder.")}
        write_weights(run.path / ENCODER, pretext.encoder.state_dict())
        write_weights(run.path / PRETEXT, rest)
        run.write_text("config.toml", to_toml(config))
        run.write_record(Record(stage="pretrain", name="", fingerprint=run.path.name, data=digits.describe()))
        run.write_json("result.json", {})
    return runs_dir


def expected(digits: ImageData, kind: str, pooling: str) -> torch.Tensor:
    pretext = new_pretext(change(build(TINY), {"pretext.kind": kind}), digits).eval()
    chosen = torch.linspace(0, len(digits.test.labels) - 1, IMAGES).long()
    images = centre(next(iter(digits.test.images.batches([chosen]))), pretext.config.data)
    with torch.inference_mode():
        return pool(pretext.encoder(pretext.look(images)), pooling)


def test_features_are_those_of_each_runs_encoder_and_the_same_images(runs: Path, digits: ImageData) -> None:
    encoded = encode_study(FRAME, runs, Silent())
    assert (list(encoded.features), encoded.left_out) == ([("mae", 0), ("rotation", 0)], [])
    assert encoded.images.shape == (IMAGES, 8, 8, 1)
    assert encoded.pixels.shape == (IMAGES, 64)
    chosen = torch.linspace(0, len(digits.test.labels) - 1, IMAGES).long()
    assert encoded.labels.tolist() == digits.test.labels[chosen].tolist()
    for kind in ("mae", "rotation"):
        found = torch.from_numpy(encoded.features[kind, 0])
        torch.testing.assert_close(found, expected(digits, kind, "patch_mean"))


def test_features_are_read_as_the_study_probes_them(runs: Path, digits: ImageData) -> None:
    encoded = encode_study(FRAME.assign(base_probe="probe.features=class_token"), runs, Silent())
    torch.testing.assert_close(torch.from_numpy(encoded.features["mae", 0]), expected(digits, "mae", "class_token"))


def test_features_are_kept_and_a_damaged_copy_is_made_again(runs: Path) -> None:
    first = encode_study(FRAME, runs, Silent())
    (kept,) = (runs / fingerprint("pretext", "mae", 0) / "features").iterdir()
    write_weights(kept, {"features": read_weights(kept)["features"] + 1})
    assert (encode_study(FRAME, runs, Silent()).features["mae", 0] == first.features["mae", 0] + 1).all()
    kept.write_bytes(b"half")
    assert (encode_study(FRAME, runs, Silent()).features["mae", 0] == first.features["mae", 0]).all()


def test_a_damaged_run_is_named_and_left_out(runs: Path) -> None:
    name = fingerprint("pretext", "mae", 0)
    (runs / name / ENCODER).write_bytes(b"half a file")
    encoded = encode_study(FRAME, runs, Silent())
    assert list(encoded.features) == [("rotation", 0)]
    (told,) = encoded.left_out
    assert told.startswith(f"mae, seed 0 ({name}): ")
    assert "is damaged" in told


def test_runs_that_are_elsewhere_leave_nothing(tmp_path: Path) -> None:
    encoded = encode_study(FRAME, tmp_path, Silent())
    assert (len(encoded.labels), encoded.features) == (0, {})
    assert len(encoded.left_out) == 2


def test_runs_that_are_not_finished_are_not_asked_for(runs: Path) -> None:
    frame = pd.concat([FRAME[FRAME["cell"] == "mae"].assign(status="failed"), FRAME[FRAME["cell"] != "mae"]])
    encoded = encode_study(frame, runs, Silent())
    assert (list(encoded.features), encoded.left_out) == ([("rotation", 0)], [])
