"""The recurrent modules and torch's of the same weights, and what each makes of the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lstm import kernels
from lstm.kernels import library

PAIRS: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
    "tanh": (kernels.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
}
NATIVE = pytest.mark.skipif(not library.widths(), reason="the native kernel is not built here")
MIXED = pytest.mark.skipif(not library.mixed_codes(), reason="no products of bfloat16 here")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """That many threads of torch's inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def twins(cell: str, *arguments: Any, **options: Any) -> tuple[nn.RNNBase, nn.RNNBase]:
    """Ours and torch's, of the same weights."""
    own, torch_own, extra = PAIRS[cell]
    torch.manual_seed(0)
    ours, theirs = own(*arguments, **options, **extra), torch_own(*arguments, **options, **extra)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(results: Any) -> list[Tensor]:
    """Outputs and final states, in order."""
    y, state = results
    return [y, *(state if isinstance(state, tuple) else (state,))]


def both_ways(module: nn.Module, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> list[Tensor]:
    """Results, and gradients by every input and parameter of a weighted sum of all results."""
    inputs = [tensor.clone().requires_grad_() for tensor in (x, *state)]
    hx = None if not state else tuple(inputs[1:]) if isinstance(module, nn.LSTM) else inputs[1]
    results = flat(module(inputs[0], hx))
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    gradients = torch.autograd.grad(loss, [*inputs, *module.parameters()])
    return [*results, *gradients]


def is_at_a_kink(module: nn.Module, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> bool:
    """True where rounding may turn a unit of relu on or off: its gradient jumps there, for everybody."""
    exact = copy.deepcopy(module).double()
    double = [tensor.double() for tensor in weights]
    plain = both_ways(exact, x.double(), tuple(part.double() for part in state), double)
    for _ in range(4):
        moved = [tensor.double() + 1e-5 * torch.randn(tensor.shape).double() for tensor in (x, *state)]
        for a, b in zip(both_ways(exact, moved[0], tuple(moved[1:]), double), plain, strict=True):
            if (a - b).abs().max() > 1e-3 * max(1.0, float(b.detach().abs().max())):
                return True
    return False
