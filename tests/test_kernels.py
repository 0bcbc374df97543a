"""The recurrent kernels equal torch's modules: in value, in gradient, whatever the shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm import kernels
from lstm.kernels import native

PAIRS: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
    "tanh": (kernels.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
}


NATIVE = pytest.mark.skipif(not native.widths(), reason="the native kernel is not built here")
KERNELS = ["reference", pytest.param("native", marks=NATIVE)]


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


SHAPES = {
    "cell": st.sampled_from(sorted(PAIRS)),
    "batch": st.integers(1, 70),
    "steps": st.integers(1, 70),
    "inputs": st.integers(1, 12),
    "hidden": st.integers(1, 40),
    "layers": st.integers(1, 3),
    "bias": st.booleans(),
    "batch_first": st.booleans(),
    "bidirectional": st.booleans(),
    "has_state": st.booleans(),
    "threads": st.integers(1, 3),
    "seed": st.integers(0, 999),
}


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_values_and_gradients_equal_torchs(
    kernel: Any, cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int, bias: bool,
    batch_first: bool, bidirectional: bool, has_state: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    ours, theirs = twins(
        cell, inputs, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    torch.manual_seed(seed)
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    count = layers * (2 if bidirectional else 1)
    parts = (2 if cell == "lstm" else 1) if has_state else 0
    state = tuple(torch.randn(count, batch, hidden) for _ in range(parts))
    weights = [torch.randn_like(r) for r in flat(theirs(x))]
    with kernels.using(kernel), torch_threads(threads):
        seen = both_ways(ours, x, state, weights)
    for a, b in zip(seen, both_ways(theirs, x, state, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_the_reference_passes_gradcheck_in_double_precision(cell: str) -> None:
    ours, _ = twins(cell, 2, 3, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    with kernels.using("reference"):
        assert torch.autograd.gradcheck(lambda x: tuple(flat(ours(x))), (x,))


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="fastest"), kernels.using("fastest"):  # type: ignore[arg-type]
        pass
