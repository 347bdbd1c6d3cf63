"""Probes that are trained by gradients: one loop of AdamW over epochs and batches, resumable at any step.

A model has a frozen part, `front`, and a trained one. Whatever is random follows from the probe's seed and the
position, so that a fit that was cut off ends with the same bits.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.probe_sections import FinetuneProbeConfig, FitConfig
from mae.data.augmentation import augment, centre
from mae.data.dataset import Images
from mae.errors import SettingsError
from mae.probing import randaugment
from mae.probing.feature_memory import gathered
from mae.probing.features import batch_size, told
from mae.probing.kinds import probe_title
from mae.probing.mixing import draw_erased, draw_mix, erase, mix
from mae.probing.subject import Setup, holdout
from mae.runs.metrics import EPOCH, LEARNING_RATE, LOSS
from mae.runtime.autocast import encoding_precision, mixed
from mae.runtime.rng import branch, generator
from mae.runtime.system_metrics import free_memory
from mae.training.schedule import lr_at, peak_lr, set_rates

HELD_OUT = "train/holdout_top1"
"""The point of a fit's curves that tells its accuracy on the training images held out, %."""

Look = Callable[[Tensor], Tensor]
"""Makes of images (B, C, H, W) in 0..1 what an encoder takes."""


class Learner(nn.Module):
    """A classifier on top of an encoder, with all state that resuming its fit needs."""

    loss_sum: Tensor
    frozen = True
    """Whether `front` is more than what the encoder takes."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look
        self.register_buffer("loss_sum", torch.zeros(()))  # of the epoch's steps so far: curves resume too

    def front(self, seen: Tensor) -> Tensor:
        """Return what enters the trained part, (B, ...), of what the encoder takes; no gradient passes."""
        raise NotImplementedError

    def forward(self, entering: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters in groups with `weight_decay` and `lr_scale`, as timm makes them."""
        raise NotImplementedError


class Examples:
    """The labelled images that a learner sees, as they enter its trained part.

    Where images are not augmented and something is frozen, that is computed once for all epochs, if half of the free
    memory has room for it: all patches of ImageNet's images would take 770 GB.
    """

    def __init__(self, learner: Learner, setup: Setup, recipe: FinetuneProbeConfig | None) -> None:
        self.learner, self.setup = learner, setup
        self.recipe = recipe if recipe and recipe.augment else None
        self.smoothing = recipe.smoothing if recipe else 0.0
        self.images = setup.data.on(setup.device).train.images
        self.indexes, self.labels = setup.learned_from(), setup.labels()
        self.kept = self._computed_once() if learner.frozen and self.recipe is None else None

    def entering(self, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield what enters the trained part, (b, ...), of images that are not augmented, at each of `places` (b,)."""
        if self.kept is not None:
            yield from (self.kept[chosen].to(self.setup.device) for chosen in places)
            return
        yield from fronts(self.learner, self.images, [self.indexes[chosen] for chosen in places], self.setup)

    def to_learn(self, places: Sequence[Tensor], epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what enters the trained part and distributions over classes (b, classes), for each of `places` (b,).

        They are the batches of an epoch from its `first` on.
        """
        classes = len(self.setup.data.classes)
        if self.recipe is None:
            for chosen, entering in zip(places, self.entering(places), strict=True):
                hot = F.one_hot(self.labels[chosen.to(self.labels.device)], classes)
                yield entering, hot * (1 - self.smoothing) + self.smoothing / classes
            return
        stored = self.images.batches([self.indexes[chosen] for chosen in places])
        for number, (chosen, batch) in enumerate(zip(places, stored, strict=True), first):
            draws = generator(self.setup.config.probe.seed, f"tuning views {epoch}", number)
            seen, targets = self._augmented(batch, self.labels[chosen.to(self.labels.device)], draws)
            yield fronted(self.learner, seen), targets

    def _augmented(self, batch: Tensor, labels: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        recipe, data, device = self.recipe, self.setup.config.data, self.setup.device
        assert recipe is not None
        own = {"augmentation": "random_resized_crop", "crop_scale": recipe.crop_scale, "flip": recipe.flip}
        shown = augment(batch.to(device, non_blocking=True), data.model_copy(update=own), draws)
        if recipe.randaugment:
            changes = randaugment.draw(recipe.randaugment, len(shown), branch(draws, "randaugment"))
            shown = randaugment.randaugment(shown, changes, shown.new_tensor(self.setup.data.mean).view(-1, 1, 1))
        seen, size = self.learner.look(shown), data.image_size
        if recipe.erasing:
            seen = erase(seen, draw_erased(recipe.erasing, len(seen), size, draws).to(device, non_blocking=True))
        return mix(seen, labels, draw_mix(recipe, size, draws), len(self.setup.data.classes), recipe.smoothing)

    def _computed_once(self) -> Tensor | None:
        first = next(fronts(self.learner, self.images, [self.indexes[:1]], self.setup))
        if first.nbytes * len(self.indexes) > free_memory(torch.device("cpu")) / 2:
            return None
        parts = self.indexes.split(batch_size(self.setup.device))
        with self.setup.task("what is frozen, of train images", len(self.indexes), unit="images") as task:
            rows = (each.flatten(1) for each in fronts(self.learner, self.images, parts, self.setup))
            return gathered(told(rows, task), len(self.indexes)).unflatten(1, first.shape[1:])


def fronts(learner: Learner, images: Images, indexes: Sequence[Tensor], setup: Setup) -> Iterator[Tensor]:
    """Yield what enters the trained part, (b, ...), of images that are not augmented, at each of `indexes` (b,)."""
    for batch in images.batches(indexes):
        yield fronted(learner, learner.look(centre(batch.to(setup.device, non_blocking=True), setup.config.data)))


@torch.no_grad()
def fronted(learner: Learner, seen: Tensor) -> Tensor:
    """Return what enters the trained part, float32 (b, ...)."""
    with mixed(encoding_precision(seen.device), seen.device):
        return learner.front(seen).float()


def fit_and_predict(
    kind: str, name: str, learner: Learner, config: FitConfig, setup: Setup
) -> tuple[Tensor, dict[str, float]]:
    """Fit a learner; return the classes (m,) of all test images and `holdout_top1`, the accuracy on those held out.

    It learns from the rest of the labelled images only. `config` is the fit's; one of fine-tuning has augmentation too.
    The weights after the last epoch are used.
    """
    learner.to(setup.device)
    examples = Examples(learner, setup, config if isinstance(config, FinetuneProbeConfig) else None)
    held, rest = (each.sort().values for each in holdout(len(examples.indexes), setup.config.probe))
    with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
        fit(f"{probe_title(kind)}, {name}", learner, examples, held, rest, config)
    parts = torch.arange(len(setup.data.test.labels)).split(batch_size(setup.device))
    with setup.task(f"test images, {name}", len(setup.data.test.labels), unit="images") as task:
        predicted = predict(learner, told(fronts(learner, setup.data.test.images, parts, setup), task))
    return predicted, {"holdout_top1": held_out_top1(learner, examples, held)}


def fit(name: str, learner: Learner, examples: Examples, held: Tensor, rest: Tensor, config: FitConfig) -> None:
    """Train a learner in place on the examples at places `rest` (n,), and measure it on those at `held` per epoch.

    AdamW with linear warm-up and cosine decay; an epoch is the whole batches of `rest` in a new order. Fits that were
    cut off are continued; one that is asked to stop saves its state.
    """
    setup = examples.setup
    optimizer = torch.optim.AdamW(learner.groups(), lr=0.0, betas=(0.9, 0.999), fused=True)
    size = min(config.batch_size, len(rest))
    steps, saved = len(rest) // size, setup.checkpoints()
    done, note = saved.restore(learner, optimizer), ""
    if setup.run is not None:
        setup.run.forget_metrics_after(done)
    with setup.task(name, steps * config.epochs, done, "steps") as task:
        for epoch in range(done // steps, config.epochs):
            order = rest[torch.randperm(len(rest), generator=generator(setup.config.probe.seed, "tuning order", epoch))]
            places, first = order.split(size)[:steps], max(0, done - epoch * steps)
            for number, (entering, targets) in enumerate(examples.to_learn(places[first:], epoch, first), first):
                step = epoch * steps + number
                set_rates(optimizer, lr_at(step / steps, peak_lr(config.base_lr, size), config.warmup, config.epochs))
                take_step(learner, optimizer, entering, targets, config.micro_batches, setup.config.probe.seed, step)
                if number == steps - 1:
                    note = _end_epoch(name, learner, optimizer, steps, epoch, examples, held)
                save = saved.save if task.stop.number else saved.save_if_due
                save(learner, optimizer, step + 1)
                task.advance(1, note)


def take_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    entering: Tensor,
    targets: Tensor,
    micro_batches: int,
    seed: int,
    step: int,
) -> None:
    """Take a step on what enters the trained part, (B, ...), and distributions over classes (B, classes), in pieces."""
    torch.manual_seed(generator(seed, "tuning step", step).initial_seed())  # which paths are dropped
    for piece, of in zip(entering.chunk(micro_batches), targets.chunk(micro_batches), strict=True):
        with mixed(encoding_precision(piece.device), piece.device):
            logits = learner(piece)
        loss = F.cross_entropy(logits.float(), of) * (len(piece) / len(entering))
        loss.backward()
        learner.loss_sum += loss.detach()
    optimizer.step()
    optimizer.zero_grad()


def _end_epoch(
    name: str,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    steps: int,
    epoch: int,
    examples: Examples,
    held: Tensor,
) -> str:
    """Add a point to the curves, and return it in words; `SettingsError` if the loss is not finite."""
    loss, run = learner.loss_sum.item() / steps, examples.setup.run
    learner.loss_sum.zero_()
    if not math.isfinite(loss):
        raise SettingsError(f"{name}: the loss is not finite in epoch {epoch + 1}; a lower base_lr may help")
    accuracy, rate = held_out_top1(learner, examples, held), max(group["lr"] for group in optimizer.param_groups)
    if run is not None:
        point = {LOSS: loss, LEARNING_RATE: rate, EPOCH: epoch, HELD_OUT: accuracy}
        run.append_metrics((epoch + 1) * steps, point)
    return f"loss {loss:.4f}  held out {accuracy:.1f} %"


def held_out_top1(learner: Learner, examples: Examples, held: Tensor) -> float:
    """Return the accuracy in percent on the examples at places `held` (n,), not augmented."""
    predicted = predict(learner, examples.entering(held.split(batch_size(examples.setup.device))))
    return 100 * (predicted == examples.labels[held.to(predicted.device)]).float().mean().item()


@torch.no_grad()
def predict(learner: Learner, entering: Iterator[Tensor]) -> Tensor:
    """Return the classes (n,) of what enters the trained part in pieces (b, ...)."""
    learner.eval()
    found = []
    for each in entering:
        with mixed(encoding_precision(each.device), each.device):
            found.append(learner(each).argmax(dim=1))
    learner.train()
    return torch.cat(found)
