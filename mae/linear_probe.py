"""Linear probes on frozen features, batch norm without affine before the classifier (appendix A.1, Table 10)."""

from collections.abc import Callable

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
    features: Tensor, labels: Tensor, classes: int, penalty: float, task: Task, start: Tensor | None = None
) -> Tensor:
    """Return weights (classes, D + 1), bias last, of multinomial logistic regression by L-BFGS.

    Minimises mean cross-entropy + penalty / 2 * |weights|^2, the bias not penalised, on features (n, D).
    """
    weights = torch.zeros(classes, features.shape[1] + 1) if start is None else start.clone()
    weights = weights.to(features.device).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        task.advance(0)  # a fit on raw pixels takes minutes, and whoever wants to stop it waits
        optimizer.zero_grad()
        loss = F.cross_entropy(scores(weights, features), labels) + penalty / 2 * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def scores(weights: Tensor, features: Tensor) -> Tensor:
    """Return logits (n, classes) of features (n, D) under weights (classes, D + 1)."""
    return F.linear(features, weights[:, :-1], weights[:, -1])


def lbfgs_predict(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, config: LinearProbeConfig, seed: int, task: Task
) -> tuple[Tensor, dict[str, float]]:
    """Return predicted classes (m,) and the penalty chosen; test images have no say in it.

    Each penalty is fitted on the rest of train and judged on a held-out part; the best is fitted on all of train.
    """
    order = torch.randperm(len(train), generator=generator(seed, "probe holdout"))
    held = max(1, round(len(train) * config.holdout_fraction))
    chosen_fit, chosen_held = order[held:], order[:held]
    fit, judge = standardise(train[chosen_fit], train[chosen_held])
    best, best_accuracy, weights = config.penalties[0], -1.0, None
    for penalty in sorted(config.penalties, reverse=True):  # strongest first: each starts from a simpler fit
        weights = fit_logistic(fit, labels[chosen_fit], classes, penalty, task, weights)
        accuracy = (scores(weights, judge).argmax(1) == labels[chosen_held]).float().mean().item()
        if accuracy > best_accuracy:
            best, best_accuracy = penalty, accuracy
        task.advance()
    del fit, judge
    train, test = standardise(train, test)
    weights = fit_logistic(train, labels, classes, best, task)
    task.advance()
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
