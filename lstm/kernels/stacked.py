"""A layer of many networks at once, under `torch.vmap`: the lanes of `lstm.training.lanes`.

`vmap` makes every operation a batched one, step by step and gate by gate: hundreds of launches a layer. Here
the inputs' products of all steps are one batched product, and on a GPU a step is two launches: a batched
product, and torch's own fused cell, which needs no batching, since it works unit by unit. Backward, too, and
the weights' gradients are one product of all steps.

Axes: P lanes, B batch, T time steps, I inputs, F gates times hidden size, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import reference
from lstm.kernels.dispatch import product_type
from lstm.kernels.reference import Weights

Ends = tuple[Tensor, Tensor, Tensor]
# Of a step's sums, the inputs' part and the own; of the state before beside them; of the cell state.
Gradients = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


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
    """Gives `vmap` a rule."""

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
        """All lanes: every tensor with them as its first axis, in the type in which they are multiplied."""
        assert tensors[0] is not None
        kind = product_type(tensors[0])
        stacked = [
            None if tensor is None else _stacked(tensor, axis, info.batch_size).to(kind)
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
    lanes, batch, steps, inputs = x_PBTI.shape
    outer, inner = _biases(cell, b_i_PF, b_h_PF)
    sums_PBTF = _product(x_PBTI.reshape(lanes, -1, inputs), w_PFI.mT, outer).view(lanes, batch, steps, -1)
    y_PBTH, h_PBH, c_n_PBH = _Steps.apply(cell, sequence, sums_PBTF, w_PFH, inner, h_PBH, c_PBH)  # type: ignore[no-untyped-call]
    return (y_PBTH if sequence else h_PBH), h_PBH, (h_PBH if c_PBH is None else c_n_PBH)


def _biases(cell: str, b_i_PF: Tensor | None, b_h_PF: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """(P, 1, F) what is added once for all steps, and at each: what a GRU's reset gate multiplies."""
    if b_i_PF is None or b_h_PF is None:
        return None, None
    if cell == "lstm":
        return (b_i_PF + b_h_PF)[:, None], None
    return b_i_PF[:, None], b_h_PF[:, None]


def _product(x_PRI: Tensor, w_PIF: Tensor, bias_P1F: Tensor | None) -> Tensor:
    return torch.bmm(x_PRI, w_PIF) if bias_P1F is None else torch.baddbmm(bias_P1F, x_PRI, w_PIF)


class _Steps(torch.autograd.Function):
    """All steps of a layer, of the inputs' part of the sums.

    What each step's gates were is kept; the weights' gradients are one product, where autograd's would be a
    product and a sum a step.
    """

    @staticmethod
    def forward(
        ctx: Any, cell: str, sequence: bool, sums_PBTF: Tensor, w_PFH: Tensor, inner_P1F: Tensor | None,
        h_PBH: Tensor, c_PBH: Tensor | None,
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:  # fmt: skip
        # Without a gradient each step's memory is free for the next.
        is_kept = any(ctx.needs_input_grad)
        before, after, kept = [], [], []
        for sums_PBF in sums_PBTF.unbind(2):
            own_PBF = _product(h_PBH, w_PFH.mT, inner_P1F)
            if is_kept:
                before.append(h_PBH)
            h_PBH, c_PBH, step = FORWARD[cell](sums_PBF, own_PBF, h_PBH, c_PBH)
            if is_kept:
                kept.append(step)
            if sequence:
                after.append(h_PBH)
        if is_kept:
            ctx.cell, ctx.steps = cell, len(kept)
            ctx.save_for_backward(w_PFH, *before, *(tensor for step in kept for tensor in step))
        ctx.set_materialize_grads(False)
        return torch.stack(after, dim=2) if sequence else None, h_PBH, c_PBH

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy_PBTH: Tensor | None, dh_PBH: Tensor | None, dc_PBH: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        w_PFH, *saved = ctx.saved_tensors
        states, kept = saved[: ctx.steps], saved[ctx.steps :]
        each = len(kept) // ctx.steps
        needs_w, needs_inner, needs_h = ctx.needs_input_grad[3:6]
        sums, owns = [], []
        dh_PBH = torch.zeros_like(states[0]) if dh_PBH is None else dh_PBH
        for number in reversed(range(ctx.steps)):
            if dy_PBTH is not None:
                dh_PBH = dh_PBH + dy_PBTH[:, :, number]
            step = kept[number * each : (number + 1) * each]
            dsums_PBF, down_PBF, direct_PBH, dc_PBH = BACKWARD[ctx.cell](dh_PBH, dc_PBH, states[number], step)
            sums.append(dsums_PBF)
            owns.append(down_PBF)
            if number or needs_h:
                dh_PBH = (
                    torch.bmm(down_PBF, w_PFH) if direct_PBH is None else direct_PBH.baddbmm_(down_PBF, w_PFH)
                )
        dsums_PBTF = torch.stack(sums[::-1], dim=2)
        down_PRF = (dsums_PBTF if ctx.cell == "lstm" else torch.stack(owns[::-1], dim=2)).flatten(1, 2)
        dw_PFH = torch.bmm(down_PRF.mT, torch.stack(states, dim=2).flatten(1, 2)) if needs_w else None
        dinner_P1F = down_PRF.sum(1, keepdim=True) if needs_inner else None
        return None, None, dsums_PBTF, dw_PFH, dinner_P1F, dh_PBH if needs_h else None, dc_PBH


def _lstm(
    x_PBF: Tensor, own_PBF: Tensor, _: Tensor, c_PBH: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The states after a step, of both parts of its sums and the states before; and what backward reads."""
    if x_PBF.is_cuda:
        h, c, gates = torch.ops.aten._thnn_fused_lstm_cell(_flat(x_PBF), _flat(own_PBF), _flat(c_PBH))
        return h.view(c_PBH.shape), c.view(c_PBH.shape), (gates, c_PBH, c)
    gates = x_PBF + own_PBF
    i, f, g, o = gates.chunk(4, dim=-1)
    for gate in (i, f, o):
        gate.sigmoid_()
    g.tanh_()
    c = f * c_PBH + i * g
    return o * torch.tanh(c), c, (gates, c_PBH, c)


def _lstm_backward(dh_PBH: Tensor, dc_PBH: Tensor | None, _: Tensor, kept: Sequence[Tensor]) -> Gradients:
    gates, before_PBH, c = kept
    if dh_PBH.is_cuda:
        own = None if dc_PBH is None else _flat(dc_PBH)
        rows = _flat(dh_PBH), own, _flat(before_PBH), c, gates
        dsums, _, dc, _, _ = torch.ops.aten._thnn_fused_lstm_cell_backward(*rows, False)
        dsums_PBF = dsums.view(*dh_PBH.shape[:2], -1)
        return dsums_PBF, dsums_PBF, None, dc.view(dh_PBH.shape)
    i, f, g, o = gates.chunk(4, dim=-1)
    tanh_c = torch.tanh(c)
    dc = dh_PBH * o * (1 - tanh_c * tanh_c)
    if dc_PBH is not None:
        dc += dc_PBH
    parts = (
        dc * g * i * (1 - i),
        dc * before_PBH * f * (1 - f),
        dc * i * (1 - g * g),
        dh_PBH * tanh_c * o * (1 - o),
    )
    dsums_PBF = torch.cat(parts, dim=-1)
    return dsums_PBF, dsums_PBF, None, dc * f


def _gru(x_PBF: Tensor, own_PBF: Tensor, h_PBH: Tensor, _: None) -> tuple[Tensor, None, tuple[Tensor, ...]]:
    """The state after a step, of both parts of its sums and the state before; and what backward reads."""
    if x_PBF.is_cuda:
        h, kept = torch.ops.aten._thnn_fused_gru_cell(_flat(x_PBF), _flat(own_PBF), _flat(h_PBH))
        return h.view(h_PBH.shape), None, (kept,)
    size = h_PBH.shape[-1]
    gates, own_n = torch.sigmoid(x_PBF[..., : 2 * size] + own_PBF[..., : 2 * size]), own_PBF[..., 2 * size :]
    r, z = gates.chunk(2, dim=-1)
    n = torch.tanh(x_PBF[..., 2 * size :] + r * own_n)
    return n + z * (h_PBH - n), None, (gates, n, own_n)


def _gru_backward(dh_PBH: Tensor, _: None, h_PBH: Tensor, kept: Sequence[Tensor]) -> Gradients:
    if dh_PBH.is_cuda:
        dsums, down, direct, _, _ = torch.ops.aten._thnn_fused_gru_cell_backward(
            _flat(dh_PBH), kept[0], False
        )
        rows = dh_PBH.shape[:2]
        return dsums.view(*rows, -1), down.view(*rows, -1), direct.view(dh_PBH.shape), None
    gates, n, own_n = kept
    r, z = gates.chunk(2, dim=-1)
    dn = dh_PBH * (1 - z) * (1 - n * n)
    dr, dz = dn * own_n * r * (1 - r), dh_PBH * (h_PBH - n) * z * (1 - z)
    return torch.cat([dr, dz, dn], dim=-1), torch.cat([dr, dz, dn * r], dim=-1), dh_PBH * z, None


def _flat(tensor_PBF: Tensor) -> Tensor:
    """(P B, F), as the fused cells read it."""
    return tensor_PBF.reshape(-1, tensor_PBF.shape[-1])


FORWARD: dict[str, Callable[..., Any]] = {"lstm": _lstm, "gru": _gru}
BACKWARD: dict[str, Callable[..., Gradients]] = {"lstm": _lstm_backward, "gru": _gru_backward}
