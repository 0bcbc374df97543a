"""`forecast` by a plain torch loop: windows gathered by index, LSTM and linear layer, MSE, Adam.

The option `precision` is ``float32`` or ``bfloat16``, which is autocast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import talk


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.forecast`."""
    torch.set_num_threads(talk.threads())
    torch.manual_seed(0)
    lookback = task["lookback"]
    values_N = torch.from_numpy(np.load(task["data"]))
    windows_WT = values_N.unfold(0, lookback + task["horizon"], 1)
    lstm = nn.LSTM(1, task["hidden_size"], batch_first=True)
    linear = nn.Linear(task["hidden_size"], task["horizon"])
    optimizer = torch.optim.Adam([*lstm.parameters(), *linear.parameters()])

    def epoch() -> None:
        chosen_W = torch.randperm(len(windows_WT))[: task["windows"]]
        for chosen_B in torch.split(chosen_W, task["batch_size"]):
            window_BT = windows_WT[chosen_B]
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bfloat16"):
                h_BLK, _ = lstm(window_BT[:, :lookback, None])
                y_BH = linear(h_BLK[:, -1]).float()
            loss = nn.functional.mse_loss(y_BH, window_BT[:, lookback:])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


if __name__ == "__main__":
    talk.serve(prepare, ["torch"])
