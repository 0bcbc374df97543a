"""`lanes`: trials by `fit`, one after the other or in several processes, or by a `LanePool` of threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks import household
from benchmarks.peers import plain, talk
from data.contract import check, resolve_as_of
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel, Scaler
from lstm.training.device import set_threads
from lstm.training.fit import Fit, fit
from lstm.training.pool import LanePool
from lstm.training.recipe import TrainingConfig
from lstm.windows import Windows, windows

Trial = tuple[ForecasterConfig, TrainingConfig]

# Hours at the panel's end that are validated on.
VALIDATION = 4 * 7 * 24


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.lanes`.

    The environment says who trains: so many LANES, or PROCESSES, or one trial after the other; what SHARE of
    the trials, whose time then counts as often; and whether by a PLAIN loop, without graphs.
    """
    set_threads(talk.threads())
    lanes, processes, share, is_plain = (
        int(os.environ.get(name, default))
        for name, default in (("LANES", 0), ("PROCESSES", 0), ("SHARE", 1), ("PLAIN", 0))
    )
    if is_plain:
        plain.without_graphs()
    every = trials(task)
    return _counted(_repeat(every[::share], task, lanes, processes), share)


def _counted(repeat: Callable[[], None], share: int) -> talk.Repeat:
    """The repeat, whose time counts so often."""

    def counted() -> dict[str, float]:
        begin = time.perf_counter()
        repeat()
        return {"seconds": share * (time.perf_counter() - begin)}

    return counted


def _repeat(every: Sequence[Trial], task: dict[str, Any], lanes: int, processes: int) -> Callable[[], None]:
    if not lanes and not processes:
        return lambda: _train_all(every, task["device"])
    if processes:
        executor = ProcessPoolExecutor(processes, get_context("spawn"), _set_up, (task,))
        shares = [every[number::processes] for number in range(processes)]
        return lambda: _done(executor, partial(_train_all, device=task["device"]), shares)
    threads = ThreadPoolExecutor(lanes)

    def repeat() -> None:
        with LanePool(lanes) as pool:
            _done(threads, lambda trial: _train(trial, task["device"], pool.train), every)

    return repeat


def _done(executor: Executor, function: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
    for _ in executor.map(function, arguments):
        pass


def _set_up(task: dict[str, Any]) -> None:
    """In a process of its own: what is made once."""
    set_threads(talk.threads())
    data(task["lookback"])


def _train_all(every: Sequence[Trial], device: str) -> None:
    for trial in every:
        _train(trial, device, fit)


def _train(trial: Trial, device: str, method: Callable[..., Fit]) -> None:
    method(*trial, *data(trial[0].lookback), device=torch.device(device))


@cache
def data(lookback: int) -> tuple[ScaledPanel, Windows, Windows]:
    """The panel, and the windows to train and to validate on."""
    data_set = household.data_set()
    panel = check(data_set, resolve_as_of(data_set)).panel
    horizon, last = data_set.retrain.horizon, panel.n_steps - 1
    parts = Span(0, last - VALIDATION), Span(last - VALIDATION + 1, last)
    scaled = Scaler.fit(panel, parts[0].last).scale(panel, horizon)
    train, validation = (windows(panel, part, lookback, horizon) for part in parts)
    return scaled, train, validation


def trials(task: dict[str, Any]) -> list[Trial]:
    """Configurations of one arm, drawn from the sample's search space."""
    retrain, random = household.data_set().retrain, np.random.default_rng(0)
    space = retrain.search_space
    sizes = data(task["lookback"])[0].sizes
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
            lookback=task["lookback"],
            horizon=retrain.horizon,
            quantiles=tuple(retrain.quantiles),
            columns=sizes["columns"],
            calendar_features=sizes["calendar_features"],
        )
        training = TrainingConfig(
            learning_rate=rate,
            batch_size=task["batch_size"],
            max_epochs=task["epochs"],
            patience=task["epochs"],
            windows_per_epoch=task["windows"],
            seed=seed,
        )
        made.append((config, training))
    return made


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
