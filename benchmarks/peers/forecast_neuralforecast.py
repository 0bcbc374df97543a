"""`forecast` by NeuralForecast: `models.LSTM.fit` on a prepared data set, as many steps as batches a repeat.

Progress bar, logger and checkpoints are off, the window's scaler too (the values are standardised). MSE
instead of its MAE, and a decoder of one linear layer, its smallest. Its optimiser is Adam. The option
`precision` is ``float32`` or ``bfloat16``, Lightning's mixed precision.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import LSTM
from neuralforecast.tsdataset import TimeSeriesDataset

from benchmarks.peers import talk


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.forecast`."""
    torch.set_num_threads(talk.threads())
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    values = np.load(task["data"])
    times = pd.date_range("2007-01-01", periods=len(values), freq="h")
    dataset, *_ = TimeSeriesDataset.from_df(pd.DataFrame({"unique_id": "", "ds": times, "y": values}))
    model = LSTM(
        h=task["horizon"],
        input_size=task["lookback"],
        encoder_hidden_size=task["hidden_size"],
        encoder_n_layers=1,
        decoder_layers=1,
        loss=MSE(),
        scaler_type="identity",
        max_steps=task["windows"] // task["batch_size"],
        batch_size=1,
        windows_batch_size=task["batch_size"],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        precision={"float32": "32-true", "bfloat16": "bf16-mixed"}[task["precision"]],
    )
    return lambda: model.fit(dataset)


if __name__ == "__main__":
    talk.serve(prepare, ["neuralforecast", "torch", "pytorch-lightning"])
