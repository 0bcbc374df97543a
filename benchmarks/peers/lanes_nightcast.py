"""`lanes`: trials by `fit`, one after the other, or by a `LanePool` with so many threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks import household
from benchmarks.peers import talk
from data.contract import check, resolve_as_of
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import Scaler
from lstm.training.device import set_threads
from lstm.training.fit import Fit, fit
from lstm.training.pool import LanePool
from lstm.training.recipe import TrainingConfig
from lstm.windows import windows

Trial = tuple[ForecasterConfig, TrainingConfig]


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.lanes`; LANES=0 in the environment is `fit` alone."""
    set_threads(talk.threads())
    lanes = int(os.environ["LANES"])
    data_set = household.data_set()
    panel = check(data_set, resolve_as_of(data_set)).panel
    scaled = Scaler.fit(panel, panel.n_steps - 1).scale(panel, data_set.retrain.horizon)
    trials = _trials(task, len(panel.columns), scaled.calendar.shape[1])
    config = trials[0][0]
    train = windows(panel, Span(0, panel.n_steps - 1), config.lookback, config.horizon)

    def train_one(trial: Trial, method: Callable[..., Fit]) -> Fit:
        return method(*trial, scaled, train, device=torch.device("cpu"))

    def repeat() -> None:
        if not lanes:
            for trial in trials:
                train_one(trial, fit)
            return
        pool = LanePool()
        with ThreadPoolExecutor(lanes) as threads:
            list(threads.map(lambda trial: train_one(trial, pool.train), trials))

    return repeat


def _trials(task: dict[str, Any], columns: int, calendar_features: int) -> list[Trial]:
    """Configurations of one arm, drawn from the sample's search space."""
    retrain, random = household.data_set().retrain, np.random.default_rng(0)
    space = retrain.search_space
    made = []
    for seed in range(task["trials"]):
        dropout = float(random.uniform(space.dropout.low, space.dropout.high))
        rate = float(np.exp(random.uniform(*np.log([space.learning_rate.low, space.learning_rate.high]))))
        config = ForecasterConfig(
            cell="gru",
            hidden_size=int(random.choice(space.hidden_size)),
            num_layers=1,
            dropout=dropout,
            segment_length=24,
            lookback=168,
            horizon=retrain.horizon,
            quantiles=tuple(retrain.quantiles),
            columns=columns,
            calendar_features=calendar_features,
        )
        training = TrainingConfig(
            learning_rate=rate, batch_size=128, max_epochs=1, windows_per_epoch=task["windows"], seed=seed
        )
        made.append((config, training))
    return made


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
