"""`seed` by a plain torch loop over `torch.nn.LSTM` and `torch.nn.Linear`, the arrays on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import talk

if TYPE_CHECKING:
    from lstm.training.graphs import Repeated


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.seed`."""
    torch.set_num_threads(talk.threads())
    lstm = nn.LSTM(1, task["hidden_size"], batch_first=True, device=task["device"])
    return loop(task, lstm, lambda x_BLC: lstm(x_BLC)[0][:, -1])


def loop(
    task: dict[str, Any],
    lstm: nn.LSTM,
    last: Callable[[Tensor], Tensor],
    repeated: Repeated | None = None,
) -> talk.Repeat:
    """One epoch.

    Args:
        last: gives the layer's last hidden state (B, K) of an input (B, L, C).
        repeated: what makes graphs of steps; None for a plain loop.
    """
    device = torch.device(task["device"])
    x_SLC = torch.from_numpy(np.load(task["data"])).to(device)
    y_S1 = x_SLC.mean(dim=1)
    dense = nn.Linear(task["hidden_size"], 1, device=device)
    parameters = [*lstm.parameters(), *dense.parameters()]
    optimizer = torch.optim.Adam(parameters, capturable=repeated is not None and device.type == "cuda")

    def step(chosen_B: Tensor) -> None:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(dense(last(x_SLC[chosen_B])), y_S1[chosen_B])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def epoch() -> None:
        for chosen_B in torch.split(torch.randperm(len(x_SLC), device=device), task["batch_size"]):
            if repeated is None:
                step(chosen_B)
            else:
                repeated(step, chosen_B)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


if __name__ == "__main__":
    talk.serve(prepare, ["torch"])
