"""`forecast` by Nightcast: its own training loop, `lstm.training.fit.fit`, as a night calls it.

With all that it does beyond a plain loop: mask and calendar beside the values, the window's own
normalisation, quantiles of every horizon step, weight decay, gradient clipping, averaged weights.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import household
from benchmarks.peers import talk
from data.splits import Span
from lstm.models.forecaster import ForecasterConfig
from lstm.training.device import set_threads
from lstm.training.fit import fit
from lstm.training.recipe import TrainingConfig
from lstm.windows import windows


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.forecast`."""
    set_threads(talk.threads())
    panel, scaled = household.panel(), household.scaled(task["horizon"])
    config = ForecasterConfig(
        cell="lstm",
        hidden_size=task["hidden_size"],
        num_layers=1,
        dropout=0.0,
        segment_length=1,
        lookback=task["lookback"],
        horizon=task["horizon"],
        quantiles=tuple(task["quantiles"]),
        columns=1,
        calendar_features=scaled.calendar.shape[1],
    )
    training = TrainingConfig(batch_size=task["batch_size"], windows_per_epoch=task["windows"], max_epochs=1)
    train = windows(panel, Span(0, panel.n_steps - 1), config.lookback, config.horizon)
    assert len(train) >= task["windows"]
    return lambda: fit(config, training, scaled, train, device=torch.device("cpu"))


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
