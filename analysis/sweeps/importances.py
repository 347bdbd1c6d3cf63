"""Which parameters mattered in a sweep, and how sure that is."""

import warnings

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.sweeps.frame import under_one

RESAMPLES = 100
FEWEST = 8
"""Complete trials below which nothing is said."""


def importances(study: optuna.Study, objective: int = 0, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return key, importance, low, high of every parameter, the most important first; empty with too few trials.

    PED-ANOVA (Watanabe et al., 2023): the share of a parameter in what sets the best tenth of the trials apart; shares
    sum to 1. It goes by ranks, so that pruned trials count, as the worst: without them a parameter whose bad values
    were all pruned would seem not to matter. low and high: 95 % percentile-bootstrap interval over trials.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEWEST:
        return pd.DataFrame(columns=["key", "importance", "low", "high"])
    trials = complete + _pruned_as_worst(study, complete)
    draws = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small samples, of which the intervals tell
        whole = _shares(study, trials, objective)
        found = [
            _shares(study, [trials[index] for index in draws.integers(len(trials), size=len(trials))], objective)
            for _ in range(resamples)
        ]
    rows = []
    for key, share in whole.items():
        low, high = np.quantile([each.get(key, 0.0) for each in found], [0.025, 0.975])
        rows.append({"key": key, "importance": share, "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


def _pruned_as_worst(study: optuna.Study, complete: list[FrozenTrial]) -> list[FrozenTrial]:
    values = [trial.values[0] for trial in complete]
    worst = min(values) - 1 if study.directions[0] == StudyDirection.MAXIMIZE else max(values) + 1
    return [
        create_trial(value=worst, params=trial.params, distributions=trial.distributions)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    ]


def _shares(study: optuna.Study, trials: list[FrozenTrial], objective: int) -> dict[str, float]:
    return get_param_importances(under_one(study, objective, trials), evaluator=PedAnovaImportanceEvaluator())
