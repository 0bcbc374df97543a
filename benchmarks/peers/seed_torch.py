"""`seed` by a plain torch loop over `torch.nn.LSTM` and `torch.nn.Linear`, the arrays in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import talk


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.seed`."""
    torch.set_num_threads(talk.threads())
    torch.manual_seed(0)
    x_SLC = torch.from_numpy(np.load(task["data"]))
    y_S1 = x_SLC.mean(dim=1)
    lstm, dense = nn.LSTM(1, task["hidden_size"], batch_first=True), nn.Linear(task["hidden_size"], 1)
    optimizer = torch.optim.Adam([*lstm.parameters(), *dense.parameters()])

    def epoch() -> None:
        for chosen_B in torch.split(torch.randperm(len(x_SLC)), task["batch_size"]):
            optimizer.zero_grad()
            h_BLK, _ = lstm(x_SLC[chosen_B])
            loss = nn.functional.mse_loss(dense(h_BLK[:, -1]), y_S1[chosen_B])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


if __name__ == "__main__":
    talk.serve(prepare, ["torch"])
