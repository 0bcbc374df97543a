"""Recurrent layers in mixed precision: what the arithmetic says, chosen where it is allowed and possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_twins import MIXED, NATIVE, both_ways, flat, torch_threads, twins
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data.errors import SettingsError
from lstm import kernels
from lstm.kernels import dispatch, library, native, reference

CELLS = ["gru", "lstm", "tanh"]
# Of a vector's length, what float16 and activations to four digits leave; and where there are few numbers,
# of which one that is rounded the other way counts, and sums of either sign cancel.
CLOSE, CLOSE_WHERE_FEW = 6e-3, 1e-1


@pytest.fixture(autouse=True, scope="module", params=library.mixed_codes() or [None])
def code(request: pytest.FixtureRequest) -> Iterator[int | None]:
    """Each of this processor's codes in turn, the only one then."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            patch.setattr(library, "_mixed_codes", (request.param,))
        yield request.param


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


@MIXED
@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
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
    # Of one sign, so that no gradient is the small difference of large ones.
    weights = [torch.rand_like(r) for r in flat(ours(x))]
    with mixed(), torch_threads(threads):
        seen = both_ways(ours, x, state, weights)
    with short_products():
        expected = both_ways(ours, x, state, weights)
    for a, b in zip(seen, expected, strict=True):
        assert a.dtype is torch.float32
        assert apart(a, b) < (CLOSE if hidden >= 8 and batch >= 16 else CLOSE_WHERE_FEW)


@MIXED
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_what_goes_past_the_caches_is_what_comes_back(code: int, cell: str) -> None:
    """A large batch keeps so much, 10 MB; halves of it do not, and rows know nothing of each other."""
    if code != library.BF16:
        pytest.skip("nothing goes past them there")
    ours, _ = twins(cell, 1, 48, batch_first=True)
    x = torch.randn(256, 80, 1)
    weights = [torch.rand_like(r) for r in flat(ours(x))]
    halves = slice(None, 128), slice(128, None)
    with mixed():
        y, *_, dx = both_ways(ours, x, (), weights)[: len(weights) + 1]
        for half in halves:
            # (B, T, H) and then (layers, B, H).
            own = [weights[0][half], *(weight[:, half] for weight in weights[1:])]
            y_half, *_, dx_half = both_ways(ours, x[half].clone(), (), own)[: len(weights) + 1]
            assert torch.equal(y[half], y_half)
            assert torch.equal(dx[half], dx_half)


@MIXED
@pytest.mark.parametrize("cell", CELLS)
def test_results_are_near_those_of_float32(cell: str) -> None:
    ours, _ = twins(cell, 3, 50, batch_first=True)
    x = torch.randn(64, 168, 3)
    weights = [torch.rand_like(r) for r in flat(ours(x))]
    with kernels.mixed_precision():
        seen = both_ways(ours, x, (), weights)
    for a, b in zip(seen, both_ways(ours, x, (), weights), strict=True):
        assert 0 < apart(a, b) < 0.03


@MIXED
@settings(max_examples=10, deadline=None)
@given(st.sampled_from(CELLS), st.integers(1, 256), st.integers(1, 3), st.integers(1, 3))
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


NOT_NUMBERS = [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000]
"""As bits: torch's NaN, Nvidia's, memory full of ones, one that signals; and inf."""


@MIXED
@pytest.mark.parametrize("place", ["x", "h0"])
@pytest.mark.parametrize("bits", NOT_NUMBERS, ids=hex)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_no_number_stays_in_its_row(code: int, cell: str, bits: int, place: str) -> None:
    """The other rows never know of it. To a GRU on AMX inf is none: see cpu/mixed.h."""
    ours, theirs = twins(cell, 2, 9, batch_first=True)
    x = torch.randn(40, 6, 2)
    state = tuple(torch.randn(1, 40, 9) for _ in range(2 if cell == "lstm" else 1))
    hx = state if cell == "lstm" else state[0]
    value = torch.from_numpy(np.array([bits], dtype=np.uint32).view(np.float32))
    (x[17, 3] if place == "x" else state[0][0, 17])[:] = value
    others = [row for row in range(40) if row != 17]
    with mixed():
        y = ours(x, hx)[0]
    y[others].sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    if (code, cell, bits) != (library.AMX, "gru", 0x7F800000):
        assert torch.equal(y.isnan(), theirs(x, hx)[0].isnan())
    assert y[others].isfinite().all()


@MIXED
@pytest.mark.parametrize("bits", NOT_NUMBERS[:-1], ids=hex)
def test_a_gradient_that_is_no_number_does_not_become_one(bits: int) -> None:
    ours, _ = twins("lstm", 2, 9, batch_first=True)
    x = torch.randn(40, 6, 2, requires_grad=True)
    with mixed():
        y = ours(x)[0]
    dy = torch.zeros_like(y)
    dy[17, 3] = torch.from_numpy(np.array([bits], dtype=np.uint32).view(np.float32))
    y.backward(dy)
    assert x.grad is not None
    assert x.grad[17, :4].isnan().all()
    assert (x.grad[:17] == 0).all()
    assert all(parameter.grad.isnan().all() for parameter in ours.parameters() if parameter.grad is not None)


@MIXED
@pytest.mark.parametrize("cell", CELLS)
def test_the_last_state_alone_is_that_of_the_sequence(cell: str) -> None:
    """No y and no gradient by it: the gradients are those by the last state."""
    ours, _ = twins(cell, 5, 20, batch_first=True)
    x = torch.randn(50, 20, 5)
    with mixed():
        last, y = ours.last(x), ours(x)[0]
    assert torch.equal(last, y[:, -1])
    pairs = zip(
        *(torch.autograd.grad(h.square().sum(), [*ours.parameters()]) for h in (last, y[:, -1])), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@MIXED
def test_inputs_of_any_strides_are_read() -> None:
    ours, _ = twins("lstm", 6, 20, batch_first=True)
    x = torch.randn(12, 30, 40).transpose(0, 2)[:, ::3, ::2]
    with mixed():
        assert torch.equal(ours(x)[0], ours(x.contiguous())[0])


@MIXED
@pytest.mark.parametrize("mixed_first", [True, False])
def test_a_graph_holds_it_and_another_one_float32(mixed_first: bool) -> None:
    ours, _ = twins("lstm", 3, 17, batch_first=True)
    x = torch.randn(64, 9, 3)
    with torch._dynamo.config.patch(allow_rnn=True):  # type: ignore[attr-defined]
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        for is_mixed in (mixed_first, not mixed_first):
            with kernels.mixed_precision() if is_mixed else nullcontext():
                assert torch.equal(compiled(x)[0], ours(x)[0])
                compiled(x)[0].sum().backward()


LEAST_ROWS = [(17, 1, 2, 16), (256, 1, 2, 16), (257, 1, 2, 32), (257, 32, 2, 16), (257, 1, 1, 16)]
"""Of layers with so many units, by steps and threads."""


@NATIVE
def test_it_is_taken_where_it_is_allowed_and_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = twins("lstm", 3, 16, batch_first=True)
    x = torch.randn(64, 100, 3)
    monkeypatch.setattr(library, "_mixed_codes", (library.AMX, library.BF16))
    assert dispatch.choose(ours, x) is native.layer
    relu = kernels.RNN(3, 20, nonlinearity="relu", batch_first=True)
    with kernels.mixed_precision():
        assert dispatch.choose(relu, x) is native.layer
        assert dispatch.choose(ours, x) is native.mixed_layer
        assert dispatch.choose(ours, x[:32]) is native.mixed_layer
        assert dispatch.choose(ours, x[:31]) is native.layer
        for size, steps, threads, rows in LEAST_ROWS:
            other = kernels.LSTM(3, size, batch_first=True)
            with torch_threads(threads):
                assert dispatch.choose(other, x[:rows, :steps]) is native.mixed_layer
                assert dispatch.choose(other, x[: rows - 1, :steps]) is not native.mixed_layer
        gru, wide = kernels.GRU(3, 16, batch_first=True), torch.randn(16, 1_000, 3)
        with torch.no_grad():
            assert dispatch.choose(ours, wide) is native.mixed_layer
            assert dispatch.choose(gru, wide[:, :31]) is native.mixed_layer
            assert dispatch.choose(gru, wide[:, :32]) is not native.mixed_layer
        assert dispatch.choose(ours, wide[:, :24]) is not native.mixed_layer
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
        with torch_threads(5):
            assert dispatch.choose(ours, x[:64]) is native.mixed_layer
            assert dispatch.choose(ours, x[:63]) is not native.mixed_layer
    assert dispatch.choose(ours, x) is native.layer
    monkeypatch.setattr(library, "_mixed_codes", ())
    with kernels.mixed_precision():
        assert dispatch.choose(ours, x) is native.layer
    h = torch.zeros(64, 16)
    with pytest.raises(RuntimeError, match="mixed precision: not for lstm here"):
        native.mixed_layer("lstm", x, h, h, ours._weights(0, 0), True)


@NATIVE
def test_on_vectors_it_is_taken_where_a_thread_has_more_rows_than_a_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_mixed_codes", (library.BF16,))

    def least(module: nn.RNNBase, threads: int, steps: int = 1_000) -> list[int]:
        """The rows with which it begins, and those with which it ends, to be taken."""
        x = torch.randn(100, steps, 3)
        with torch_threads(threads), kernels.mixed_precision():
            taken = [dispatch.choose(module, x[:rows]) is native.mixed_layer for rows in range(1, 101)]
        return [rows for rows in range(2, 101) if taken[rows - 1] is not taken[rows - 2]]

    lstm = kernels.LSTM(3, 40, batch_first=True)
    assert least(lstm, 1) == [17]
    assert least(lstm, 2) == [33]
    # Too little for a second thread.
    assert least(lstm, 2, steps=1) == [17]
    assert least(lstm, 3) == [49]
    assert least(kernels.GRU(3, 128, batch_first=True), 2) == [33]
    narrow = kernels.GRU(3, 32, batch_first=True)
    with torch.no_grad():
        assert least(narrow, 1, steps=24) == [16]
        assert least(narrow, 1, steps=32) == [17]


@NATIVE
def test_a_variable_keeps_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = twins("lstm", 3, 16, batch_first=True)
    x = torch.randn(64, 100, 3)
    monkeypatch.setattr(library, "_mixed_codes", (library.AMX, library.BF16))
    assert "bfloat16 on AMX" in kernels.describe()
    monkeypatch.setattr(library, "_mixed_codes", (library.BF16,))
    assert "bfloat16 on AVX-512" in kernels.describe()
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
