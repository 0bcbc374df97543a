"""A forecast's last steps in native code on the CPU: rising quantiles in a window's units, and their loss.

Torch takes some twenty passes over few numbers for the first, and as many for the second. `lstm.models.heads`
and `lstm.training.loss` have the formulas, which are what runs elsewhere.

Axes: B batch, H horizon steps, Q quantiles.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import elementwise, library
from lstm.kernels.calls import Fields, fields

_MOST = 64  # as cpu/native.h has it
_FIELDS: Fields = [
    (ctypes.c_int64, "rows outputs median steps lanes"),
    (ctypes.c_void_p, "raw base location scale y dy draw dbase"),
]


class _Quantiles(ctypes.Structure):
    """`quantiles` of cpu/native.h."""

    _fields_ = fields(_FIELDS)


def fits(raw_BHQ: Tensor, base_BH: Tensor | None, location_B1: Tensor, scale_B1: Tensor) -> bool:
    """Whether native code may make quantiles of these: float32 in plain memory, of shapes that fit."""
    tensors = [raw_BHQ, location_B1, scale_B1] + ([] if base_BH is None else [base_BH])
    return (
        elementwise.fit_as_floats(*tensors)
        and raw_BHQ.dim() == 3
        and raw_BHQ.numel() > 0
        and raw_BHQ.shape[-1] <= _MOST
        and location_B1.shape == scale_B1.shape == (len(raw_BHQ), 1)
        and (base_BH is None or base_BH.shape == raw_BHQ.shape[:2])
        and not location_B1.requires_grad
        and not scale_B1.requires_grad
    )


def rising(
    raw_BHQ: Tensor, base_BH: Tensor | None, location_B1: Tensor, scale_B1: Tensor, median: int
) -> Tensor:
    """(B, H, Q) (`lstm.models.heads.rising` + base) * scale + location, of what `fits`.

    Its gradient has none of its own, and is made for one at a time.

    Args:
        base_BH: added to all quantiles of a step; None is nothing.
        location_B1, scale_B1: of each window.
        median: index of the .5 quantile.
    """
    arguments = raw_BHQ, base_BH, location_B1, scale_B1, median
    y_BHQ: Tensor = _Rising.apply(*arguments)  # type: ignore[no-untyped-call]
    return y_BHQ


class _Rising(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, base: Tensor | None, location: Tensor, scale: Tensor, median: int
    ) -> Any:
        raw, y = raw.contiguous(), torch.empty_like(raw, memory_format=torch.contiguous_format)
        location, scale = location.contiguous(), scale.contiguous()
        given = {} if base is None else {"base": base.contiguous()}
        _call("nightcast_quantiles", median, raw=raw, location=location, scale=scale, y=y, **given)
        ctx.save_for_backward(raw, scale)
        ctx.median, ctx.has_base = median, base is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        raw, scale = ctx.saved_tensors
        draw = torch.empty_like(raw)
        dbase = raw.new_empty(raw.shape[:2]) if ctx.has_base else None
        wanted = {} if dbase is None else {"dbase": dbase}
        by = {"raw": raw, "scale": scale, "dy": dy.contiguous(), "draw": draw, **wanted}
        _call("nightcast_quantiles_backward", ctx.median, **by)
        return draw, dbase, None, None, None


def _call(function: str, median: int, *, raw: Tensor, **tensors: Tensor) -> None:
    batch, steps, outputs = raw.shape
    task = _Quantiles(batch * steps, outputs, median, steps, library.widths()[0])
    for name, tensor in {"raw": raw, **tensors}.items():
        setattr(task, name, tensor.data_ptr())
    getattr(library.compiled(), function)(ctypes.byref(task))


def fits_loss(y_BHQ: Tensor, target_BH: Tensor, observed_BH: Tensor, levels_Q: Tensor) -> bool:
    """Whether native code may compute the loss: float32 in plain memory, of shapes that fit."""
    return (
        elementwise.fit_as_floats(y_BHQ, target_BH, levels_Q)
        and elementwise.fits(observed_BH)
        and observed_BH.dtype is torch.bool
        and y_BHQ.shape == (*target_BH.shape, len(levels_Q))
        and observed_BH.shape == target_BH.shape
        and not target_BH.requires_grad
        and not levels_Q.requires_grad
    )


def pinball(y_BHQ: Tensor, target_BH: Tensor, observed_BH: Tensor, levels_Q: Tensor) -> Tensor:
    """The mean pinball loss over observed targets and outputs, a scalar, of what `fits_loss`.

    Its gradient has none of its own, and is made for one at a time.
    """
    save = torch.is_grad_enabled() and y_BHQ.requires_grad
    arguments = y_BHQ, target_BH, observed_BH, levels_Q, save
    loss: Tensor = _Pinball.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _Pinball(torch.autograd.Function):
    """The gradient is made with the loss: both read the same."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, target: Tensor, observed: Tensor, levels: Tensor, save: bool) -> Tensor:
        loss, dy = (
            y.new_empty(()),
            torch.empty_like(y, memory_format=torch.contiguous_format) if save else None,
        )
        given = [tensor.contiguous() for tensor in (y, target, observed, levels)]
        elementwise.call("nightcast_pinball", *given, loss, dy, target.numel(), len(levels))
        if dy is not None:
            ctx.save_for_backward(dy)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = ctx.saved_tensors
        return dloss * dy, None, None, None, None
