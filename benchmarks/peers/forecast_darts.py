"""`forecast` by Darts: `BlockRNNModel.fit`, one more epoch a repeat, by its Lightning trainer.

Progress bar, logger and checkpoints are off. Its loss is MSE, its optimiser Adam. The option `num_workers`
is the data loader's: Darts assembles a batch window by window in Python, which a second process may do. The
option `precision` is ``float32`` or ``bfloat16``, Lightning's mixed precision.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel

from benchmarks.peers import talk


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.forecast`."""
    torch.set_num_threads(talk.threads())
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    values = np.load(task["data"])
    times = pd.date_range("2007-01-01", periods=len(values), freq="h")
    series = TimeSeries.from_times_and_values(times, values)
    model = BlockRNNModel(
        model="LSTM",
        input_chunk_length=task["lookback"],
        output_chunk_length=task["horizon"],
        hidden_dim=task["hidden_size"],
        n_rnn_layers=1,
        batch_size=task["batch_size"],
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs={
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "precision": {"float32": "32-true", "bfloat16": "bf16-mixed"}[task["precision"]],
        },
    )
    workers = {"num_workers": task["num_workers"], "persistent_workers": task["num_workers"] > 0}
    return lambda: model.fit(series, epochs=1, max_samples_per_ts=task["windows"], dataloader_kwargs=workers)


if __name__ == "__main__":
    talk.serve(prepare, ["darts", "torch", "pytorch-lightning"])
