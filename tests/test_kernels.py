"""The recurrent kernels equal torch's modules: in value, in gradient, whatever the shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm import kernels

PAIRS: dict[str, tuple[type[nn.RNNBase], type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
    "tanh": (kernels.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
}


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


def both_ways(module: nn.Module, x: Tensor, state: Any, weights: list[Tensor]) -> list[Tensor]:
    """Results, and gradients by every input and parameter of a weighted sum of all results."""
    x = x.clone().requires_grad_()
    inputs = [x]
    if state is not None:
        state = tuple(s.clone().requires_grad_() for s in state)
        inputs += state
        state = state if isinstance(module, nn.LSTM) else state[0]
    results = flat(module(x, state))
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=False))
    used = [tensor for tensor in inputs[: 3 if isinstance(module, nn.LSTM) else 2]]
    gradients = torch.autograd.grad(loss, [*used, *module.parameters()])
    return [*results, *gradients]


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(sorted(PAIRS)),
    batch=st.integers(1, 40),
    steps=st.integers(1, 20),
    inputs=st.integers(1, 12),
    hidden=st.integers(1, 40),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    given_state=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_reference_equals_torch(
    cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int, bias: bool, batch_first: bool,
    bidirectional: bool, given_state: bool, seed: int,
) -> None:  # fmt: skip
    ours, theirs = twins(
        cell, inputs, hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    torch.manual_seed(seed)
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    count = layers * (2 if bidirectional else 1)
    state = tuple(torch.randn(count, batch, hidden) for _ in range(2)) if given_state else None
    weights = [torch.randn_like(r) for r in flat(theirs(x))]
    with kernels.using("reference"):
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
