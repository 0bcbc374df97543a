"""A case of `scale`: a panel made, scaled, indexed, and one epoch of the real training loop a repeat.

Minutes, LSTM(50), a lookback of 24 and a horizon of 8 steps; 6,144 windows an epoch, the default.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.peers import talk
from data.calendar import Frequency
from data.panel import Panel
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import Scaler
from lstm.training.device import set_threads
from lstm.training.fit import fit
from lstm.training.recipe import TrainingConfig
from lstm.windows import windows

LOOKBACK, HORIZON, HIDDEN_SIZE = 24, 8, 50


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: `series` and `points`, of all series together."""
    set_threads(talk.threads())
    panel = _panel(task["series"], task["points"])
    begin = time.perf_counter()
    scaled = Scaler.fit(panel, panel.n_steps - 1).scale(panel, HORIZON)
    train = windows(panel, Span(0, panel.n_steps - 1), LOOKBACK, HORIZON)
    preparation = time.perf_counter() - begin
    config = ForecasterConfig(
        cell="lstm",
        hidden_size=HIDDEN_SIZE,
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=LOOKBACK,
        horizon=HORIZON,
        quantiles=(0.1, 0.5, 0.9),
        columns=1,
        calendar_features=scaled.calendar.shape[1],
    )
    training = TrainingConfig(max_epochs=1)

    def epoch() -> dict[str, Any]:
        fit(config, training, scaled, train, device=torch.device("cpu"))
        return {
            "windows": min(len(train), training.windows_per_epoch),
            "preparation": preparation,
            "data": panel.values.nbytes,
            "peak": _peak(),
        }

    return epoch


def _panel(series: int, points: int) -> Panel:
    """Series of equal length, noise."""
    steps = points // series
    return Panel(
        data_set="made",
        frequency=Frequency("1min"),
        target="load",
        covariates=(),
        series=tuple(str(number) for number in range(series)),
        start=np.datetime64("2000-01-01T00:00:00", "us"),
        first_steps=np.zeros(series, dtype=np.int64),
        offsets=np.arange(series + 1, dtype=np.int64) * steps,
        values=np.random.default_rng(0).standard_normal((series * steps, 1)),
    )


def _peak() -> int:
    """Bytes that this process held at most; the system counts them in KiB, on macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
