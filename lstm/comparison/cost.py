"""What a network costs: seconds and memory of a training, parameters, and forecasts a second.

Measured by a process that has done nothing before, on one thread, at the middle of the search space: all
networks have the same size and read the same windows, so that only cell and lookback differ.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from lstm.comparison.bench import Ground
from lstm.comparison.contenders import Contender, only
from lstm.models.forecaster import build
from lstm.scaling import Scaler
from lstm.search.space import at_centre
from lstm.training.checkpoint import EpochLoss
from lstm.training.fit import fit
from lstm.training.predict import predict
from lstm.windows import windows

_EPOCHS = 4
_LONGEST_SECONDS = 20.0
_SAMPLE_SECONDS = 0.002
_FORECASTS = 2_000
_MEGABYTE = 1024**2


@dataclass(frozen=True)
class Cost:
    """The cost of one contender.

    Attributes:
        parameters: weights of the network.
        epoch_seconds: of a training epoch: processor seconds on a CPU, which other processes do not
            lengthen; else by the clock.
        windows_per_second: forecasts of whole horizons.
        base_megabytes: resident memory before the training: Python, torch, its libraries and the data.
        training_megabytes: by how much it rose at most in an epoch, sampled every two milliseconds.
    """

    parameters: int
    epoch_seconds: float
    windows_per_second: float
    base_megabytes: float
    training_megabytes: float


class _Enough(Exception):
    """The measuring has taken long enough."""


def measure(ground: Ground, contender: Contender, device: torch.device) -> Cost:
    """Train some epochs and forecast some windows, only to see what that costs."""
    panel, splits = ground.panel, ground.splits
    scaler = Scaler.fit(panel, splits.train.last, splits.train.first)
    scaled = scaler.scale(panel, ground.data_set.retrain.horizon)
    config, training = at_centre(only(ground.data_set, contender), scaled)
    train = windows(panel, splits.train, config.lookback, config.horizon)
    clock = time.process_time if device.type == "cpu" else time.monotonic
    # The first training of a process also loads libraries: that is none of this network's memory.
    fit(config, training, scaled, train.select(np.arange(min(len(train), 8))), device=device, epochs=1)
    base = psutil.Process().memory_info().rss
    with _peak() as peak:
        fit(config, training, scaled, train, device=device, epochs=1)
    epoch_seconds = _epoch_seconds(
        lambda note: fit(config, training, scaled, train, device=device, epochs=_EPOCHS, on_epoch=note), clock
    )
    model = build(config)
    some = train.select(np.arange(min(len(train), _FORECASTS)))
    predict(config, model.state_dict(), scaled, some, device)
    began = clock()
    predict(config, model.state_dict(), scaled, some, device)
    seconds = clock() - began
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epoch_seconds=epoch_seconds,
        windows_per_second=len(some) / max(seconds, 1e-9),
        base_megabytes=base / _MEGABYTE,
        training_megabytes=max(peak[0] - base, 0) / _MEGABYTE,
    )


def _epoch_seconds(
    train: Callable[[Callable[[int, EpochLoss], None]], object], clock: Callable[[], float]
) -> float:
    """The median epoch after the first, which also sets things up."""
    moments: list[float] = []

    def note(_: int, __: EpochLoss) -> None:
        moments.append(clock())
        if len(moments) > 1 and moments[-1] - moments[0] > _LONGEST_SECONDS:
            raise _Enough

    with suppress(_Enough):
        train(note)
    return float(np.median(np.diff(moments)))


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The largest resident memory of this process in bytes, sampled by a thread while the block runs."""
    process, done = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], process.memory_info().rss)
