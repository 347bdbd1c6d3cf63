"""Pretraining: one loop over epochs and steps, resumable at any step to the same bits (appendix A.1)."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mae.config.tree import Config
from mae.data.augmentation import centre, draw, normalise, views
from mae.data.dataset import ImageData
from mae.errors import ImpossibleSettings, SettingsError
from mae.models.vit import load_official_state, official_state, parameter_count, patchify
from mae.pretext.flops import encoder_flops, training_flops
from mae.pretext.masked_autoencoder import MaskedReconstruction
from mae.pretext.reconstruction import save_picture
from mae.pretext.targets import build_target
from mae.probing.knn import online_accuracy
from mae.runs.directory import DECODER, ENCODER, ONLINE, RunDirectory
from mae.runs.weights import write_weights
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Progress
from mae.runtime.rng import generator
from mae.runtime.system_metrics import system_metrics
from mae.training import checkpoints
from mae.training.schedule import lr_at, peak_lr

TARGET_IMAGES = 2048
"""Training images whose patches a fitted target is fitted on."""

SAVING_APART = 20
"""Time between two checkpoints, at least, in times that the last one took: saving takes under 5 % of a run."""


@dataclass
class Position:
    """Where pretraining stands: optimiser steps taken, and seconds worked."""

    step: int = 0
    seconds: float = 0.0


class Pretraining:
    """Everything that a checkpoint has to hold, and the step, which `processes` take together."""

    def __init__(self, config: Config, data: ImageData, device: torch.device, processes: Processes = ALONE):
        self.config, self.data, self.device, self.processes = config, data.on(device), device, processes
        self.steps_per_epoch = steps_per_epoch(config, data)
        torch.manual_seed(config.train.seed)
        target = build_target(config, _sample_patches(config, data))
        self.objective = MaskedReconstruction(config, target).to(device)
        compiled: nn.Module = torch.compile(self.objective) if config.train.compile else self.objective  # type: ignore[assignment]
        self.parallel = processes.parallel(compiled, device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.objective, config.train.weight_decay), lr=0.0, betas=(0.9, 0.95), fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.position = Position()
        self.bad_step = torch.full((), -1, device=device)  # first step whose loss or gradient was not finite
        if processes.count > 1:
            self._settle_buckets()

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    def step(self, images: Tensor, index: int) -> tuple[Tensor, Tensor, float]:
        """Take optimiser step `index` on uint8 images (B, C, h, w), this process's share of the batch; return loss and
        gradient norm of the whole batch, still on the device, and the learning rate."""
        train = self.config.train
        peak = peak_lr(train.base_lr, train.batch_size)
        lr = lr_at(index / self.steps_per_epoch, peak, train.warmup, train.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        share = self.processes.part(train.batch_size)
        crops = generator(train.seed, "augmentation", index)
        draws = draw(self.config.data, train.batch_size, images.shape[2:], crops)[share]
        order = self.objective.sample(generator(train.seed, "mask", index), train.batch_size)[share].to(self.device)
        loss = torch.zeros((), device=self.device)
        size = len(images) // train.micro_batches
        for number in range(train.micro_batches):  # nothing but draws and stored images is ever there for more than one
            piece = slice(number * size, (number + 1) * size)
            stored = images[piece].to(self.device, non_blocking=True)
            cropped = normalise(views(stored, self.config.data, draws[piece]), self.data)
            with self.processes.exchanging(self.parallel, now=number + 1 == train.micro_batches):
                with _autocast(train.precision, self.device):
                    piece_loss = self.parallel(cropped, order[piece]) / train.micro_batches
                self.scaler.scale(piece_loss).backward()
            loss += piece_loss.detach()
        loss = self.processes.mean(loss)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), train.clip_norm or math.inf)
        # fp16 skips steps whose gradients overflow; elsewhere a number that is not finite is the end of the run.
        finite = loss.isfinite() & (norm.isfinite() | self.scaler.is_enabled())
        self.bad_step = torch.where((self.bad_step < 0) & ~finite, index, self.bad_step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.position.step = index + 1
        return loss, norm, lr

    def _settle_buckets(self) -> None:
        """Pass backwards once: DDP then fixes the order in which it sums, which would else differ in a resumed run."""
        count = self.config.train.batch_size // (self.processes.count * self.config.train.micro_batches)
        views = torch.zeros(count, self.config.data.channels, *self.config.data.image_size, device=self.device)
        order = torch.arange(self.config.patches, device=self.device).expand(count, -1)
        with _autocast(self.config.train.precision, self.device):
            loss = self.parallel(views, order)
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)

    def check_finite(self) -> None:
        """Raise `SettingsError` if a step since the start was not finite; nothing that follows it has been saved."""
        if int(self.bad_step) >= 0:
            raise SettingsError(
                f"loss or gradient is not finite at step {int(self.bad_step)}; the last checkpoint is sound"
            )

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs, as tensors and plain values."""
        return {
            "config": self.config.model_dump(mode="json"),
            "data_digest": self.data.digest,
            "model": official_state(self.objective.model),
            "target": self.objective.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.position.step,
            "seconds": self.position.seconds,
            "processes": self.processes.count,
            "random": checkpoints.random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, with its number of threads only if the config asks for the same bits."""
        load_official_state(self.objective.model, state["model"])
        self.objective.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(state["step"], state["seconds"])
        same_processes = state.setdefault("processes", 1) == self.processes.count
        if self.config.train.deterministic and same_processes:  # with others the bits differ anyway
            torch.set_num_threads(state["random"]["threads"])
        checkpoints.restore_random_state(state["random"])


def pretrain(
    config: Config,
    data: ImageData,
    run: RunDirectory,
    device: torch.device,
    progress: Progress,
    stop: StopRequest,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Pretrain to the end, from the last checkpoint if there is one; return what goes into `result.json`.

    All `processes` call this with the same arguments; process 0 alone uses `run`, the others return nothing.
    """
    work = Pretraining(config, data, device, processes)
    _go_back(work, run, progress)
    with progress.task("pretraining", work.total_steps, work.position.step) as task:
        clock = _Clock(work.position.seconds)
        for epoch in range(work.position.step // work.steps_per_epoch, config.train.epochs):
            for index, images in _epoch_batches(work, epoch):
                loss, norm, lr = work.step(images, index)
                stopped = processes.greatest(stop.number)  # all stop at the same step
                if not processes.leads:
                    if stopped:
                        raise stop.interruption(stopped)
                    continue
                clock.add(loss, norm)
                last_of_epoch = work.position.step % work.steps_per_epoch == 0
                if work.position.step % config.run.log_every == 0 or last_of_epoch:
                    work.check_finite()
                    metrics = clock.metrics(config.train.batch_size) | {"train/lr": lr, "train/epoch": epoch}
                    if last_of_epoch and _due(config.run.knn_every, epoch + 1, config.train.epochs):
                        metrics[ONLINE] = online_accuracy(work.objective.encoder, config.data, work.data, device)
                    run.append_metrics(work.position.step, metrics | system_metrics(device))
                    if ONLINE in metrics:
                        stopped = stop.evaluated(epoch + 1, metrics[ONLINE]) or stopped
                    note = f"loss {metrics['train/loss']:.4f}  {metrics['train/images_per_second']:.0f} images/s"
                task.advance(1, note if work.position.step % config.run.log_every == 0 or last_of_epoch else "")
                if last_of_epoch and _due(config.run.picture_every, epoch + 1, config.train.epochs):
                    save_picture(work.objective, config, data, run.pictures / f"epoch-{epoch + 1:04d}.png", device)
                if stopped or clock.should_save(config.run.checkpoint_seconds):
                    _save(work, run, clock)
                if stopped:
                    raise stop.interruption(stopped)
    if not processes.leads:
        return {}
    if not checkpoints.checkpoint(run.checkpoints, work.position.step).exists():
        _save(work, run, clock)
    return _finish(work, run)


def _go_back(work: Pretraining, run: RunDirectory, progress: Progress) -> None:
    """Continue from the last checkpoint, if there is one; process 0 reads it and forgets the curves after it."""
    processes = work.processes
    saved = processes.from_first(checkpoints.latest(run.checkpoints, progress.warn) if processes.leads else None)
    if saved is not None:
        work.restore(saved)
        progress.say(f"continuing at step {work.position.step} of {work.total_steps}")
        # Who adds up what: another order is another rounding.
        sums = {"process(es)": (saved["processes"], processes.count)}
        if work.device.type == "cpu":
            sums["thread(s)"] = saved["random"]["threads"], torch.get_num_threads()
        for name, (before, now) in sums.items():
            if before != now:
                progress.warn(f"by {before} {name} so far, now by {now}: equal to rounding, not to the bit")
    if processes.leads:
        run.forget_metrics_after(work.position.step)


def steps_per_epoch(config: Config, data: ImageData) -> int:
    """Return the optimiser steps of an epoch, a last incomplete batch left out; `ImpossibleSettings` if there
    is none."""
    images, batch = len(data.train.labels), config.train.batch_size
    if images < batch:
        raise ImpossibleSettings(f"train.batch_size={batch}: expected at most {images}, the number of training images")
    return images // batch


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into decayed and not: biases and norms (vectors) are not, matrices and tokens are."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _epoch_batches(work: Pretraining, epoch: int) -> Any:
    """Yield (step, images) for what is left of an epoch, of each batch this process's share.

    The order is a function of (seed, epoch).
    """
    batch, steps = work.config.train.batch_size, work.steps_per_epoch
    order = torch.randperm(len(work.data.train.labels), generator=generator(work.config.train.seed, "order", epoch))
    first = work.position.step - epoch * steps
    part = work.processes.part(batch)
    pieces = [order[index * batch : (index + 1) * batch][part] for index in range(first, steps)]
    return enumerate(work.data.train.images.batches(pieces), start=epoch * steps + first)


def _save(work: Pretraining, run: RunDirectory, clock: "_Clock") -> None:
    work.check_finite()
    work.position.seconds = clock.seconds()
    with clock.saving():
        checkpoints.save(run.checkpoints, work.position.step, work.state())


def _finish(work: Pretraining, run: RunDirectory) -> dict[str, Any]:
    """Keep the weights, without the optimiser's state; the checkpoints go when the result is safe too."""
    write_weights(run.path / ENCODER, work.objective.encoder.state_dict())
    write_weights(run.path / DECODER, work.objective.decoder_state())
    points = [point["metrics"] for point in run.read_metrics()]
    return {
        "weights_sha256": weights_digest(official_state(work.objective.model)),
        "metrics": {
            "train/final_loss": points[-1]["train/loss"],
            "cost/seconds": work.position.seconds,
            "cost/steps": work.position.step,
            "cost/parameters_encoder": parameter_count(work.objective.encoder),
            "cost/parameters": parameter_count(work.objective.model),
            "cost/gflops_per_image": training_flops(work.config, work.objective.target.outputs) / 1e9,
            "cost/gflops_encoder": encoder_flops(work.config) / 1e9,
            "cost/peak_memory_mb": max(point["system/peak_memory_mb"] for point in points),
        },
    }


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names and bytes of all weights: equal exactly if every bit is."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sample_patches(config: Config, data: ImageData) -> Tensor:
    """Return patches (n, P) of a seeded sample of training images, normalised; of one image if no target is fitted."""
    count = min(TARGET_IMAGES, len(data.train.labels)) if config.target.kind == "pca" else 1
    chosen = torch.randperm(len(data.train.labels), generator=generator(config.train.seed, "target"))[:count]
    images = next(iter(data.train.images.batches([chosen.sort().values])))
    return patchify(normalise(centre(images, config.data), data), config.model.patch_size).flatten(0, 1)


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _due(every: int, epoch: int, epochs: int) -> bool:
    """Every `every` epochs and at the last one; never, if `every` is 0."""
    return every > 0 and (epoch == epochs or epoch % every == 0)


class _Clock:
    """Means and speed since the last point of the curves; reading it is the only wait for the device."""

    def __init__(self, seconds_before: float):
        self.started = time.monotonic() - seconds_before
        self.saved = time.monotonic()
        self.saving_took = 0.0
        self._reset()

    def _reset(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.since = time.monotonic()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self.losses.append(loss)
        self.norms.append(norm)

    def metrics(self, batch_size: int) -> dict[str, float]:
        steps, loss = len(self.losses), torch.stack(self.losses).mean().item()
        norm = torch.nan_to_num(torch.stack(self.norms), posinf=0.0).mean().item()  # steps that fp16 skipped
        speed = steps * batch_size / (time.monotonic() - self.since)
        self._reset()
        return {"train/loss": loss, "train/gradient_norm": norm, "train/images_per_second": speed}

    def seconds(self) -> float:
        return time.monotonic() - self.started

    @contextmanager
    def saving(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.saved = time.monotonic()
        self.saving_took = self.saved - started

    def should_save(self, every: float) -> bool:
        """Say whether `every` seconds have passed since the last checkpoint, and `SAVING_APART` times what that took.

        At 0 every step is saved, whatever it takes.
        """
        return every == 0 or time.monotonic() - self.saved >= max(every, SAVING_APART * self.saving_took)
