"""Arms of a study: what the trials of one launch must have in common, chosen for some trials at a time.

Lanes of one launch share every choice that shapes the network but its hidden size, which is padded, and its
normalisation, which has no shape; drawn for each trial, these would leave every lane to itself. So a ROUND,
as many places of the budget as there are lanes, gets one ARM, a choice of them all, and TPE draws the rest of
each trial. The arms share the budget by how well their trials did.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from data.retrain import SearchSpace
from lstm.search import places
from lstm.search.space import CHOICES

SHARED = tuple(name for name in CHOICES if name not in ("hidden_size", "normalisation"))

Arm = tuple[Any, ...]


class Arms:
    """Chooses the arm of a place by Thompson sampling over the ranks of losses.

    Each arm is believed to have normally distributed ranks (0 the best trial of all, 1 the worst) around a
    mean that nobody knows; a mean is drawn from what is believed of each, and the lowest wins (Thompson
    1933; with normal priors: Agrawal and Goyal 2013, arXiv:1209.3353). Ranks, since one diverged loss says
    nothing about the scale of the others. The choice depends on the study's seed and trials alone.

    Args:
        space: the search space; an arm is one choice of each of `SHARED`.
        lanes: places in a round.
        seed: the study's.
    """

    def __init__(self, space: SearchSpace, lanes: int, seed: int) -> None:
        self._arms: list[Arm] = list(itertools.product(*(getattr(space, name) for name in SHARED)))
        self._lanes = lanes
        self._seed = seed

    def choose(self, trials: Sequence[FrozenTrial], place: int) -> dict[str, Any]:
        """The shared parameters of a place: those of its round's first trial, else newly drawn ones."""
        number = place // self._lanes
        for trial in sorted(trials, key=places.place):
            arm = arm_of(trial)
            if places.place(trial) // self._lanes == number and arm in self._arms:
                return dict(zip(SHARED, arm, strict=True))
        return dict(zip(SHARED, self._draw(trials, number), strict=True))

    def _draw(self, trials: Sequence[FrozenTrial], number: int) -> Arm:
        losses = {
            trial.number: (arm_of(trial), loss) for trial in trials if (loss := _loss(trial)) is not None
        }
        ranked = sorted(losses, key=lambda trial: (losses[trial][1], trial))
        ranks: dict[Arm | None, list[float]] = {}
        for rank, trial in enumerate(ranked):
            ranks.setdefault(losses[trial][0], []).append((rank + 0.5) / len(ranked))
        generator = np.random.default_rng([self._seed, number])
        return min(self._arms, key=lambda arm: _belief(ranks.get(arm, []), generator))


def arm_of(trial: FrozenTrial) -> Arm | None:
    """The shared parameters of a trial that has them, drawn or queued with it."""
    params: Mapping[str, Any] = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    return tuple(params[name] for name in SHARED) if set(SHARED) <= set(params) else None


def _belief(ranks: Sequence[float], generator: np.random.Generator) -> float:
    """A mean rank drawn from the posterior; the prior is a uniform rank's mean and spread, as one trial."""
    count = len(ranks) + 1
    return float(generator.normal((0.5 + sum(ranks)) / count, math.sqrt(1 / 12 / count)))


def _loss(trial: FrozenTrial) -> float | None:
    """What a trial reached: its value, or where it was pruned its best loss so far."""
    if trial.state is TrialState.COMPLETE:
        return trial.value
    if trial.state is TrialState.PRUNED:
        return min(trial.intermediate_values.values(), default=None)
    return None
