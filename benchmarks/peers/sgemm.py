"""The floor: one single-precision matrix product that is as much arithmetic as the task says.

2048 rows and columns inside, as many columns out as it takes: large enough that the processor, not its
memory, is the limit. By torch, whose BLAS is what torch.nn.LSTM multiplies with.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers import talk

SIZE = 2048


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: `flop`, operations of one repeat; `device`."""
    torch.set_num_threads(talk.threads())
    columns, device = round(task["flop"] / (2 * SIZE**2)), torch.device(task["device"])
    left, right = torch.randn(SIZE, SIZE, device=device), torch.randn(SIZE, columns, device=device)

    def product() -> None:
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()

    return product


if __name__ == "__main__":
    talk.serve(prepare, ["torch"])
