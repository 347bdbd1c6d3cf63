"""Optuna's storage for the one driver of a study: reads come from memory, writes go to the database first.

Nobody else writes to the study, so memory and database say the same. Read from the database, every evaluation of a
trial would cost its driver a dozen queries.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class MirroredStorage(InMemoryStorage):
    """One study of a storage `kept`, which is the truth; made anew by each driver."""

    def __init__(self, kept: BaseStorage, study: optuna.Study) -> None:
        super().__init__()
        self.kept, self.kept_study = kept, study._study_id
        self.kept_trials: dict[int, int] = {}  # by our id
        ours = super().create_new_study(study.directions, study.study_name)
        for name, value in study.user_attrs.items():
            super().set_study_user_attr(ours, name, value)
        for trial in study.get_trials(deepcopy=False):
            self.kept_trials[super().create_new_trial(ours, trial)] = trial._trial_id

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        kept = self.kept.create_new_trial(self.kept_study, template_trial)
        ours = super().create_new_trial(study_id, template_trial)
        self.kept_trials[ours] = kept
        return ours

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self.kept.set_trial_param(self.kept_trials[trial_id], param_name, param_value_internal, distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self.kept.set_trial_state_values(self.kept_trials[trial_id], state, values)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self.kept.set_trial_intermediate_value(self.kept_trials[trial_id], step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.kept.set_trial_user_attr(self.kept_trials[trial_id], key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.kept.set_trial_system_attr(self.kept_trials[trial_id], key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.kept.set_study_user_attr(self.kept_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.kept.set_study_system_attr(self.kept_study, key, value)
        super().set_study_system_attr(study_id, key, value)
