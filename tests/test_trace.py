"""Looking inside recurrent layers: gates in [0, 1], states that are the module's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lstm import kernels
from lstm.kernels import reference
from lstm.kernels.reference import Weights

CELLS: dict[str, tuple[type[nn.RNNBase], dict[str, Any], tuple[str, ...]]] = {
    "lstm": (
        kernels.LSTM,
        {},
        ("input_gate", "forget_gate", "candidate", "output_gate", "cell_state", "hidden_state"),
    ),
    "gru": (kernels.GRU, {}, ("reset_gate", "update_gate", "candidate", "hidden_state")),
    "tanh": (kernels.RNN, {}, ("hidden_state",)),
    "relu": (kernels.RNN, {"nonlinearity": "relu"}, ("hidden_state",)),
}


@settings(max_examples=30, deadline=None)
@given(
    cell=st.sampled_from(sorted(CELLS)),
    batch=st.integers(1, 5),
    steps=st.integers(1, 12),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_gates_lie_between_0_and_1_and_states_are_the_modules_own(
    cell: str, batch: int, steps: int, layers: int, bidirectional: bool, scale: float, seed: int
) -> None:
    kind, extra, names = CELLS[cell]
    torch.manual_seed(seed)
    module = kind(3, 4, layers, batch_first=True, bidirectional=bidirectional, **extra)
    x_BTI = scale * torch.randn(batch, steps, 3)
    with torch.no_grad():
        y_BTH, ends = module(x_BTI)
        with kernels.tracing() as traces:
            traced_BTH, _ = module(x_BTI)
    torch.testing.assert_close(traced_BTH, y_BTH, rtol=1e-4, atol=1e-5)
    h_NBH, *c = ends if cell == "lstm" else (ends,)
    directions = 1 + bidirectional
    assert [(trace.number, trace.is_reverse) for trace in traces] == [
        (number, bool(direction)) for number in range(layers) for direction in range(directions)
    ]
    for place, trace in enumerate(traces):
        assert trace.module is module
        assert tuple(trace.parts) == names
        for name, part in trace.parts.items():
            assert part.shape == (batch, steps, 4)
            if name.endswith("_gate"):
                assert ((part >= 0) & (part <= 1)).all()
            if name == "candidate":
                assert (part.abs() <= 1).all()
        # In the order of time: a reverse layer's last state is that of the first step.
        newest = 0 if trace.is_reverse else -1
        torch.testing.assert_close(trace.parts["hidden_state"][:, newest], h_NBH[place], rtol=1e-4, atol=1e-5)
        if c:
            torch.testing.assert_close(
                trace.parts["cell_state"][:, newest], c[0][place], rtol=1e-4, atol=1e-5
            )
    tops = torch.cat([trace.parts["hidden_state"] for trace in traces[-directions:]], dim=-1)
    torch.testing.assert_close(tops, y_BTH, rtol=1e-4, atol=1e-5)


def test_the_equations_hold_between_gates_and_states() -> None:
    module = kernels.LSTM(2, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad(), kernels.tracing() as traces:
        module.last(torch.randn(4, 6, 2, dtype=torch.float64))
    i, f, g, o, c, h = (traces[0].parts[name] for name in CELLS["lstm"][2])
    before = torch.cat([torch.zeros_like(c[:, :1]), c[:, :-1]], dim=1)
    torch.testing.assert_close(c, f * before + i * g)
    torch.testing.assert_close(h, o * torch.tanh(c))

    gru = kernels.GRU(2, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad(), kernels.tracing() as traces:
        gru.last(torch.randn(4, 6, 2, dtype=torch.float64))
    _, z, n, h = (traces[0].parts[name] for name in CELLS["gru"][2])
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
    torch.testing.assert_close(h, (1 - z) * n + z * before)


@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh"])
def test_one_step_equals_torchs_own_cell_in_value_and_gradient(cell: str) -> None:
    kinds: dict[str, type[nn.RNNCellBase]] = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "tanh": nn.RNNCell}
    theirs = kinds[cell](3, 5, dtype=torch.float64)
    weights = [parameter for _, parameter in theirs.named_parameters()]
    x, h, c = (torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (3, 5, 5))
    inputs = [x, h, *([c] if cell == "lstm" else []), *weights]
    own = reference.step(cell, x, h, c, Weights(*weights))
    ours = (own.hidden_state, reference.cell_state(own)) if cell == "lstm" else (own.hidden_state,)
    expected = theirs(x, (h, c)) if cell == "lstm" else (theirs(x, h),)
    for a, b in zip(ours, expected, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b)
        for seen, wanted in zip(
            torch.autograd.grad(a.sum(), inputs, retain_graph=True, allow_unused=True),
            torch.autograd.grad(b.sum(), inputs, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(seen, wanted)


def test_only_this_threads_modules_and_only_inside_the_block_are_traced() -> None:
    module = kernels.GRU(2, 3, batch_first=True)
    x = torch.randn(1, 4, 2)
    with kernels.tracing() as outer:
        module(x)
        with kernels.tracing() as inner:
            module(x)
        module(x)
    module(x)
    assert (len(outer), len(inner)) == (2, 1)
    with pytest.raises(ZeroDivisionError), kernels.tracing():
        _ = 1 / 0
    with kernels.tracing() as nothing:
        nn.Linear(2, 3)(x)
    assert nothing == []
    assert len(outer) == 2
