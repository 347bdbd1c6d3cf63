"""Linear probes on frozen features, batch norm without affine before the classifier (appendix A.1, Table 10)."""

from collections.abc import Callable, Sequence

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from mae.config.probe_sections import LinearProbeConfig
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.probing.pieces import Pieces, Rows
from mae.runtime.interruption import StoppableTask
from mae.runtime.rng import generator
from mae.training.schedule import lr_at, peak_lr, set_rates

Views = Callable[[int], Tensor]
"""The training features (n, D) of an epoch: the same each time, or of newly augmented images."""

Holdout = tuple[Tensor, Tensor]
"""Indexes of the training features that are held out, and of the rest, both shuffled."""

Check = Callable[[], object]
"""Called before each piece of an evaluation of a loss, which takes seconds on ImageNet; what it raises ends the fit."""

WEAKEST, STRONGEST = 1e-10, 10.0
"""Penalties are tried beyond the ends of the grid as far as this."""


def principal_axes(pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Return the variances (K,) of features (n, D) of mean 0 along their principal axes, and these (D, K), columns.

    K is D, or n where images are few: penalised weights of least loss are then sums of the features of these images.
    """
    gram, count = torch.zeros(()), 0
    for piece in pieces:
        gram, count = piece.T @ piece + gram.to(piece), count + len(piece)
    covariance = gram / count
    if 2 * count > len(covariance):
        variances, axes = torch.linalg.eigh(covariance)
        return variances.clamp(min=0), axes
    basis = torch.linalg.qr(torch.cat([*pieces]).T).Q  # (D, n)
    variances, axes = torch.linalg.eigh(basis.T @ covariance @ basis)
    return variances.clamp(min=0), basis @ axes


def fit_logistic(
    pieces: Pieces,
    labels: Tensor,
    classes: int,
    penalty: float,
    principal: tuple[Tensor, Tensor],
    check: Check,
    start: Tensor | None = None,
) -> Tensor:
    """Return weights (classes, D + 1), bias last, of multinomial logistic regression by L-BFGS, from `start` or zero.

    Minimises mean cross-entropy + penalty / 2 * |weights|^2, the bias not penalised, on features (n, D) of which
    `pieces` are consecutive rows, as loss and gradient are sums over images.

    The search runs along the `principal` axes of the features, each in units of its curvature. The minimum is the same;
    without this, neighbouring pixels, which are nearly equal, cost hundreds of steps more.
    """
    variances, axes = principal
    weights = axes.new_zeros(classes, len(axes) + 1) if start is None else start
    # Cross-entropy curves by p (1 - p) of a class's probability times the variance; p = 1 / classes at first.
    curvature = variances * (classes - 1) / classes**2 + penalty
    units = (curvature + 1e-6 * curvature.max()).rsqrt()
    return _minimise(weights, pieces, labels, penalty, axes, units, check)


def _minimise(
    weights: Tensor, pieces: Pieces, labels: Tensor, penalty: float, axes: Tensor, units: Tensor, check: Check
) -> Tensor:
    """Return the weights of least loss, from `weights` on; steps are along `axes` (D, K, columns) in `units` (K,)."""
    point = torch.cat([weights[:, :-1] @ axes / units, weights[:, -1:]], dim=1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def here() -> Tensor:
        return torch.cat([point[:, :-1] * units @ axes.T, point[:, -1:]], dim=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        weights = here()
        leaf = weights.detach().requires_grad_()
        penalised = penalty / 2 * leaf[:, :-1].square().sum()
        penalised.backward()
        loss, done = penalised.detach(), 0
        for piece in pieces:
            check()
            part = F.cross_entropy(scores(leaf, piece), labels[done : done + len(piece)], reduction="sum") / len(labels)
            part.backward()  # adds to the gradient, and frees the piece's logits
            loss, done = loss + part.detach(), done + len(piece)
        weights.backward(leaf.grad)
        return loss

    optimizer.step(closure)
    return here().detach()


def scores(weights: Tensor, features: Tensor) -> Tensor:
    """Return logits (n, classes) of features (n, D) under weights (classes, D + 1)."""
    return F.linear(features, weights[:, :-1], weights[:, -1])


def choose_penalty(penalties: Sequence[float], accuracy_of: Callable[[float], float]) -> tuple[float, float]:
    """Return the penalty of the best accuracy, of equal ones the first tried, and that accuracy.

    Tries from the strongest on, until two in a row are no better than the best. Where an end of the grid is best, it
    goes on beyond that end by factors of 10 until that is no better. A single penalty is no grid and has no ends.
    """
    tried: dict[float, float] = {}

    def best() -> float:
        return max(tried, key=lambda penalty: tried[penalty])

    grid = sorted(set(penalties), reverse=True)  # strongest first: each fit starts from a simpler one
    for penalty in grid:
        tried[penalty] = accuracy_of(penalty)
        if list(tried).index(best()) == len(tried) - 3:
            break
    while len(grid) > 1 and best() == min(tried) and (weaker := best() / 10) >= WEAKEST:
        tried[weaker] = accuracy_of(weaker)
    while len(grid) > 1 and best() == max(tried) and (stronger := best() * 10) <= STRONGEST:
        tried[stronger] = accuracy_of(stronger)
    return best(), tried[best()]


def lbfgs_predict(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    config: LinearProbeConfig,
    holdout: Holdout,
    task: StoppableTask,
) -> tuple[Tensor, dict[str, float]]:
    """Return predicted classes (m,) and the penalty chosen; test images have no say in it.

    Penalties are fitted on the rest of `holdout` and judged on the part held out; the best is fitted on all of train.
    """
    device = labels.device
    penalty, accuracy, weights = _best_fit(train, labels, classes, config, holdout, task)
    learned, asked = (Rows(each, torch.arange(len(each)), classes, device) for each in (train, test))
    moments = learned.moments()
    pieces = learned.standardised(moments)
    weights = fit_logistic(pieces, labels, classes, penalty, principal_axes(pieces), task.check, weights)
    predicted = _predict(weights, asked.standardised(moments))
    return predicted, {"penalty": penalty, "holdout_top1": 100 * accuracy}


def _best_fit(
    train: Tensor, labels: Tensor, classes: int, config: LinearProbeConfig, holdout: Holdout, task: StoppableTask
) -> tuple[float, float, Tensor]:
    """Return the best penalty, its accuracy on the held-out part, and its weights."""
    held, rest = (indexes.sort().values for indexes in holdout)  # a file is read from its start to its end
    judged, fitted = (Rows(train, indexes, classes, labels.device) for indexes in (held, rest))
    moments = fitted.moments()
    judge, fit = judged.standardised(moments), fitted.standardised(moments)
    principal = principal_axes(fit)
    weights: dict[float, Tensor] = {}

    def accuracy_of(penalty: float) -> float:
        start = next(reversed(weights.values()), None)
        weights[penalty] = fit_logistic(fit, labels[rest], classes, penalty, principal, task.check, start)
        task.advance(int(penalty in config.penalties))  # how many are tried beyond the grid is not known before
        return (_predict(weights[penalty], judge) == labels[held]).float().mean().item()

    penalty, accuracy = choose_penalty(config.penalties, accuracy_of)
    return penalty, accuracy, weights[penalty]


def _predict(weights: Tensor, pieces: Pieces) -> Tensor:
    """Return the classes (n,) of features (n, D)."""
    return torch.cat([scores(weights, piece).argmax(1) for piece in pieces])


def lars_predict(
    views: Views,
    labels: Tensor,
    test: Tensor,
    classes: int,
    config: LinearProbeConfig,
    seed: int,
    task: StoppableTask,
    saved: FitCheckpoints,
) -> tuple[Tensor, dict[str, float]]:
    """Return predicted classes (m,) after the paper's protocol: batch norm without affine, a linear layer, LARS."""
    width = test.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), classifier).to(labels.device)
    fit_lars(head, views, labels, config, seed, task, saved)
    head.eval()
    with torch.inference_mode():
        every = Rows(test, torch.arange(len(test)), classes, labels.device)
        return torch.cat([head(piece).argmax(1) for piece in every]), {}


def fit_lars(
    head: nn.Module,
    views: Views,
    labels: Tensor,
    config: LinearProbeConfig,
    seed: int,
    task: StoppableTask,
    saved: FitCheckpoints,
) -> None:
    """Train `head` in place on the features (n, D) of each epoch: LARS, linear warm-up, cosine decay (Table 10).

    What `saved` holds of a fit that was cut off is continued.
    """
    optimizer = lars(head)
    size = min(config.lars_batch_size, len(labels))
    steps, peak = len(labels) // size, peak_lr(config.lars_base_lr, size)
    begin = saved.restore(head, optimizer)
    task.advance(begin)
    for epoch in range(begin, config.lars_epochs):
        features = views(epoch)
        order = torch.randperm(len(labels), generator=generator(seed, "probe order", epoch))
        for step, chosen in enumerate(order.split(size)[:steps]):
            task.check()
            set_rates(optimizer, lr_at(epoch + step / steps, peak, config.lars_warmup, config.lars_epochs))
            optimizer.zero_grad()
            F.cross_entropy(head(features[chosen].to(labels.device)), labels[chosen]).backward()
            optimizer.step()
        del features  # or there would be two epochs' of them
        saved.save_if_due(head, optimizer, epoch + 1)
        task.advance()


def lars(module: nn.Module) -> Lars:
    """Return LARS as the official release has it: momentum 0.9, no weight decay, trust ratio 0.001 (You et al., 2017).

    A matrix moves in proportion to its norm, whatever that of its gradient; biases and norms (vectors) move by plain
    gradients with momentum.
    """
    parameters = list(module.parameters())
    groups = [
        # timm adapts the rate of groups with weight decay only, unless it is told to.
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "always_adapt": True},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1]},
    ]
    return Lars(groups, lr=0.0, momentum=0.9, weight_decay=0.0, trust_coeff=0.001, eps=0.0)
