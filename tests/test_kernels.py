"""The recurrent kernels equal torch's modules: in value, in gradient, whatever the shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from recurrent_twins import MIXED, NATIVE, PAIRS, both_ways, flat, is_at_a_kink, torch_threads, twins
from torch import Tensor, nn

from lstm import kernels
from lstm.kernels import library
from lstm.kernels.checks import WrongInput

KERNELS = ["reference", pytest.param("native", marks=NATIVE)]
SHAPES = {
    "cell": st.sampled_from(sorted(PAIRS)),
    "batch": st.integers(1, 70),
    "steps": st.integers(1, 40),
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
@settings(max_examples=40, deadline=None)
@given(**SHAPES)
# One unit of one row within rounding of 0.
@example("relu", 32, 21, 2, 32, 2, True, False, True, True, 1, 1)
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
    assume(cell != "relu" or not is_at_a_kink(theirs, x, state, weights))
    with kernels.using(kernel), torch_threads(threads):
        seen = both_ways(ours, x, state, weights)
    for a, b in zip(seen, both_ways(theirs, x, state, weights), strict=True):
        # Sums of many terms of either sign: relative to the largest number, or to their own size of about 1.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.detach().abs().max())))


@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_the_reference_passes_gradcheck_in_double_precision(cell: str) -> None:
    ours, _ = twins(cell, 2, 3, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    with kernels.using("reference"):
        assert torch.autograd.gradcheck(lambda x: tuple(flat(ours(x))), (x,))


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_goes_through_as_in_torch(cell: str, value: float) -> None:
    """In the row and from the step where it stands, forward; in everything it touches, backward."""
    ours, theirs = twins(cell, 3, 7, batch_first=True)
    x = torch.randn(9, 6, 3)
    x[4, 2, 1] = value
    weights = [torch.randn_like(r) for r in flat(theirs(x))]
    with kernels.using("native"):
        seen = both_ways(ours, x, (), weights)
    for a, b in zip(seen, both_ways(theirs, x, (), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_inputs_and_gradients_need_not_be_contiguous(cell: str) -> None:
    ours, theirs = twins(cell, 3, 5, batch_first=True)
    x = torch.randn(6, 3, 2 * 8)[:, :, ::2].transpose(1, 2)
    for module in (ours, theirs):
        y, _ = module(x)
        with kernels.using("native" if module is ours else "torch"):
            y, _ = module(x)
            y[:, ::2].transpose(0, 2).sum(0).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


@NATIVE
@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_the_last_state_alone(cell: str) -> None:
    ours, theirs = twins(cell, 3, 5, 2)
    x = torch.randn(7, 6, 3)
    expected = theirs(x)[0][-1]
    for kernel in ("native", "torch", "reference"):
        with kernels.using(kernel):  # type: ignore[arg-type]
            torch.testing.assert_close(ours.last(x), expected)  # type: ignore[operator]
            torch.testing.assert_close(ours.last(x[:, 2]), expected[2])  # type: ignore[operator]


@NATIVE
def test_what_is_not_asked_for_is_not_computed() -> None:
    """Frozen weights, an input without gradient, no gradients at all."""
    ours, theirs = twins("lstm", 3, 5, 2, batch_first=True)
    x = torch.randn(6, 4, 3)
    with kernels.using("native"):
        with torch.no_grad():
            assert ours(x)[0].grad_fn is None
        ours.requires_grad_(False)
        assert ours(x)[0].grad_fn is None
        ours.weight_hh_l1.requires_grad_()
        ours(x)[0].square().sum().backward()
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l1.grad, theirs.weight_hh_l1.grad, rtol=1e-5, atol=1e-5)


@NATIVE
def test_dropout_between_layers_drops_and_only_in_training() -> None:
    ours, theirs = twins("gru", 3, 5, 3, batch_first=True, dropout=1.0)
    x = torch.randn(6, 4, 3)
    with kernels.using("native"):
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
        torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])


@NATIVE
def test_a_compiled_and_an_exported_graph_hold_the_operator() -> None:
    ours, theirs = twins("lstm", 3, 32, batch_first=True)
    x = torch.randn(64, 50, 3)
    with kernels.using("native"), torch._dynamo.config.patch(allow_rnn=True):  # type: ignore[attr-defined]
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        compiled(x)[0].square().sum().backward()
        exported = torch.export.export(ours, (x,))
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=1e-5, atol=1e-5)
    assert "nightcast.recurrent" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x)[0], theirs(x)[0])


@NATIVE
@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=MIXED)])
@pytest.mark.parametrize("cell", ["lstm", "tanh"])
def test_the_operator_keeps_torchs_rules(cell: str, mixed: bool) -> None:
    """Schema, fake tensors, autograd registration: what `torch.compile` relies on."""
    ours, _ = twins(cell, 3, 8, batch_first=True)
    x, h = torch.randn(16, 5, 3, requires_grad=True), torch.zeros(16, 8)
    c = torch.zeros(16, 8) if cell == "lstm" else None
    torch.library.opcheck(
        torch.ops.nightcast.recurrent.default, (cell, x, h, c, *ours.parameters(), True, True, mixed)
    )


BAD = [
    (torch.zeros(3), None, r"shape \(3,\)"),
    (torch.zeros(2, 2, 2, 3), None, r"shape \(2, 2, 2, 3\)"),
    (torch.zeros(2, 4, 5), None, "has 5 inputs, not 3"),
    (torch.zeros(0, 4, 3), None, r"shape \(0, 4, 3\) is empty"),
    (torch.zeros(2, 0, 3), None, r"shape \(2, 0, 3\) is empty"),
    (torch.zeros(2, 4, 3, dtype=torch.float64), None, "float64 on cpu, the weights are torch.float32"),
    (torch.zeros(2, 4, 3, dtype=torch.int64), None, "int64"),
    (torch.zeros(2, 4, 3, device="meta"), None, "on meta"),
    (torch.zeros(2, 4, 3), torch.zeros(1, 2, 5), "not a pair"),
    (torch.zeros(2, 4, 3), (torch.zeros(1, 3, 5), torch.zeros(1, 2, 5)), r"\(1, 3, 5\), not \(1, 2, 5\)"),
    (torch.zeros(2, 4, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 6)), r"\(1, 2, 6\), not \(1, 2, 5\)"),
    (torch.zeros(4, 3), (torch.zeros(1, 1, 5), torch.zeros(1, 1, 5)), r"\(1, 1, 5\), not \(1, 5\)"),
]


@pytest.mark.parametrize("kernel", ["auto", "torch", "reference"])
@pytest.mark.parametrize(("x", "state", "text"), BAD)
def test_what_does_not_fit_is_refused_in_shapes(kernel: Any, x: Tensor, state: Any, text: str) -> None:
    with kernels.using(kernel), pytest.raises(WrongInput, match=text):
        kernels.LSTM(3, 5, batch_first=True)(x, state)


def test_a_state_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(WrongInput, match="list, not a tensor"):
        kernels.GRU(3, 5)(torch.zeros(4, 2, 3), [torch.zeros(1, 2, 5)])


def is_denormal(values: Tensor) -> Tensor:
    return (values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)


@NATIVE
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh"])
def test_a_gradient_that_fades_out_ends_at_0(cell: str) -> None:
    """Not among the denormals, with which a processor may take many times as long."""
    ours, theirs = twins(cell, 1, 8, batch_first=True)
    with torch.no_grad():
        for parameter in [*ours.parameters(), *theirs.parameters()]:
            parameter *= 0.3
    x = torch.randn(32, 200, 1)

    def by_input(module: torch.nn.RNNBase) -> Tensor:
        own = x.clone().requires_grad_()
        return torch.autograd.grad(module(own)[0][:, -1].sum(), own)[0]

    expected = by_input(theirs)
    assert is_denormal(expected).any()
    with kernels.using("native"):
        seen = by_input(ours)
    assert not is_denormal(seen).any()
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@NATIVE
@pytest.mark.parametrize("threads", [1, 2])
def test_outside_the_kernel_denormals_stay_what_they_are(threads: int) -> None:
    small = torch.full((1_000_000,), 1e-39)
    with kernels.using("native"), torch_threads(threads):
        kernels.LSTM(1, 32, batch_first=True)(torch.randn(256, 50, 1))[0].sum().backward()
        assert is_denormal(small * 0.5).all()


@pytest.mark.parametrize("cell", sorted(PAIRS))
def test_under_autocast_a_layer_takes_what_the_layer_before_gives(cell: str) -> None:
    """In the shorter type, as torch's own does."""
    ours, theirs = twins(cell, 5, 7, batch_first=True)
    x = torch.randn(4, 6, 3)
    embed = torch.nn.Linear(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        short = embed(x)
        assert short.dtype is torch.bfloat16
        torch.testing.assert_close(ours(short)[0], theirs(short)[0])
        torch.testing.assert_close(ours.last(short), theirs(short)[0][:, -1])
        with pytest.raises(WrongInput, match="float64"):
            ours(x.double() @ torch.randn(3, 5).double())
    with pytest.raises(WrongInput, match="bfloat16"):
        ours(short)


@pytest.fixture
def no_graphs() -> Iterator[None]:
    """Graphs of other tests would count against what torch allows a function, and those of this one."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@NATIVE
@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize(
    ("kind", "hidden"),
    [(kernels.LSTM, 5), (kernels.LSTM, 33), (kernels.GRU, 65), (kernels.RNN, 65)],
)
@pytest.mark.parametrize("is_intel", [True, False])
def test_a_graph_of_a_layer_is_made_by_auto_beside_several_threads(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.RNNBase], hidden: int, is_intel: bool
) -> None:
    monkeypatch.setattr(library, "_intel", is_intel)
    module = kind(3, hidden, batch_first=True)
    x = torch.randn(64, 9, 3)
    with torch_threads(2), torch._dynamo.config.patch(allow_rnn=True):  # type: ignore[attr-defined]
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x)[0], module(x)[0])
