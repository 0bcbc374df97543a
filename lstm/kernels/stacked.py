"""A layer of many networks at once, under `torch.vmap`: the lanes of `lstm.training.lanes`.

`vmap` makes every operation a batched one, step by step and gate by gate: hundreds of launches a layer. Here
the inputs' products of all steps are one batched product, and on a GPU a step is two launches: a batched
product, and torch's own fused cell, which needs no batching, since it works unit by unit.

Axes: P lanes, B batch, T time steps, I inputs, F gates times hidden size, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lstm.kernels import reference
from lstm.kernels.reference import Weights

Ends = tuple[Tensor, Tensor, Tensor]


def layer(
    cell: str, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights, sequence: bool = True
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """As `lstm.kernels.reference.layer`, faster, under `vmap` over weights or input or both.

    Raises:
        NotImplementedError: not under `vmap`.
    """
    if cell not in ("lstm", "gru"):
        return reference.layer(cell, x_BTI, h_BH, c_BH, weights, sequence)
    y_BTH, h_BH, c_n_BH = _Layer.apply(cell, sequence, x_BTI, h_BH, c_BH, *weights)  # type: ignore[no-untyped-call]
    return y_BTH if sequence else None, h_BH, None if c_BH is None else c_n_BH


class _Layer(torch.autograd.Function):
    """Gives `vmap` a rule; what the rule computes is autograd's to differentiate, as any operation is."""

    @staticmethod
    def forward(
        cell: str, sequence: bool, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, *weights: Tensor | None
    ) -> Ends:
        raise NotImplementedError("this layer is for torch.vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], cell: str, sequence: bool, *tensors: Tensor | None
    ) -> tuple[Ends, tuple[int, int, int]]:
        """All lanes: every tensor with them as its first axis."""
        stacked = [
            None if tensor is None else _stacked(tensor, axis, info.batch_size)
            for tensor, axis in zip(tensors, in_dims[2:], strict=True)
        ]
        return _run(cell, sequence, *stacked), (0, 0, 0)  # type: ignore[arg-type]


def _stacked(tensor: Tensor, axis: int | None, lanes: int) -> Tensor:
    return tensor.expand(lanes, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


def _run(
    cell: str, sequence: bool, x_PBTI: Tensor, h_PBH: Tensor, c_PBH: Tensor | None, w_PFI: Tensor,
    w_PFH: Tensor, b_i_PF: Tensor | None, b_h_PF: Tensor | None,
) -> Ends:  # fmt: skip
    """Every hidden state (or the last one again, where they are not wanted), and the last states.

    A module without cell states gets its hidden state in their place.
    """
    kind = _kind(x_PBTI)
    lanes, batch, steps, inputs = x_PBTI.shape
    size = h_PBH.shape[-1]
    inner = None if b_h_PF is None else b_h_PF[:, None].to(kind)
    outer = None if b_i_PF is None else b_i_PF[:, None].to(kind)
    x_PRI, w_PIF, w_PHF = (
        tensor.to(kind) for tensor in (x_PBTI.reshape(lanes, -1, inputs), w_PFI.mT, w_PFH.mT)
    )
    sums_PBTF = _product(x_PRI, w_PIF, outer).view(lanes, batch, steps, -1)
    h_PBH, c_PBH = h_PBH.to(kind), None if c_PBH is None else c_PBH.to(kind)
    each = []
    for sums_PBF in sums_PBTF.unbind(2):
        own_PBF = _product(h_PBH, w_PHF, inner)
        if c_PBH is None:
            h_PBH = _gru(sums_PBF, own_PBF, h_PBH)
        else:
            h_PBH, c_PBH = _lstm(sums_PBF, own_PBF, c_PBH)
        each.append(h_PBH)
    y_PBTH = torch.stack(each, dim=2) if sequence else h_PBH
    return y_PBTH, h_PBH.view(lanes, batch, size), h_PBH if c_PBH is None else c_PBH


def _kind(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _product(x_PRI: Tensor, w_PIF: Tensor, bias_P1F: Tensor | None) -> Tensor:
    return torch.bmm(x_PRI, w_PIF) if bias_P1F is None else torch.baddbmm(bias_P1F, x_PRI, w_PIF)


def _lstm(x_PBF: Tensor, h_PBF: Tensor, c_PBH: Tensor) -> tuple[Tensor, Tensor]:
    """The states after a step, of both parts of its sums and the cell state before."""
    if x_PBF.is_cuda:
        shape = c_PBH.shape
        flat = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x_PBF, h_PBF, c_PBH))
        h, c, _ = torch.ops.aten._thnn_fused_lstm_cell(*flat)
        return h.view(shape), c.view(shape)
    i, f, g, o = (x_PBF + h_PBF).chunk(4, dim=-1)
    c_PBH = torch.sigmoid(f) * c_PBH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_PBH), c_PBH


def _gru(x_PBF: Tensor, h_PBF: Tensor, h_PBH: Tensor) -> Tensor:
    """The state after a step, of both parts of its sums and the state before."""
    if x_PBF.is_cuda:
        flat = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x_PBF, h_PBF, h_PBH))
        h: Tensor = torch.ops.aten._thnn_fused_gru_cell(*flat)[0]
        return h.view(h_PBH.shape)
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x_PBF.chunk(3, dim=-1), h_PBF.chunk(3, dim=-1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (1 - z) * n + z * h_PBH
