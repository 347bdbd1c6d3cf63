"""One pretrain-then-probe pipeline for masked autoencoders (He et al., 2021, arXiv 2111.06377)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mae.exchange.feature_encoder import FeatureEncoder

__version__ = "0.1.0"


def load_encoder(source: str | Path, pooling: str | None = None, settings: Sequence[str] = ()) -> "FeatureEncoder":
    """Return a trained encoder, frozen and in eval mode: `features = load_encoder("runs/3fa9c1...")(images)`.

    `source` is a run's folder or a file that `mae-cli import` reads; `settings` say what a file does not, such as
    `["model.encoder.heads=12"]`. The module takes images (B, C, H, W), uint8 or floats in 0..1, of any size, resizes
    and normalises them as training did, and returns features (B, D): `pooling` is `class_token`, `patch_mean` or `both`
    (B, 2 D), by default what the run's probes read. `mae.errors.UserError` if there is no such model.
    """
    from mae.exchange.feature_encoder import load

    return load(source, pooling, settings)


class Finished(NamedTuple):
    """A finished run: its folder, and the metrics of its training and its probes by name, such as `knn/top1`."""

    folder: Path
    metrics: dict[str, float]


def run(
    settings: Mapping[str, Any], preset: str | None = None, runs_dir: str | Path = "runs", device: str = "auto"
) -> Finished:
    """Pretrain and probe, or take what is there, as `mae-cli run` does: `run({"data.source": "folder:photos"})`.

    `settings` are values by dotted key, which win over the preset. Nothing is printed, and MLflow hears of the run with
    the next command. `mae.errors.UserError` for what cannot be, `RunError` for a run that fails.
    """
    from mae.config.resolve import resolve_values
    from mae.pipeline import Workplace, run_pretraining, run_probes
    from mae.runs.named_runs import with_whole_fingerprints
    from mae.runtime.interruption import StopRequest
    from mae.runtime.machine import choose_device
    from mae.runtime.progress import Silent
    from mae.tracking.mlflow_store import NONE

    config = with_whole_fingerprints(resolve_values(preset, dict(settings)), Path(runs_dir))
    where = Workplace(Path(runs_dir), NONE, choose_device(device), Silent(), StopRequest())
    done = run_pretraining(config, where)
    return Finished(done.path, done.result()["metrics"] | run_probes(done, config, where))
