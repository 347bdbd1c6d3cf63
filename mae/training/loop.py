"""Pretraining from first step to result: one loop over epochs and steps, resumable at any step to the same bits."""

import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.pretext.base import KnownTokenizer, Pretext, under
from mae.pretext.beginning import Beginning
from mae.pretext.pictures import draw, shown_images, title_of
from mae.runs.directory import ENCODER, PRETEXT, RunDirectory
from mae.runs.metrics import (
    CHANCE_LOSS,
    COST_MEMORY,
    EPOCH,
    FINAL_LOSS,
    GRADIENT_NORM,
    IMAGES_PER_SECOND,
    LEARNING_RATE,
    LOSS,
    ONLINE,
    PEAK_MEMORY,
    SECONDS,
    STEPS,
)
from mae.runs.weights import weights_digest, write_weights
from mae.runtime.distributed import ALONE, Processes
from mae.runtime.interruption import Interrupted, Pruned, StopRequest
from mae.runtime.progress import Progress
from mae.runtime.system_metrics import system_metrics
from mae.training import checkpoints
from mae.training.background_saving import Saver
from mae.training.loader import micro_batches
from mae.training.step import Step, Trainer, check_finite

Evaluate = Callable[[Pretext, ImageData], dict[str, float]]
"""Says how good an encoder's features are so far, by metrics of its choice; `ONLINE` among them is for `watch`."""

Watch = Callable[[int, float], str]
"""Called after each online evaluation, with epochs done and k-NN top-1 in percent: why to prune the run, or ""."""


def pretrain(
    config: Config,
    data: ImageData,
    run: RunDirectory,
    device: torch.device,
    progress: Progress,
    stop: StopRequest,
    evaluate: Evaluate,
    processes: Processes = ALONE,
    watch: Watch = lambda epochs, accuracy: "",
    tokenizer: KnownTokenizer | None = None,
    beginning: Beginning | None = None,
) -> dict[str, Any]:
    """Pretrain to the end, from the last checkpoint if there is one; return what goes into `result.json`.

    All `processes` call this with the same arguments; process 0 alone uses `run`, the others return nothing. Raises
    `Interrupted` on a stop request and `Pruned` when `watch` says so, with everything saved.
    """
    trainer = Trainer(config, data, device, processes, tokenizer, beginning)
    _go_back(trainer, run, progress)
    with (
        Saver(run.checkpoints, device) as saver,
        progress.task("pretraining", trainer.total_steps, trainer.position.step, "steps") as task,
        closing(micro_batches(trainer)) as pieces,
    ):
        clock, online = _Clock(trainer.position.seconds), ""
        for index in range(trainer.position.step, trainer.total_steps):
            step = trainer.step(islice(pieces, config.train.micro_batches), index)
            epoch = index // trainer.steps_per_epoch
            stopped, pruned, note = processes.greatest(stop.number), "", ""  # all stop at the same step
            if not processes.leads:
                if stopped:
                    raise Interrupted(stopped)
                continue
            clock.add(step)
            last_of_epoch = trainer.position.step % trainer.steps_per_epoch == 0
            if trainer.position.step % config.run.log_every == 0 or last_of_epoch:
                means, bad_step = clock.read(config.train.batch_size, trainer.bad_step)
                check_finite(bad_step)
                metrics = means | {LEARNING_RATE: step.lr, EPOCH: epoch}
                if last_of_epoch and _due(config.run.knn_every, epoch + 1, config.train.epochs):
                    metrics |= evaluate(trainer.pretext, trainer.data)
                run.append_metrics(trainer.position.step, metrics | system_metrics(device))
                if ONLINE in metrics:
                    pruned, online = watch(epoch + 1, metrics[ONLINE]), f"  k-NN {metrics[ONLINE]:.1f} %"
                at, speed = f"epoch {epoch + 1}/{config.train.epochs}", metrics[IMAGES_PER_SECOND]
                note = f"{at}  loss {metrics[LOSS]:.4f}{online}  {speed:.0f} images/s"
            task.advance(1, note)
            if last_of_epoch and _due(config.run.picture_every, epoch + 1, config.train.epochs):
                title = title_of(run.path.name, config, f"epoch {epoch + 1}")
                draw(trainer.pretext, shown_images(data), run.pictures / f"epoch-{epoch + 1:04d}.png", title)
            if stopped or pruned:
                _save(trainer, clock, saver.save)
            elif saver.due(config.run.checkpoint_seconds):
                _save(trainer, clock, saver.begin)
            if pruned:
                raise Pruned(pruned)
            if stopped:
                raise Interrupted(stopped)
    if not processes.leads:
        return {}
    if not checkpoints.checkpoint(run.checkpoints, trainer.position.step).exists():
        _save(trainer, clock, saver.save)
    return _finish(trainer, run)


def _go_back(trainer: Trainer, run: RunDirectory, progress: Progress) -> None:
    """Continue from the last checkpoint, if there is one; process 0 reads it and forgets the curves after it."""
    processes = trainer.processes
    saved = processes.from_first(checkpoints.latest(run.checkpoints, progress.warn) if processes.leads else None)
    if saved is not None:
        trainer.restore(saved)
        progress.say(f"continuing at step {trainer.position.step} of {trainer.total_steps}")
        # Who adds up what: another order is another rounding.
        sums = {"process(es)": (saved["processes"], processes.count)}
        if trainer.device.type == "cpu":
            sums["thread(s)"] = saved["random"]["threads"], torch.get_num_threads()
        for name, (before, now) in sums.items():
            if before != now:
                progress.warn(f"by {before} {name} so far, now by {now}: equal to rounding, not to the bit")
    if processes.leads:
        run.forget_metrics_after(trainer.position.step)


def _save(trainer: Trainer, clock: "_Clock", save: Callable[[int, dict[str, Any]], None]) -> None:
    check_finite(int(trainer.bad_step))
    trainer.position.seconds = clock.seconds()
    save(trainer.position.step, trainer.state())


def _finish(trainer: Trainer, run: RunDirectory) -> dict[str, Any]:
    """Keep the weights, without the optimiser's state; the checkpoints go when the result is safe too."""
    state = trainer.pretext.state_dict()
    write_weights(run.path / ENCODER, under(state, "encoder."))
    write_weights(run.path / PRETEXT, {name: value for name, value in state.items() if name[:8] != "encoder."})
    points = [point["metrics"] for point in run.read_metrics()]  # none where nothing is learned
    learned = {FINAL_LOSS: points[-1][LOSS], COST_MEMORY: max(each[PEAK_MEMORY] for each in points)} if points else {}
    if (chance := trainer.pretext.chance_loss) is not None:
        learned[CHANCE_LOSS] = chance
    return {
        "weights_sha256": weights_digest(state),
        "metrics": {
            **learned,
            SECONDS: trainer.position.seconds,
            STEPS: trainer.position.step,
            **{f"cost/{name}": value for name, value in trainer.pretext.cost().items()},
        },
    }


def _due(every: int, epoch: int, epochs: int) -> bool:
    """Every `every` epochs and at the last one; never, if `every` is 0."""
    return every > 0 and (epoch == epochs or epoch % every == 0)


class _Clock:
    """Means and speed since the last point of the curves; reading it is the only wait for the device."""

    def __init__(self, seconds_before: float):
        self.started = time.monotonic() - seconds_before
        self._reset()

    def _reset(self) -> None:
        self.steps: list[Step] = []
        self.since = time.monotonic()

    def add(self, step: Step) -> None:
        self.steps.append(step)

    def read(self, batch_size: int, bad_step: Tensor) -> tuple[dict[str, float], int]:
        """Return the metrics since the last point, and a trainer's `bad_step` (), all in one copy from the device."""
        names = list(self.steps[0].losses)
        norms = torch.nan_to_num(torch.stack([step.norm for step in self.steps]), posinf=0.0)  # steps that fp16 skipped
        each = [torch.stack([step.losses[name] for step in self.steps]) for name in names]
        *means, norm, bad = torch.cat([torch.stack([*each, norms]).mean(dim=1), bad_step.to(norms)[None]]).tolist()
        speed = len(self.steps) * batch_size / (time.monotonic() - self.since)
        self._reset()
        metrics = {f"train/{name}": mean for name, mean in zip(names, means, strict=True)}
        return metrics | {GRADIENT_NORM: norm, IMAGES_PER_SECOND: speed}, int(bad)

    def seconds(self) -> float:
        return time.monotonic() - self.started
