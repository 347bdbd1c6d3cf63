"""Optuna's samplers and pruners under the names of the command line."""

import hashlib
from collections.abc import Callable, Sequence

from optuna import pruners, samplers

from ablations.sweeps.space import Space
from mae.config.resolve import change
from mae.config.tree import Config, RunConfig
from mae.errors import UserError

SAMPLERS: dict[str, Callable[[int, Space], samplers.BaseSampler]] = {
    "tpe": lambda seed, space: samplers.TPESampler(
        seed=seed, multivariate=True, group=any(each.when for each in space)
    ),
    "random": lambda seed, space: samplers.RandomSampler(seed=seed),
    "grid": lambda seed, space: samplers.RandomSampler(seed=seed),  # draws nothing: all points are enqueued
    "gp": lambda seed, space: samplers.GPSampler(seed=seed),
    "cmaes": lambda seed, space: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed, space: samplers.NSGAIISampler(seed=seed),
}
"""By seed and space. CMA-ES draws choices at random, so does the Gaussian process what only sometimes exists."""

PRUNERS: dict[str, Callable[[Config], pruners.BasePruner]] = {
    "hyperband": lambda base: pruners.HyperbandPruner(
        min_resource=min(max(1, base.run.knn_every), base.train.epochs),
        max_resource=base.train.epochs,
        reduction_factor=3,
    ),
    "median": lambda base: pruners.MedianPruner(n_startup_trials=5),
    "wilcoxon": lambda base: pruners.WilcoxonPruner(),
    "none": lambda base: pruners.NopPruner(),
}
"""By base config, for trials that are evaluated every `run.knn_every` epochs; a step is an epoch.

Wilcoxon's test takes the evaluations of a run for independent, which they are not: it prunes too readily.
"""

EVALUATIONS = 20
"""Online evaluations of a training that may be pruned, unless `run.knn_every` is given."""


def make_sampler(name: str, space: Space, study: str, trials: int) -> samplers.BaseSampler:
    """Return a sampler for a study that has `trials` trials already: its draws must not begin again after a restart."""
    seed = int(hashlib.sha256(f"{study} {trials}".encode()).hexdigest()[:8], 16)
    return SAMPLERS[name](seed, space)


def evaluated(base: Config, pruner: str, fixed: Sequence[str]) -> Config:
    """Return the base config with evaluations often enough to prune on, unless `run.knn_every` is `fixed` or changed.

    It changes no weight; its default would let Hyperband look at a short training two or three times.
    """
    if pruner == "none" or "run.knn_every" in fixed or base.run.knn_every != RunConfig().knn_every:
        return base
    return change(base, {"run.knn_every": max(1, base.train.epochs // EVALUATIONS)})


def choose_pruner(name: str | None, accuracy_alone: bool, labelled: bool, base: Config) -> str:
    """Return the pruner asked for, or the default one; `UserError` where pruning is asked for and cannot be."""
    if name not in (None, *PRUNERS):
        raise UserError(f"--pruner {name}: expected one of {', '.join(PRUNERS)}")
    reason = ""
    if not accuracy_alone:
        reason = "trials are pruned on their k-NN accuracy, so only under one objective that is an accuracy"
    elif not labelled:
        reason = "trials are pruned on their k-NN accuracy, and these images have no labels"
    elif base.run.knn_every == 0:
        reason = "run.knn_every=0: there is no evaluation to prune on"
    if reason and name not in (None, "none"):
        raise UserError(f"--pruner {name}: {reason}")
    return "none" if reason else name or "hyperband"
