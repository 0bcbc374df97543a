"""The recurrent cells written out gate by gate in plain torch operations: the readable reference.

Every other kernel is tested against it; it runs in any precision, under autograd, ``vmap`` and
``torch.export``, and is what `lstm.kernels.using("reference")` selects.

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


def lstm_cell(x_BI: Tensor, h_BH: Tensor, c_BH: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The next hidden and cell state (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al.
    2000):

        i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        what to write
        f = sigmoid(W_if x + b_if + W_hf h + b_hf)        what to keep
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)           the candidate
        o = sigmoid(W_io x + b_io + W_ho h + b_ho)        what to show
        c' = f c + i g
        h' = o tanh(c')
    """
    gates = _linear(x_BI, weights.ih, weights.bias_ih) + _linear(h_BH, weights.hh, weights.bias_hh)
    i_BH, f_BH, g_BH, o_BH = gates.chunk(4, dim=-1)
    c_BH = torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
    return torch.sigmoid(o_BH) * torch.tanh(c_BH), c_BH


def gru_cell(x_BI: Tensor, h_BH: Tensor, weights: Weights) -> Tensor:
    """The next hidden state (Cho et al. 2014, with the reset gate after the product, as cuDNN has it):

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))
    h' = (1 - z) n + z h
    """
    r_BH, z_BH, n_BH = _linear(x_BI, weights.ih, weights.bias_ih).chunk(3, dim=-1)
    hr_BH, hz_BH, hn_BH = _linear(h_BH, weights.hh, weights.bias_hh).chunk(3, dim=-1)
    update_BH = torch.sigmoid(z_BH + hz_BH)
    new_BH = torch.tanh(n_BH + torch.sigmoid(r_BH + hr_BH) * hn_BH)
    return (1 - update_BH) * new_BH + update_BH * h_BH


def rnn_cell(x_BI: Tensor, h_BH: Tensor, weights: Weights, nonlinearity: str = "tanh") -> Tensor:
    """The next hidden state: h' = tanh(W_i x + b_i + W_h h + b_h), or relu (Elman 1990)."""
    sum_BH = _linear(x_BI, weights.ih, weights.bias_ih) + _linear(h_BH, weights.hh, weights.bias_hh)
    return torch.tanh(sum_BH) if nonlinearity == "tanh" else torch.relu(sum_BH)


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
    states = []
    for x_BI in x_BTI.unbind(1):
        if cell == "lstm":
            assert c_BH is not None
            h_BH, c_BH = lstm_cell(x_BI, h_BH, c_BH, weights)
        elif cell == "gru":
            h_BH = gru_cell(x_BI, h_BH, weights)
        else:
            h_BH = rnn_cell(x_BI, h_BH, weights, cell)
        states.append(h_BH)
    return torch.stack(states, dim=1) if sequence else None, h_BH, c_BH


def _linear(x_BI: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x_BI, weight, bias)
