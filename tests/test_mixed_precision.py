"""Recurrent layers in mixed precision: what the arithmetic says, chosen where it is allowed and possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_twins import MATRIX_UNIT, NATIVE, PAIRS, both_ways, flat, torch_threads, twins
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data.errors import SettingsError
from lstm import kernels
from lstm.kernels import dispatch, native, reference

# Of a vector's length, what float16 and activations to four digits leave; and where there are few numbers,
# of which one that is rounded the other way counts.
CLOSE, CLOSE_WHERE_FEW = 6e-3, 3e-2


def short(x: Tensor) -> Tensor:
    return x.bfloat16().float()


class ShortProduct(torch.autograd.Function):
    """x w^T + bias with every factor rounded to bfloat16, in the gradients too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(short(x), short(weight))
        ctx.has_bias = bias is not None
        return nn.functional.linear(short(x), short(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        dy = short(dy)
        return dy @ weight, dy.T @ x, dy.sum(0) if ctx.has_bias else None


@contextmanager
def short_products() -> Iterator[None]:
    """Inside, the reference multiplies in bfloat16."""
    with pytest.MonkeyPatch.context() as patch, kernels.using("reference"):
        patch.setattr(reference, "_linear", ShortProduct.apply)
        yield


@contextmanager
def mixed() -> Iterator[None]:
    """Inside, mixed precision is taken whatever the shape."""
    with dispatch.layers_from(lambda module: native.mixed_layer):
        yield


def apart(a: Tensor, b: Tensor) -> float:
    """Their distance, relative to the length of b."""
    return float((a.detach() - b.detach()).norm() / b.detach().norm().clamp_min(1e-6))


def all_on(module: nn.RNNBase) -> None:
    """Weights with which no unit of relu is off, and no state grows: rounding cannot switch one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.abs_()
            if name.startswith("weight_hh"):
                parameter.div_(module.hidden_size**0.5)


@MATRIX_UNIT
@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(sorted(PAIRS)),
    batch=st.integers(1, 100),
    steps=st.integers(1, 40),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 70),
    layers=st.integers(1, 2),
    bias=st.booleans(),
    has_state=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_products_of_bfloat16(
    cell: str, batch: int, steps: int, inputs: int, hidden: int, layers: int, bias: bool, has_state: bool,
    threads: int, seed: int,
) -> None:  # fmt: skip
    ours, _ = twins(cell, inputs, hidden, layers, bias=bias, batch_first=True)
    torch.manual_seed(seed)
    x = torch.randn(batch, steps, inputs)
    parts = (2 if cell == "lstm" else 1) if has_state else 0
    state = tuple(torch.randn(layers, batch, hidden) for _ in range(parts))
    if cell == "relu":
        all_on(ours)
        x, state = x.abs(), tuple(part.abs() for part in state)
    # Of one sign, so that no gradient is the small difference of large ones.
    weights = [torch.rand_like(r) for r in flat(ours(x))]
    with mixed(), torch_threads(threads):
        seen = both_ways(ours, x, state, weights)
    with short_products():
        expected = both_ways(ours, x, state, weights)
    for a, b in zip(seen, expected, strict=True):
        assert a.dtype is torch.float32
        assert apart(a, b) < (CLOSE if hidden >= 8 and batch >= 16 else CLOSE_WHERE_FEW)


@MATRIX_UNIT
@pytest.mark.parametrize("cell", ["gru", "lstm", "tanh"])
def test_results_are_near_those_of_float32(cell: str) -> None:
    ours, _ = twins(cell, 3, 50, batch_first=True)
    x = torch.randn(64, 168, 3)
    weights = [torch.rand_like(r) for r in flat(ours(x))]
    with kernels.mixed_precision():
        seen = both_ways(ours, x, (), weights)
    for a, b in zip(seen, both_ways(ours, x, (), weights), strict=True):
        assert 0 < apart(a, b) < 0.03


@MATRIX_UNIT
@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(PAIRS)), st.integers(1, 70), st.integers(1, 3), st.integers(1, 3))
def test_the_same_call_gives_the_same_bits_and_threads_may_change_in_between(
    cell: str, batch: int, threads: int, later: int
) -> None:
    ours, _ = twins(cell, 5, 33, batch_first=True)
    x = torch.randn(batch, 20, 5)

    def gradients(backward_threads: int) -> list[Tensor]:
        ours.zero_grad()
        with mixed(), torch_threads(threads):
            loss = ours(x)[0].square().sum()
        with torch_threads(backward_threads):
            loss.backward()
        return [parameter.grad for parameter in ours.parameters() if parameter.grad is not None]

    first = gradients(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(later), strict=True))


@MATRIX_UNIT
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("cell", ["gru", "lstm", "tanh"])
def test_what_is_no_number_stays_in_its_row(cell: str, value: float) -> None:
    """The other rows' never know of it. To a GRU inf is none: see cpu/mixed.h."""
    ours, theirs = twins(cell, 2, 9, batch_first=True)
    x = torch.randn(40, 6, 2)
    x[17, 3] = value
    with kernels.mixed_precision():
        y = ours(x)[0]
    if (cell, value) != ("gru", float("inf")):
        assert torch.equal(y.isnan(), theirs(x)[0].isnan())
    assert y[[row for row in range(40) if row != 17]].isfinite().all()


@MATRIX_UNIT
def test_inputs_of_any_strides_are_read() -> None:
    ours, _ = twins("lstm", 6, 20, batch_first=True)
    x = torch.randn(12, 30, 40).transpose(0, 2)[:, ::3, ::2]
    with kernels.mixed_precision():
        assert torch.equal(ours(x)[0], ours(x.contiguous())[0])


@MATRIX_UNIT
def test_a_graph_holds_it() -> None:
    ours, _ = twins("lstm", 3, 16, batch_first=True)
    x = torch.randn(64, 9, 3)
    with kernels.mixed_precision(), torch._dynamo.config.patch(allow_rnn=True):  # type: ignore[attr-defined]
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x)[0], ours(x)[0])
        compiled(x)[0].sum().backward()


@NATIVE
def test_it_is_taken_where_it_is_allowed_and_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = twins("lstm", 3, 16, batch_first=True)
    x = torch.randn(64, 100, 3)
    monkeypatch.setattr(native, "_matrix_unit", True)
    assert dispatch.choose(ours, x) is native.layer
    with kernels.mixed_precision():
        assert dispatch.choose(ours, x) is native.mixed_layer
        assert dispatch.choose(ours, x[:32]) is native.mixed_layer
        assert dispatch.choose(ours, x[:31]) is native.layer
        for size, rows in ((17, 16), (256, 16), (257, 32)):
            other = kernels.LSTM(3, size, batch_first=True)
            assert dispatch.choose(other, x[:rows]) is native.mixed_layer
            assert dispatch.choose(other, x[: rows - 1]) is not native.mixed_layer
        assert dispatch.choose(ours.double(), x.double()) is None
        ours.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert dispatch.choose(ours, x) is None
        for kernel, chosen in (
            ("torch", None),
            ("reference", reference.layer),
            ("native", native.mixed_layer),
        ):
            with kernels.using(kernel):  # type: ignore[arg-type]
                assert dispatch.choose(ours, x) is chosen
        monkeypatch.setattr(native, "_matrix_unit", False)
        assert dispatch.choose(ours, x) is native.layer
    assert dispatch.choose(ours, x) is native.layer


@NATIVE
def test_a_variable_keeps_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = twins("lstm", 3, 16, batch_first=True)
    x = torch.randn(64, 100, 3)
    monkeypatch.setattr(native, "_matrix_unit", True)
    assert "bfloat16 on AMX" in kernels.describe()
    monkeypatch.setenv("NIGHTCAST_PRECISION", "float32")
    assert "bfloat16" not in kernels.describe()
    with kernels.mixed_precision():
        assert dispatch.choose(ours, x) is native.layer
    monkeypatch.setenv("NIGHTCAST_PRECISION", "double")
    with (
        pytest.raises(SettingsError, match=r"NIGHTCAST_PRECISION=double.*auto or float32"),
        kernels.mixed_precision(),
    ):
        pass
