"""Studies of a plain objective, and trials taken by hand, for tests of the search."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from data.processes import process_of
from data.retrain import Budget
from lstm.evaluation.conformal import Calibration
from lstm.models.forecaster import ForecasterConfig
from lstm.search import places, study
from lstm.search.sampler import Sampler, SharedSearchSpace
from lstm.training.recipe import Recipe, TrainingConfig

NAME = "night"
BY_HAND = pytest.mark.filterwarnings("ignore:Heartbeat of storage")
"""Optuna's advice to those who want heartbeats: a worker follows it, tests take trials by hand."""
RECIPE = Recipe(ForecasterConfig("lstm", 4, 1, 0.0, 1, 8, 2, (0.5,), 1, 2), TrainingConfig(), 3)


def dead_process():
    """A process of this host that has just ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = process_of(child.pid)
    child.communicate(b"\n")
    return process


def run(
    url,
    count,
    objective=lambda trial: trial.suggest_float("x", 0, 1),
    budget=None,
    normalisation=lambda number: RECIPE.model.normalisation,
    losses=lambda number, value: [value - 0.01, value + 0.01],
):
    """Run trials as a worker does, with a plain objective.

    Args:
        losses: on groups of windows; of as few as here the lowest mean decides.
    """
    with study.loaded(url, NAME) as own:
        own.sampler = Sampler(own.user_attrs["seed"], budget or study.budget_of(own), SharedSearchSpace())

        def noted(trial):
            value = objective(trial)
            recipe = replace(RECIPE, model=replace(RECIPE.model, normalisation=normalisation(trial.number)))
            trial.set_user_attr(places.RECIPE, recipe.to_dict())
            trial.set_user_attr(places.LOSSES, losses(trial.number, value))
            trial.set_user_attr(places.CALIBRATION, Calibration(np.full((1, 3), value), 0.0, 1).to_dict())
            trial.set_user_attr(places.END, {"time": time.time(), "reason": ""})
            return value

        own.optimize(noted, n_trials=count, catch=(RuntimeError,))


def take(own, **attributes):
    """A trial that is running, with user attributes."""
    own.sampler = Sampler(0, Budget(), SharedSearchSpace())
    trial = own.ask()
    trial.suggest_float("x", 0, 1)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def boom(trial):
    trial.set_user_attr(places.END, {"time": time.time(), "reason": "RuntimeError: boom"})
    raise RuntimeError("boom")
