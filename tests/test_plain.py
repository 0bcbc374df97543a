"""Native code reads memory past torch: only where nobody else looks, and whatever the defaults are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from lstm.kernels import LSTM, library, using
from lstm.kernels.dispatch import Kernel
from lstm.models.forecaster import ForecasterConfig, build
from lstm.models.heads import CalendarHead
from lstm.training.loss import forecast_loss

pytestmark = pytest.mark.skipif(not library.widths(), reason="no native code for this processor")


def layer(x_BTI: Tensor, lstm: LSTM) -> Tensor:
    with using("native"):
        y_BTH: Tensor = lstm(x_BTI)[0]
    return y_BTH


@pytest.fixture
def lstm() -> LSTM:
    torch.manual_seed(0)
    return LSTM(3, 5, batch_first=True)


@pytest.fixture
def forecast() -> Callable[[], Tensor]:
    """A forecast's loss, of plain tensors alone."""
    torch.manual_seed(0)
    config = ForecasterConfig("gru", 8, 1, 0.2, 4, 12, 5, (0.1, 0.5, 0.9), 2, 3)
    network, x_BLC = build(config), torch.randn(40, 12, 2)
    future_BHF, target_BH = torch.randn(40, 5, 3), torch.randn(40, 5)
    levels_Q = torch.tensor(config.quantiles)

    def loss() -> Tensor:
        y_BHQ = network(x_BLC, x_BLC > -1, future_BHF)
        return forecast_loss("pinball", y_BHQ, target_BH, target_BH > -1, levels_Q)

    return loss


def test_what_a_transform_closes_over_is_computed_all_the_same(
    lstm: LSTM, forecast: Callable[[], Tensor]
) -> None:
    x_BTI, w_H = torch.randn(4, 6, 3), torch.randn(5)
    expected = layer(x_BTI, lstm).sum((0, 1))
    by_w_H = torch.func.grad(lambda w_H: (layer(x_BTI, lstm) * w_H).sum())(w_H)
    torch.testing.assert_close(by_w_H, expected)
    each = torch.vmap(lambda w: w * forecast())(w_H)
    torch.testing.assert_close(each, w_H * forecast())


def test_a_batch_of_gradients_goes_through_a_layer(lstm: LSTM) -> None:
    x_BTI = torch.randn(2, 4, 3, requires_grad=True)
    y_BTH = layer(x_BTI, lstm)
    directions = torch.eye(y_BTH.numel())[:7].view(7, *y_BTH.shape)
    (together,) = torch.autograd.grad(y_BTH, x_BTI, directions, is_grads_batched=True, retain_graph=True)
    for direction, by_x in zip(directions, together, strict=True):
        torch.testing.assert_close(torch.autograd.grad(y_BTH, x_BTI, direction, retain_graph=True)[0], by_x)


def test_a_traced_layer_and_a_counted_one_hold_the_operator(lstm: LSTM) -> None:
    x_BTI = torch.randn(4, 6, 3)
    traced = make_fx(lambda x_BTI: layer(x_BTI, lstm))(x_BTI)
    assert any("nightcast.recurrent" in str(node.target) for node in traced.graph.nodes)
    torch.testing.assert_close(traced(2 * x_BTI), layer(2 * x_BTI, lstm))
    with FlopCounterMode(display=False):
        torch.testing.assert_close(layer(x_BTI, lstm), lstm(x_BTI)[0])


# Torch would have us use torch.export; jit is what some still have.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_network_may_be_traced(lstm: LSTM) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = lstm, CalendarHead(5, 4, 2, 0.0, 3)

        def forward(self, x_BTI: Tensor, future_BHF: Tensor) -> Tensor:
            out_BHQ: Tensor = self.head(layer(x_BTI, self.lstm)[:, -1], future_BHF)
            return out_BHQ

    both, x_BTI, future_BHF = Both(), torch.randn(7, 6, 3), torch.randn(7, 4, 2)
    traced = torch.jit.trace(both, (x_BTI, future_BHF), check_trace=False)
    torch.testing.assert_close(traced(2 * x_BTI, -future_BHF), both(2 * x_BTI, -future_BHF))


def test_a_negative_that_is_not_computed_yet_has_its_sign(lstm: LSTM) -> None:
    z_BTI = torch.randn(4, 6, 3, dtype=torch.complex64)
    negative = z_BTI.conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(layer(negative, lstm), layer(-z_BTI.imag.contiguous(), lstm))


def test_weights_that_lie_turned_have_gradients_that_do_not(lstm: LSTM) -> None:
    x_BTI = torch.randn(4, 6, 3)
    expected = torch.autograd.grad(layer(x_BTI, lstm).sum(), list(lstm.parameters()))
    for name in ("weight_ih_l0", "weight_hh_l0"):
        parameter = getattr(lstm, name)
        parameter.data = parameter.data.T.contiguous().T
    seen = torch.autograd.grad(layer(x_BTI, lstm).sum(), list(lstm.parameters()))
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [4, 4_000])
def test_an_output_may_be_changed_in_place(lstm: LSTM, rows: int) -> None:
    x_BTI = torch.randn(rows, 6, 3)
    changed = layer(x_BTI, lstm).relu_()
    seen = torch.autograd.grad(changed.sum(), list(lstm.parameters()))
    expected = torch.autograd.grad(nn.functional.relu(layer(x_BTI, lstm)).sum(), list(lstm.parameters()))
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_last_states_may_be_cut_off_and_changed_in_place(lstm: LSTM, kernel: Kernel) -> None:
    """As truncated backpropagation does."""
    with using(kernel):
        h_NBH, c_NBH = lstm(torch.randn(4, 6, 3))[1]
        h_NBH.detach_(), c_NBH.detach_()
        with torch.no_grad():
            h_NBH, _ = lstm(torch.randn(4, 6, 3))[1]
    factor = torch.ones(4, 5, requires_grad=True)
    h_NBH.mul_(factor).sum().backward()
    assert factor.grad is not None


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_defaults_for_new_tensors_change_nothing(
    lstm: LSTM, forecast: Callable[[], Tensor], kind: torch.dtype
) -> None:
    x_BTI = torch.randn(4, 6, 3)
    expected = layer(x_BTI, lstm), forecast()
    torch.set_default_dtype(kind)
    torch.set_default_device("meta")
    try:
        seen = layer(x_BTI, lstm), forecast()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
