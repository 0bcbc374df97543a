"""Drawing the next configuration, the same for every worker, and signing the trial for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from data.processes import this_process
from data.retrain import Budget
from lstm.search import places
from lstm.search.arms import Arms


class Sampler(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al. 2011) whose draws depend on the study's seed, the trial's number and the trials
    so far, not on who draws.

    Optuna seeds a sampler for each process: workers that share a seed would all try the same
    configurations, and a resumed search would repeat its first ones.

    Args:
        seed: the study's.
        budget: sets how many trials are drawn at random before TPE learns from them.
        arms: chooses some parameters for several trials at a time; None leaves all to TPE.

    Attributes:
        claimed: the newest trial that this sampler's worker took, by its number in the storage.
    """

    def __init__(self, seed: int, budget: Budget, arms: Arms | None = None) -> None:
        self._seed = seed
        self._arms = arms
        self._fixed: dict[str, Any] = {}
        self._random = min(10, max(4, budget.trials // 4))
        self._tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._random)
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
        space = self._tpe.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name not in self._fixed}

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
    before a few trials are there to compare with. Threads may share one.

    Args:
        budget: of the study.
        max_epochs: of a trial.
        pause: seconds for which the trials that were read last will do. Whenever they are read, so are all
            that run: many lanes would spend more time on that than on an epoch.
    """

    def __init__(self, budget: Budget, max_epochs: int, pause: float = 0.0) -> None:
        super().__init__(
            n_startup_trials=min(5, max(2, budget.trials // 4)), n_warmup_steps=1 + max(2, max_epochs // 5)
        )
        self._pause = pause
        self._lock = threading.Lock()
        self._seen: _Seen | None = None
        self._until = 0.0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """As the median pruner does."""
        with self._lock:
            if self._seen is None or time.monotonic() >= self._until:
                self._seen = _Seen(study.direction, study.get_trials(deepcopy=False))
                self._until = time.monotonic() + self._pause
        return super().prune(self._seen, trial)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Seen:
    """What a pruner asks of a study, as it was."""

    direction: StudyDirection
    trials: Sequence[FrozenTrial]

    def get_trials(self, deepcopy: bool, states: Container[TrialState]) -> list[FrozenTrial]:
        """Those in one of these states, never copied."""
        return [trial for trial in self.trials if trial.state in states]
