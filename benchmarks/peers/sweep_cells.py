"""The cells of `sweep`, one a repeat, by one kernel; and which one `auto` would choose.

The kernel is that of NIGHTCAST_KERNEL, unless the task asks for the persistent one or mixed precision. As
many inputs as units, as in the forecaster; the gradient reaches the input. A calendar head reads as many
features and makes as many quantiles as the sample's, and drops a tenth of its units. A cell is skipped where
an estimate or the first call takes longer than the task's limit, or where the kernel cannot run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.arithmetic import lstm_training
from benchmarks.peers import talk
from lstm.kernels import GRU, LSTM, head, library, mixed_precision, native, persistent, using
from lstm.kernels.dispatch import Layer, choose, layers_from
from lstm.models.heads import CalendarHead

_MODULES = {"LSTM": LSTM, "GRU": GRU}
_NAMES: dict[Layer, str] = {
    native.layer: "native",
    native.mixed_layer: "mixed",
    persistent.layer: "persistent",
}
_FEATURES, _QUANTILES = 18, 5
# Operations a second to reckon with; seconds to spend on a kernel in a cell.
_SLOWEST, _SECONDS = {"cpu": 3e10, "cuda": 3e11}, {"cpu": 0.2, "cuda": 0.05}


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.sweep`. A repeat returns the next cell; `done` after the last one."""
    torch.set_num_threads(talk.threads())
    if task["kernel"] == "persistent":
        persistent.check("lstm", torch.empty(0, device=task["device"]), hidden=1)
    if task["kernel"] == "mixed" and not library.mixed_codes():
        raise RuntimeError(
            "sweep-mixed needs a processor with products of bfloat16, and a compiler at the install"
        )
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
    network: nn.Module
    run: Callable[[Tensor], Any]
    if module == "CalendarHead":
        network, x, run = _head(hidden_size, batch, steps)
    else:
        flop = layers * lstm_training(batch, steps, hidden_size, hidden_size)
        if flop / (1 if mode == "training" else 3) / _SLOWEST[device] > limit:
            return {"skipped": True}
        network = run = _MODULES[module](hidden_size, hidden_size, layers, batch_first=True, device=device)
        x = torch.randn(batch, steps, hidden_size, device=device)
    network.train(mode == "training")
    x.requires_grad_(mode == "training")
    work = partial(_train if mode == "training" else _infer, network, run, x)
    with _as_asked(kernel):
        _seconds(work, device)
        first = _seconds(work, device)
        if first > limit:
            return {"skipped": True}
        rounds = min(max(3, round(_SECONDS[device] / first)), 50)
        taken = median(_seconds(work, device) for _ in range(rounds))
    allowed = mixed_precision() if kernel == "mixed" else nullcontext()
    with allowed, using("auto"), torch.set_grad_enabled(mode == "training"):
        return {"taken": taken, "auto": _chosen(network, x, steps), "rounds": rounds}


def _head(hidden_size: int, batch: int, steps: int) -> tuple[CalendarHead, Tensor, Callable[[Tensor], Any]]:
    """A head, a memory, and the head as a function of it."""
    network = CalendarHead(hidden_size, steps, _FEATURES, 0.1, _QUANTILES)
    future_BHF = torch.randn(batch, steps, _FEATURES)
    return network, torch.randn(batch, hidden_size), lambda h_BK: network(h_BK, future_BHF)


def _chosen(network: nn.Module, x: Tensor, steps: int) -> str:
    """The kernel that would be chosen now."""
    if isinstance(network, CalendarHead):
        future_BHF = torch.empty(len(x), steps, _FEATURES)
        return "native" if head.fits(x, future_BHF, network.weights) else "torch"
    assert isinstance(network, nn.RNNBase)
    layer = choose(network, x)
    return "torch" if layer is None else _NAMES[layer]


def _train(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> None:
    network.zero_grad()
    x.grad = None
    result = run(x)
    (result[0] if isinstance(result, tuple) else result).sum().backward()


def _infer(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> None:
    with torch.inference_mode():
        run(x)


def _seconds(work: Callable[[], None], device: str) -> float:
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])
