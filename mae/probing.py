"""Probes: what a frozen encoder knows, beside the untrained encoder and raw pixels under the same probe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor, nn

from mae.augmentation import augment
from mae.config import Config, ProbeKind
from mae.data import ImageData
from mae.draws import generator
from mae.features import BATCH, extract, normalise, pool, raw_pixels
from mae.fingerprint import pretrain_fingerprint, probe_fingerprint, untrained_fingerprint
from mae.knn import knn_predict
from mae.linear_probe import lars_predict, lbfgs_predict
from mae.model import build_encoder
from mae.progress import Progress
from mae.run_directory import RunDirectory

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Subject:
    """What is probed: an encoder, or None for raw pixels; `fingerprint` identifies it."""

    name: str
    fingerprint: str
    encoder: nn.Module | None


def subjects(config: Config, data: ImageData, encoder: nn.Module) -> list[Subject]:
    """Return the pretrained encoder and its two baselines."""
    torch.manual_seed(config.train.seed)
    return [
        Subject("pretrained", pretrain_fingerprint(config, data.digest), encoder),
        Subject("untrained", untrained_fingerprint(config, data.digest), build_encoder(config)),
        Subject("pixels", untrained_fingerprint(_no_model(config), data.digest) + "-pixels", None),
    ]


def probe(kind: ProbeKind, config: Config, data: ImageData, subject: Subject, device: torch.device) -> dict[str, Any]:
    """Probe one subject; return top-1 on all test images in percent with its interval, and the choices made."""
    labelled = (data.train.labels >= 0).nonzero()[:, 0]
    labels = data.train.labels[labelled].to(device)
    train = _features(subject, data.train.images, labelled, config, data, device)
    test = _features(subject, data.test.images, torch.arange(len(data.test.labels)), config, data, device)
    classes, linear = len(data.classes), config.probe.linear
    chosen: dict[str, float] = {}
    if kind == "knn":
        predicted = knn_predict(train, labels, test, config.probe.knn.k, config.probe.knn.temperature, classes)
    elif linear.solver == "lbfgs":
        predicted, chosen = lbfgs_predict(train, labels, test, classes, linear, config.probe.seed)
    else:
        encoder = subject.encoder

        def views(epoch: int) -> Tensor:
            if encoder is None or not linear.lars_augment:
                return train
            return _augmented_features(encoder, labelled, epoch, config, data, device)

        predicted, chosen = lars_predict(views, labels, test, classes, linear, config.probe.seed)
    correct = predicted.cpu() == data.test.labels
    low, high = bootstrap_interval(int(correct.sum()), len(correct))
    return {"top1": 100 * correct.float().mean().item(), "low": low, "high": high, **chosen}


def bootstrap_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of an accuracy, in percent, over test images.

    Resampling 0/1 outcomes draws their sum from a binomial distribution, so its quantiles are the bootstrap's limit
    of infinitely many resamples.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = binom.ppf([tail, 1 - tail], count, correct / count)
    return 100 * float(low) / count, 100 * float(high) / count


def baseline(
    kind: ProbeKind, config: Config, data: ImageData, subject: Subject, runs_dir: Path, device: torch.device
) -> dict[str, Any]:
    """Probe a baseline, or return what an earlier run with the same one found."""
    shelf = RunDirectory(runs_dir / "baselines" / f"{kind}-{probe_fingerprint(config, kind, subject.fingerprint)}")
    if (found := shelf.result()) is not None:
        return dict(found)
    result = probe(kind, config, data, subject, device)
    shelf.path.mkdir(parents=True, exist_ok=True)
    shelf.write_json("result.json", result)
    return result


def probe_all(
    kind: ProbeKind,
    config: Config,
    data: ImageData,
    encoder: nn.Module,
    runs_dir: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """Probe the pretrained encoder and both baselines; return flat metrics such as `knn/top1`, `knn/pixels_top1`."""
    metrics: dict[str, float] = {}
    data = data.on(device)
    pretrained, *baselines = subjects(config, data, encoder)
    with progress.task(f"{kind} probe", 1 + len(baselines)) as task:
        for name, value in probe(kind, config, data, pretrained, device).items():
            metrics[f"{kind}/{name}"] = value
        task.advance(1, f"top-1 {metrics[f'{kind}/top1']:.2f} %")
        for subject in baselines:
            for name, value in baseline(kind, config, data, subject, runs_dir, device).items():
                metrics[f"{kind}/{subject.name}_{name}"] = value
            task.advance()
    return metrics


def _no_model(config: Config) -> Config:
    """The pixels' probe does not depend on the encoder or the seed."""
    return config.model_copy(update={"model": Config().model, "train": config.train.model_copy(update={"seed": 0})})


def _features(
    subject: Subject, images: Any, indexes: Tensor, config: Config, data: ImageData, device: torch.device
) -> Tensor:
    if subject.encoder is None:
        return raw_pixels(images, indexes, config.data, data).to(device)
    encoder = subject.encoder.to(device)
    return extract(encoder, images, indexes, config.data, data, config.probe.features, device).to(device)


@torch.inference_mode()
def _augmented_features(
    encoder: nn.Module, indexes: Tensor, epoch: int, config: Config, data: ImageData, device: torch.device
) -> Tensor:
    """Return features (n, D) of random resized crops, new ones each epoch, as the paper's linear probe trains on."""
    cropped = config.data.model_copy(update={"augmentation": "random_resized_crop"})
    encoder.eval()
    parts = []
    for number, batch in enumerate(data.train.images.batches(indexes.split(BATCH))):
        draws = generator(config.probe.seed, f"probe augmentation {epoch}", number)
        views = normalise(augment(batch.to(device), cropped, draws), data)
        parts.append(pool(encoder(views), config.probe.features).float())
    return torch.cat(parts).clone()
