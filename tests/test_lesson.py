"""The lesson: Keras's LSTM(50) and Dense(1) number for number, and two companies told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lstm import kernels
from lstm.kernels import library
from lstm.models.layers import initialise

NUMBERS = Path(__file__).with_name("keras_lesson.npz")
KERNELS = ["reference", "torch", *(["native"] if library.widths() else [])]


@pytest.fixture(scope="module")
def keras() -> dict[str, Tensor]:
    """What tests/keras_lesson.py stored, but for the versions."""
    with np.load(NUMBERS) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files if name != "versions"}


def lesson_of(keras: dict[str, Tensor]) -> tuple[kernels.LSTM, nn.Linear]:
    """Our network with Keras's weights: the same order of gates, transposed; one bias where torch has two."""
    inputs, gates = keras["kernel"].shape
    recurrent = kernels.LSTM(inputs, gates // 4, batch_first=True)
    output = nn.Linear(gates // 4, 1)
    with torch.no_grad():
        recurrent.weight_ih_l0.copy_(keras["kernel"].T)
        recurrent.weight_hh_l0.copy_(keras["recurrent_kernel"].T)
        recurrent.bias_ih_l0.copy_(keras["bias"])
        recurrent.bias_hh_l0.zero_()
        output.weight.copy_(keras["dense_kernel"].T)
        output.bias.copy_(keras["dense_bias"])
    return recurrent, output


def test_the_stored_network_is_that_of_the_lesson(keras: dict[str, Tensor]) -> None:
    assert keras["kernel"].shape == (1, 4 * 50)
    assert keras["dense_kernel"].shape == (50, 1)
    assert keras["bias"].unique().numel() == 200
    with np.load(NUMBERS) as stored:
        pinned = Path("benchmarks/peers/keras-tensorflow.txt")
        versions = {line.split()[0]: line.split()[1] for line in stored["versions"]}
    lines = (Path(__file__).parent.parent / pinned).read_text()
    assert f"keras=={versions['keras']}" in lines
    assert f"tensorflow-cpu=={versions['tensorflow']}" in lines


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_weights_give_kerass_forecast_and_last_state(
    keras: dict[str, Tensor], kernel: kernels.dispatch.Kernel
) -> None:
    recurrent, output = lesson_of(keras)
    with kernels.using(kernel):
        last_BK = recurrent.last(keras["x"])
    torch.testing.assert_close(last_BK, keras["last_state"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output(last_BK), keras["forecast"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_weights_give_kerass_loss_and_gradients(
    keras: dict[str, Tensor], kernel: kernels.dispatch.Kernel
) -> None:
    recurrent, output = lesson_of(keras)
    with kernels.using(kernel):
        loss = nn.functional.mse_loss(output(recurrent.last(keras["x"])), keras["y"])
        loss.backward()
    torch.testing.assert_close(loss.detach(), keras["loss"], rtol=1e-5, atol=1e-6)
    ours = {
        "kernel": recurrent.weight_ih_l0,
        "recurrent_kernel": recurrent.weight_hh_l0,
        "bias": recurrent.bias_ih_l0,
        "dense_kernel": output.weight,
        "dense_bias": output.bias,
    }
    for name, parameter in ours.items():
        assert parameter.grad is not None
        theirs = keras[f"{name}_gradient"]
        seen = parameter.grad.T if theirs.dim() == 2 else parameter.grad
        torch.testing.assert_close(seen, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(recurrent.bias_hh_l0.grad, recurrent.bias_ih_l0.grad)


@pytest.mark.parametrize("cell", [kernels.LSTM, kernels.GRU])
@pytest.mark.parametrize("seed", range(3))
def test_two_companies_are_told_apart_by_their_first_day(
    cell: type[kernels.LSTM] | type[kernels.GRU], seed: int
) -> None:
    """Company A: 0, .5, .25, 1 and then 0; company B: 1, .5, .25, 1 and then 1. Three of the four days are
    the same: only what is remembered of the first one tells."""
    x_BTI = torch.tensor([[0, 0.5, 0.25, 1], [1, 0.5, 0.25, 1]])[..., None]
    y_B1 = torch.tensor([[0.0], [1.0]])
    torch.manual_seed(seed)
    recurrent, output = cell(1, 8, batch_first=True), nn.Linear(8, 1)
    initialise(recurrent)
    parameters = [*recurrent.parameters(), *output.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    # Most runs are there after 200; how long the slowest takes depends on the processor's rounding.
    for _ in range(500):
        optimizer.zero_grad()
        nn.functional.mse_loss(output(recurrent.last(x_BTI)), y_B1).backward()
        optimizer.step()
    with torch.no_grad():
        forecast_B1 = output(recurrent.last(x_BTI))
    assert (forecast_B1 - y_B1).abs().max() < 0.01


def test_who_forgets_the_first_day_cannot_tell_them_apart() -> None:
    """With the forget gate shut nothing of the first day is left in the cell state; nor in the hidden state,
    without recurrent weights: both companies then get the same forecast."""
    x_BTI = torch.tensor([[0, 0.5, 0.25, 1], [1, 0.5, 0.25, 1]])[..., None]
    recurrent = kernels.LSTM(1, 8, batch_first=True)
    with torch.no_grad():
        recurrent.weight_hh_l0.zero_()
        recurrent.bias_ih_l0[8:16] = -100
        recurrent.weight_ih_l0[8:16] = 0
        apart = recurrent.last(x_BTI).diff(dim=0).abs().max()
        recurrent.bias_ih_l0[8:16] = 100
        remembered = recurrent.last(x_BTI).diff(dim=0).abs().max()
    assert apart == 0
    assert remembered > 0.01
