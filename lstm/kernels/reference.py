"""The recurrent cells written out gate by gate in plain torch operations: the readable reference.

Every other kernel is tested against it; it runs in any precision, under autograd, ``vmap`` and
``torch.export``, and is what `lstm.kernels.using("reference")` selects. Its steps keep their gates, which
`lstm.kernels.tracing` shows.

Axes: B batch, T time steps, I inputs, H hidden size. Torch stacks a layer's gates by rows: weights are
(gates * H, I) and (gates * H, H).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """One layer and direction, in torch's order; the biases are both there or both missing."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class LSTMStep(NamedTuple):
    """What an LSTM computes at one step, (B, H) each. Gates lie in [0, 1], the candidate in [-1, 1]."""

    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor
    cell_state: Tensor
    hidden_state: Tensor


class GRUStep(NamedTuple):
    """What a GRU computes at one step, (B, H) each. Gates lie in [0, 1], the candidate in [-1, 1]."""

    reset_gate: Tensor
    update_gate: Tensor
    candidate: Tensor
    hidden_state: Tensor


class RNNStep(NamedTuple):
    """What a plain RNN computes at one step, (B, H): it has no gates."""

    hidden_state: Tensor


Step = LSTMStep | GRUStep | RNNStep


def lstm_step(x_BI: Tensor, h_BH: Tensor, c_BH: Tensor, weights: Weights) -> LSTMStep:
    """One step of an LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        what to write
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)        what to keep
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)           the candidate
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)        what to show
    c' = f c + i g
    h' = o tanh(c')
    """
    sums = _linear(x_BI, weights.ih, weights.bias_ih) + _linear(h_BH, weights.hh, weights.bias_hh)
    i_BH, f_BH, g_BH, o_BH = sums.chunk(4, dim=-1)
    i_BH, f_BH, o_BH = torch.sigmoid(i_BH), torch.sigmoid(f_BH), torch.sigmoid(o_BH)
    g_BH = torch.tanh(g_BH)
    c_BH = f_BH * c_BH + i_BH * g_BH
    h_BH = o_BH * torch.tanh(c_BH)
    return LSTMStep(i_BH, f_BH, g_BH, o_BH, c_BH, h_BH)


def gru_step(x_BI: Tensor, h_BH: Tensor, weights: Weights) -> GRUStep:
    """One step of a GRU (Cho et al. 2014, with the reset gate after the product, as cuDNN has it):

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))       the candidate
    h' = (1 - z) n + z h
    """
    r_BH, z_BH, n_BH = _linear(x_BI, weights.ih, weights.bias_ih).chunk(3, dim=-1)
    hr_BH, hz_BH, hn_BH = _linear(h_BH, weights.hh, weights.bias_hh).chunk(3, dim=-1)
    r_BH, z_BH = torch.sigmoid(r_BH + hr_BH), torch.sigmoid(z_BH + hz_BH)
    n_BH = torch.tanh(n_BH + r_BH * hn_BH)
    return GRUStep(r_BH, z_BH, n_BH, (1 - z_BH) * n_BH + z_BH * h_BH)


def rnn_step(x_BI: Tensor, h_BH: Tensor, weights: Weights, nonlinearity: str = "tanh") -> RNNStep:
    """One step of an RNN: h' = tanh(W_i x + b_i + W_h h + b_h), or relu (Elman 1990)."""
    sum_BH = _linear(x_BI, weights.ih, weights.bias_ih) + _linear(h_BH, weights.hh, weights.bias_hh)
    return RNNStep(torch.tanh(sum_BH) if nonlinearity == "tanh" else torch.relu(sum_BH))


def step(cell: str, x_BI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights) -> Step:
    """One step of ``lstm``, ``gru``, ``tanh`` or ``relu``; the cell state is None but for an LSTM."""
    if cell == "lstm":
        assert c_BH is not None
        return lstm_step(x_BI, h_BH, c_BH, weights)
    return gru_step(x_BI, h_BH, weights) if cell == "gru" else rnn_step(x_BI, h_BH, weights, cell)


def steps(
    cell: str, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights | list[Weights]
) -> list[Step]:
    """One layer's T steps over a sequence, forwards in time.

    Args:
        cell, c_BH: as of `step`; the initial states.
        weights: the same for all steps, or one for each.
    """
    each = [weights] * x_BTI.shape[1] if isinstance(weights, Weights) else weights
    done: list[Step] = []
    for x_BI, own in zip(x_BTI.unbind(1), each, strict=True):
        done.append(step(cell, x_BI, h_BH, c_BH, own))
        h_BH = done[-1].hidden_state
        c_BH = cell_state(done[-1])
    return done


def layer(
    cell: str, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights, sequence: bool = True
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """One layer over a sequence, forwards in time.

    Args:
        cell: ``lstm``, ``gru``, ``tanh`` or ``relu``.
        c_BH: the initial cell state of an LSTM; None for the others.
        sequence: whether every hidden state is wanted.

    Returns:
        (B, T, H) every hidden state, or None; and the last hidden and cell state.
    """
    return outputs(steps(cell, x_BTI, h_BH, c_BH, weights), sequence)


def outputs(done: list[Step], sequence: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """What `layer` returns, of a layer's steps."""
    y_BTH = torch.stack([one.hidden_state for one in done], dim=1) if sequence else None
    return y_BTH, done[-1].hidden_state, cell_state(done[-1])


def cell_state(done: Step) -> Tensor | None:
    """An LSTM's; None for the others."""
    return done.cell_state if isinstance(done, LSTMStep) else None


def _linear(x_BI: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x_BI, weight, bias)
