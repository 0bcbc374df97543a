"""The cells of `sweep`, one a repeat, by one kernel; and which one `auto` would choose.

The kernel is that of NIGHTCAST_KERNEL, unless the task asks for the persistent one or mixed precision. As
many inputs as units, as in the forecaster; the gradient reaches the input. A cell is skipped where an
estimate or the first call takes longer than the task's limit, or where the kernel cannot run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.arithmetic import lstm_training
from benchmarks.peers import talk
from lstm.kernels import GRU, LSTM, library, mixed_precision, native, persistent, using
from lstm.kernels.dispatch import Layer, choose, layers_from

_MODULES = {"LSTM": LSTM, "GRU": GRU}
_NAMES: dict[Layer, str] = {
    native.layer: "native",
    native.mixed_layer: "mixed",
    persistent.layer: "persistent",
}
# Operations a second to reckon with; seconds to spend on a kernel in a cell.
_SLOWEST, _SECONDS = {"cpu": 3e10, "cuda": 3e11}, {"cpu": 0.2, "cuda": 0.05}


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.sweep`. A repeat returns the next cell; `done` after the last one."""
    torch.set_num_threads(talk.threads())
    if task["kernel"] == "persistent":
        persistent.check("lstm", torch.empty(0, device=task["device"]), hidden=1)
    if task["kernel"] == "mixed" and not library.has_matrix_unit():
        raise RuntimeError("sweep-mixed needs a processor with AMX, and a compiler at the install")
    cells = _cells(task)
    return lambda: next(cells, {"done": True})


def _cells(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # The process's first repeat is not counted.
    yield {}
    for cell in task["cells"]:
        try:
            found = _measured(**cell, limit=task["limit"], device=task["device"], kernel=task["kernel"])
        except persistent.KernelUnavailable:
            found = {"skipped": True}
        yield {**cell, **found}


def _as_asked(kernel: str) -> AbstractContextManager[None]:
    if kernel == "mixed":
        return layers_from(lambda module: native.mixed_layer)
    return using("persistent") if kernel == "persistent" else nullcontext()


def _measured(
    module: str,
    hidden_size: int,
    layers: int,
    batch: int,
    steps: int,
    mode: str,
    limit: float,
    device: str,
    kernel: str,
) -> dict[str, Any]:
    flop = layers * lstm_training(batch, steps, hidden_size, hidden_size) / (1 if mode == "training" else 3)
    if flop / _SLOWEST[device] > limit:
        return {"skipped": True}
    network = _MODULES[module](hidden_size, hidden_size, layers, batch_first=True, device=device)
    x_BTI = torch.randn(batch, steps, hidden_size, requires_grad=mode == "training", device=device)
    work = _train if mode == "training" else _infer
    with _as_asked(kernel):
        _seconds(work, network, x_BTI)
        first = _seconds(work, network, x_BTI)
        if first > limit:
            return {"skipped": True}
        rounds = min(max(3, round(_SECONDS[device] / first)), 50)
        taken = median(_seconds(work, network, x_BTI) for _ in range(rounds))
    allowed = mixed_precision() if kernel == "mixed" else nullcontext()
    with allowed, using("auto"), torch.set_grad_enabled(mode == "training"):
        chosen = choose(network, x_BTI)
    return {"taken": taken, "auto": "torch" if chosen is None else _NAMES[chosen], "rounds": rounds}


def _train(module: nn.RNNBase, x_BTI: Tensor) -> None:
    module.zero_grad()
    x_BTI.grad = None
    module(x_BTI)[0].sum().backward()


def _infer(module: nn.RNNBase, x_BTI: Tensor) -> None:
    with torch.inference_mode():
        module(x_BTI)


def _seconds(work: Callable[[nn.RNNBase, Tensor], None], module: nn.RNNBase, x_BTI: Tensor) -> float:
    begin = time.perf_counter()
    work(module, x_BTI)
    if x_BTI.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
