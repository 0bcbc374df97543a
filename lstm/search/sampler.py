"""Drawing the next configuration, the same for every worker, and signing the trial for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from data.processes import this_process
from data.retrain import Budget
from lstm.search import places
from lstm.search.arms import Arms


class SharedSearchSpace:
    """What all trials of a study have drawn from, as TPE reckons it: of each trial once, for all threads that
    ask, where every sampler of Optuna's reads all trials. They wait for each other meanwhile."""

    def __init__(self) -> None:
        self._space = optuna.search_space.IntersectionSearchSpace(include_pruned=True)
        self._lock = threading.Lock()

    def calculate(self, study: optuna.Study) -> dict[str, BaseDistribution]:
        """The distributions by name. The study is always the same one."""
        with self._lock:
            return self._space.calculate(study)


class Sampler(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al. 2011) whose draws depend on the study's seed, the trial's number and the trials
    so far, not on who draws.

    Optuna seeds a sampler for each process: workers that share a seed would all try the same
    configurations, and a resumed search would repeat its first ones.

    Args:
        seed: the study's.
        budget: sets how many trials are drawn at random before TPE learns from them.
        space: of the study; samplers of one process share it.
        arms: chooses some parameters for several trials at a time; None leaves all to TPE.

    Attributes:
        claimed: the newest trial that this sampler's worker took, by its number in the storage.
    """

    def __init__(self, seed: int, budget: Budget, space: SharedSearchSpace, arms: Arms | None = None) -> None:
        self._seed = seed
        self._arms = arms
        self._fixed: dict[str, Any] = {}
        self._random = min(10, max(4, budget.trials // 4))
        self._tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._random)
        # As TPE's own, which would begin again with each trial.
        self._space = space
        self.claimed: int | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Sign the trial as early as Optuna allows, so that it can be told if this process dies."""
        claim = {"process": str(this_process()), "time": time.time()}
        study._storage.set_trial_user_attr(trial._trial_id, places.CLAIM, claim)
        self.claimed = trial._trial_id
        place = places.place(trial)
        if self._arms is not None:
            self._fixed = self._arms.choose(study.get_trials(deepcopy=False), place)
        seed = self._seed * 1_000_003 + place
        self._tpe = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=self._random)
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE does, without what the arm fixes."""
        return {
            name: distribution
            for name, distribution in self._space.calculate(study).items()
            if not distribution.single() and name not in self._fixed
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The arm's, else as TPE does."""
        if param_name in self._fixed:
            return self._fixed[param_name]
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As TPE does."""
        self._tpe.after_trial(study, trial, state, values)


class Pruner(optuna.pruners.MedianPruner):
    """Ends a trial whose best loss so far is above the median of the others' at the same epoch.

    Not before a fifth of the epochs, while the learning rate still warms up and curves cross, and not
    before a few trials are there to compare with.

    Args:
        budget: of the study.
        max_epochs: of a trial.
    """

    def __init__(self, budget: Budget, max_epochs: int) -> None:
        super().__init__(
            n_startup_trials=min(5, max(2, budget.trials // 4)), n_warmup_steps=1 + max(2, max_epochs // 5)
        )
