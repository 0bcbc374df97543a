"""Layers of many networks at once: under `torch.vmap`, what the reference computes for each by itself."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lstm.kernels import reference, stacked
from lstm.kernels.reference import Weights

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


def both(
    layer: Any, cell: str, tensors: list[Tensor | None], axes: list[int | None], sequence: bool
) -> list[Tensor]:
    """All results of all lanes, and the gradients of what has any, of a weighted sum of the results."""
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]

    def run(x: Tensor, h: Tensor, c: Tensor | None, *weights: Any) -> tuple[Tensor, ...]:
        ends = layer(cell, x, h, c, Weights(*weights), sequence)
        return tuple(end for end in ends if end is not None)

    results = torch.vmap(run, in_dims=tuple(axes), out_dims=0)(*leaves)
    torch.manual_seed(0)
    sum((result * torch.randn(result.shape).to(result)).sum() for result in results).backward()
    gradients = [leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None]
    return [*(result.detach() for result in results), *gradients]


def problem(
    cell: str, sizes: tuple[int, int, int, int, int], has_bias: bool, shares_input: bool, device: str
) -> tuple[list[Tensor | None], list[int | None]]:
    """Input, states and weights of so many lanes, rows, steps, inputs and units; and their axes of lanes."""
    lanes, rows, steps, inputs, hidden = sizes
    rest = GATES[cell] * hidden
    shapes = [(rows, steps, inputs), (rows, hidden), (rows, hidden), (rest, inputs), (rest, hidden)]
    shapes += [(rest,), (rest,)]
    is_there = [True, True, cell == "lstm", True, True, has_bias, has_bias]
    axes: list[int | None] = [None if shares_input else 1, 0, None if shares_input else 0, 0, 0, 0, 0]
    tensors: list[Tensor | None] = []
    for place, (shape, there, axis) in enumerate(zip(shapes, is_there, axes, strict=True)):
        whole = shape if axis is None else (*shape[:axis], lanes, *shape[axis:])
        tensors.append(torch.randn(whole, device=device) if there else None)
        axes[place] = axis if there else None
    return tensors, axes


@settings(max_examples=40)
@given(
    cell=st.sampled_from(sorted(GATES)),
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 5, 4, 3, 6))),
    has_bias=st.booleans(),
    shares_input=st.booleans(),
    sequence=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_lane_has_the_references_results_and_gradients(
    cell: str, sizes: tuple[int, int, int, int, int], has_bias: bool, shares_input: bool, sequence: bool,
    seed: int,
) -> None:  # fmt: skip
    compare(cell, sizes, has_bias, shares_input, sequence, seed, "cpu")


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("sequence", [True, False])
def test_a_cuda_device_computes_the_same(cell: str, has_bias: bool, sequence: bool, device: str) -> None:
    compare(cell, (5, 33, 7, 12, 20), has_bias, False, sequence, 0, device)


def compare(
    cell: str, sizes: tuple[int, int, int, int, int], has_bias: bool, shares_input: bool, sequence: bool,
    seed: int, device: str,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    tensors, axes = problem(cell, sizes, has_bias, shares_input, device)
    seen, expected = (
        both(layer, cell, tensors, axes, sequence) for layer in (stacked.layer, reference.layer)
    )
    for own, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_under_autocast_it_computes_in_the_shorter_type(cell: str, device: str) -> None:
    torch.manual_seed(0)
    tensors, axes = problem(cell, (3, 8, 5, 4, 6), True, False, device)
    with torch.autocast(device, torch.bfloat16):
        seen = both(stacked.layer, cell, tensors, axes, True)
    expected = both(reference.layer, cell, tensors, axes, True)
    assert seen[0].dtype is torch.bfloat16
    for own, other in zip(seen, expected, strict=True):
        assert torch.linalg.vector_norm(own.float() - other) < 0.05 * torch.linalg.vector_norm(other)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_no_step_is_kept_where_nothing_asks_for_a_gradient(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, kept, alive = stacked.FORWARD[cell], list[Any](), list[int]()

    def watched(*arguments: Any) -> Any:
        alive.append(sum(gates() is not None for gates in kept))
        h, c, own = step(*arguments)
        kept.append(weakref.ref(own[0]))
        return h, c, own

    monkeypatch.setitem(stacked.FORWARD, cell, watched)
    tensors, axes = problem(cell, (2, 3, 6, 4, 5), True, False, "cpu")

    def run(x: Tensor, h: Tensor, c: Tensor | None, *weights: Any) -> Tensor:
        return stacked.layer(cell, x, h, c, Weights(*weights), sequence=False)[1]

    torch.vmap(run, in_dims=tuple(axes))(*tensors)
    assert alive == [0, 1, 1, 1, 1, 1]
    kept.clear()
    alive.clear()
    leaves = [None if tensor is None else tensor.requires_grad_() for tensor in tensors]
    torch.vmap(run, in_dims=tuple(axes))(*leaves)
    assert alive == [0, 1, 2, 3, 4, 5]
