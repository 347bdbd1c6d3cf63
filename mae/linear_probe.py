"""Linear probes on frozen features, batch norm without affine before the classifier (appendix A.1, Table 10)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config import LinearProbeConfig
from mae.draws import generator
from mae.progress import Task
from mae.schedule import lr_at, peak_lr

Views = Callable[[int], Tensor]
"""The training features (n, D) of an epoch: the same each time, or of newly augmented images."""


def standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Return every (n, D) less the training mean over its deviation: batch norm without affine, over the whole set."""
    mean, std = train.mean(dim=0), (train.var(dim=0, unbiased=False) + 1e-6).sqrt()
    return [(features - mean).div_(std) for features in (train, *others)]  # raw pixels of many images fill the memory


def fit_logistic(
    features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], task: Task, start: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield weights (classes, D + 1), bias last, of multinomial logistic regression by L-BFGS, penalty by penalty.

    Minimises mean cross-entropy + penalty / 2 * |weights|^2, the bias not penalised, on features (n, D). Each fit
    begins where the one before ended, the first at `start` or zero.

    The search runs along the principal axes of the features, each in units of its curvature. The minimum is the same;
    without this, neighbouring pixels, which are nearly equal, cost hundreds of steps more.
    """
    variances, axes = torch.linalg.eigh(features.T @ features / len(features))
    weights = torch.zeros(classes, features.shape[1] + 1, device=features.device) if start is None else start
    for penalty in penalties:
        # Cross-entropy curves by p (1 - p) of a class's probability times the variance; p = 1 / classes at first.
        curvature = variances.clamp(min=0) * (classes - 1) / classes**2 + penalty
        units = (curvature + 1e-6 * curvature.max()).rsqrt()
        weights = _minimise(weights, features, labels, penalty, axes, units, task)
        yield weights


def _minimise(
    weights: Tensor, features: Tensor, labels: Tensor, penalty: float, axes: Tensor, units: Tensor, task: Task
) -> Tensor:
    """Return the weights of least loss, from `weights` on; steps are along `axes` (D, D, columns) in `units` (D,)."""
    place = torch.cat([weights[:, :-1] @ axes / units, weights[:, -1:]], dim=1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [place], max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def here() -> Tensor:
        return torch.cat([place[:, :-1] * units @ axes.T, place[:, -1:]], dim=1)

    def closure() -> Tensor:
        task.advance(0)  # a fit on raw pixels takes a minute, and whoever wants to stop it waits
        optimizer.zero_grad()
        weights = here()
        loss = F.cross_entropy(scores(weights, features), labels) + penalty / 2 * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return here().detach()


def scores(weights: Tensor, features: Tensor) -> Tensor:
    """Return logits (n, classes) of features (n, D) under weights (classes, D + 1)."""
    return F.linear(features, weights[:, :-1], weights[:, -1])


def lbfgs_predict(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, config: LinearProbeConfig, seed: int, task: Task
) -> tuple[Tensor, dict[str, float]]:
    """Return predicted classes (m,) and the penalty chosen; test images have no say in it.

    Penalties are fitted on the rest of train and judged on a held-out part, from the strongest on, until two in a
    row are no better than the best; the best is fitted on all of train.
    """
    order = torch.randperm(len(train), generator=generator(seed, "probe holdout"))
    held = max(1, round(len(train) * config.holdout_fraction))
    chosen_fit, chosen_held = order[held:], order[:held]
    fit, judge = standardise(train[chosen_fit], train[chosen_held])
    penalties = sorted(config.penalties, reverse=True)  # strongest first: each fit starts from a simpler one
    best, best_accuracy, best_weights, since_best = penalties[0], -1.0, None, 0
    fits = fit_logistic(fit, labels[chosen_fit], classes, penalties, task)
    for penalty, weights in zip(penalties, fits, strict=False):
        accuracy = (scores(weights, judge).argmax(1) == labels[chosen_held]).float().mean().item()
        since_best += 1
        if accuracy > best_accuracy:
            best, best_accuracy, best_weights, since_best = penalty, accuracy, weights, 0
        task.advance()
        if since_best == 2:
            break
    del fits, fit, judge
    train, test = standardise(train, test)
    weights = next(fit_logistic(train, labels, classes, [best], task, best_weights))
    return scores(weights, test).argmax(1), {"penalty": best, "holdout_top1": 100 * best_accuracy}


def lars_predict(
    views: Views, labels: Tensor, test: Tensor, classes: int, config: LinearProbeConfig, seed: int, task: Task
) -> tuple[Tensor, dict[str, float]]:
    """Return predicted classes (m,) after the paper's protocol: LARS, momentum 0.9, no weight decay, cosine decay."""
    width = test.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), classifier).to(test.device)
    optimizer = create_optimizer_v2(head, opt="lars", lr=0.0, weight_decay=0.0, momentum=0.9)
    size = min(config.lars_batch_size, len(labels))
    steps, peak = len(labels) // size, peak_lr(config.lars_base_lr, size)
    for epoch in range(config.lars_epochs):
        features = views(epoch)
        order = torch.randperm(len(labels), generator=generator(seed, "probe order", epoch))
        for step in range(steps):
            chosen = order[step * size : (step + 1) * size]
            for group in optimizer.param_groups:
                group["lr"] = lr_at(epoch + step / steps, peak, config.lars_warmup_epochs, config.lars_epochs)
            optimizer.zero_grad()
            F.cross_entropy(head(features[chosen]), labels[chosen]).backward()
            optimizer.step()
        task.advance()
    head.eval()
    with torch.inference_mode():
        return head(test).argmax(1), {}
