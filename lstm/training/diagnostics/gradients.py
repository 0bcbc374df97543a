"""How far back the gradient reaches: vanishing and exploding gradients, and what clipping does about them.

A recurrent layer uses the same weights at every step, so the gradient of its weights is a sum over the steps,
from the newest, lag 0, to the oldest. What a step adds has come back through every later one, and each
multiplied it by its Jacobian: below 1 it vanishes, above 1 it explodes (Bengio et al. 1994; Pascanu et al.
2013, "On the difficulty of training recurrent neural networks", whose remedy is to clip the norm).

Axes: B batch, T time steps, I inputs, P parameters, K lags, S training steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.retrain import Cell
from lstm.kernels import GRU, LSTM, RNN, reference
from lstm.kernels.reference import Weights
from lstm.models.layers import recurrent_layer
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.windows import Windows

Floats = NDArray[np.float64]

HIDDEN_SIZE = 32
STEPS = 168
_BATCH, _TRAINING_STEPS, _LEARNING_RATE = 64, 40, 0.2
_NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "tanh", "RNN_RELU": "relu"}

VANISHING, EXPLODING = "RNN, weights × 0.5", "RNN, weights × 1.5"
# A cell, and what its initial recurrent weights are multiplied by. They begin orthogonal: but for the
# squashing of tanh, below 1 the gradient must vanish and above 1 explode.
_NETWORKS: dict[str, tuple[Cell, float]] = {
    VANISHING: ("rnn", 0.5),
    "RNN": ("rnn", 1.0),
    "GRU": ("gru", 1.0),
    "LSTM": ("lstm", 1.0),
    EXPLODING: ("rnn", 1.5),
}


@dataclass(frozen=True, eq=False)
class Gradients:
    """The same data, the same loss, networks of different cells, before training.

    Args:
        by_lag_K: of each network: the norm of what each lag adds to the gradient of the recurrent layer.
        total: of each network: the norm of the whole gradient, their sum.
        clip: the largest norm that clipping leaves.
        losses_S: of `EXPLODING` in training by plain gradient descent, ``clipped`` and ``not clipped``; not
            finite once the weights are lost.
    """

    by_lag_K: Mapping[str, Floats]
    total: Mapping[str, float]
    clip: float
    losses_S: Mapping[str, Floats]

    def factor(self, name: str) -> float:
        """What clipping multiplies a network's gradient by."""
        return min(1.0, self.clip / max(self.total[name], 1e-300))

    def reach(self, name: str, share: float = 0.01) -> int | None:
        """The first lag from which on everything older adds less than this share of the lag that adds most;
        None where the oldest one still adds as much."""
        large = np.flatnonzero(self.by_lag_K[name] >= share * self.by_lag_K[name].max())
        return None if large[-1] == len(self.by_lag_K[name]) - 1 else int(large[-1]) + 1


def by_lag(recurrent: nn.RNNBase, x_BTI: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """(T, P) what each step adds to the gradient of a layer's weights, the newest step first.

    The sum over the steps is the gradient that autograd gives for the weights, flattened in the order of
    `parameters()`.

    Args:
        recurrent: one layer in one direction, with biases; it begins from zeros.
        x_BTI: its input.
        loss_of: from the last hidden state (B, H) to a scalar.
    """
    # The same numbers at every step, but each step's a parameter of its own.
    own_T = [
        Weights(*(getattr(recurrent, name).detach().clone().requires_grad_() for name in _NAMES))
        for _ in range(x_BTI.shape[1])
    ]
    zero_BH = x_BTI.new_zeros(len(x_BTI), recurrent.hidden_size)
    cell = _CELLS[recurrent.mode]
    done = reference.steps(cell, x_BTI, zero_BH, zero_BH if cell == "lstm" else None, own_T)
    leaves = [weight for weights in own_T for weight in weights if weight is not None]
    parts = torch.autograd.grad(loss_of(done[-1].hidden_state), leaves)
    return torch.cat([part.flatten() for part in parts]).view(len(own_T), -1).flip(0)


def compare_cells(
    panel: ScaledPanel, windows: Windows, lookback: int, clip: float, seed: int = 0
) -> Gradients:
    """RNN, GRU and LSTM on a panel's own windows: lookback of the target in, its next value out.

    The network is the smallest there is: one layer of `HIDDEN_SIZE` units and a linear output from its last
    state, squared error. It takes about a second, whatever the panel's size.

    Args:
        windows: at least one.
        lookback: steps; at most `STEPS` of them, the newest, are used.
        clip: the largest norm that clipping leaves.
    """
    batches = Batches(panel, windows, lookback, 1, torch.device("cpu"))
    drawn = np.random.default_rng(seed).integers(len(windows), size=(1 + _TRAINING_STEPS, _BATCH))

    def batch(number: int) -> tuple[Tensor, Callable[[nn.Linear, Tensor], Tensor]]:
        """A batch's input, and the loss of a network's output from its last state."""
        chosen_B = torch.from_numpy(drawn[number])
        x_BTI = batches.inputs(chosen_B).x_BLC[:, -STEPS:, :1]
        return x_BTI, partial(_squared_error, batches.targets(chosen_B))

    by_lag_K, total, losses_S = {}, {}, {}
    for name in _NETWORKS:
        recurrent, output = _network(name, seed)
        x_BTI, loss = batch(0)
        lags_KP = by_lag(recurrent, x_BTI, partial(loss, output)).double()
        by_lag_K[name] = lags_KP.norm(dim=1).numpy()
        total[name] = float(lags_KP.sum(dim=0).norm())
    for label, most in (("clipped", clip), ("not clipped", inf)):
        losses_S[label] = _descend(*_network(EXPLODING, seed), map(batch, range(1, len(drawn))), most)
    return Gradients(by_lag_K, total, clip, losses_S)


def _squared_error(targets: tuple[Tensor, Tensor], output: nn.Linear, h_BH: Tensor) -> Tensor:
    """Mean over the observed ones of the next values."""
    y_BH, observed_BH = targets
    squares_BH: Tensor = (output(h_BH) - y_BH).square() * observed_BH
    return squares_BH.sum() / observed_BH.sum().clamp_min(1)


def _network(name: str, seed: int) -> tuple[LSTM | GRU | RNN, nn.Linear]:
    """A recurrent layer and a linear output from its last state, as the project initialises them."""
    cell, factor = _NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        recurrent, output = recurrent_layer(cell, 1, HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, 1)
    with torch.no_grad():
        recurrent.weight_hh_l0.mul_(factor)  # type: ignore[operator]
    return recurrent, output


def _descend(
    recurrent: LSTM | GRU | RNN,
    output: nn.Linear,
    batches: Iterable[tuple[Tensor, Callable[[nn.Linear, Tensor], Tensor]]],
    clip: float,
) -> Floats:
    """(S,) the loss before each step of plain gradient descent, a batch a step."""
    parameters = [*recurrent.parameters(), *output.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=_LEARNING_RATE)
    losses = []
    for x_BTI, loss_of in batches:
        optimizer.zero_grad()
        loss = loss_of(output, recurrent.last(x_BTI))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)
