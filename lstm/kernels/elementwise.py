"""What stands around a recurrence, in native code on the CPU: one pass over memory where torch takes several.

Each function has torch's formula beside it, in `lstm.models` or `lstm.training.batches`, which is what runs
elsewhere: on a GPU, under ``vmap``, in a graph, or where there is no native code. `fits` says where it is not
needed.

Axes: W windows, L steps, C columns, D numbers read of a step, K known ones; of a calendar H steps ahead and F
features, and its tables' R, U and D as in `lstm.clock`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import dispatch, library


def fits(*tensors: Tensor) -> bool:
    """Whether native code may read these: plain memory of this process, and the kernel not switched off."""
    if not library.is_plain(*tensors) or sys.byteorder != "little" or not library.widths():
        return False
    return dispatch.wanted() in ("auto", "native")


def fit_as_floats(*tensors: Tensor) -> bool:
    """Whether these fit, all float32, and torch would multiply them so as well."""
    return (
        fits(*tensors)
        and all(tensor.dtype is torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


class Mask(NamedTuple):
    """Which units are dropped (`lstm.models.dropout`).

    Args:
        key: of the mask, with the layer's place in it.
        threshold: of a unit's 16 bits, from which it is kept.
        scale: of the units that are kept.
    """

    key: int
    threshold: int
    scale: float


def drop(x: Tensor, mask: Mask) -> Tensor:
    """x, (..., size), with each unit times the mask's scale or times 0; float32."""
    dropped: Tensor = _Drop.apply(x, mask)  # type: ignore[no-untyped-call]
    return dropped


class _Drop(torch.autograd.Function):
    """The mask is made anew for the gradient: that is faster than to keep it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask) -> Tensor:
        ctx.mask = mask
        return _masked(x, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _masked(dy, ctx.mask), None


def _masked(x: Tensor, mask: Mask) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    size = x.shape[-1]
    rows = x.numel() // size if size else 0
    call("nightcast_drop", x, y, rows, size, *mask)
    return y


def normalise(
    x_WLC: Tensor,
    observed_WLC: Tensor,
    known_WLK: Tensor | None,
    given: tuple[Tensor, Tensor] | None,
    count: int,
    least: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What an encoder reads of windows: normalised columns, whether they were observed, and what is known.

    Args:
        x_WLC: float32.
        observed_WLC: bool.
        known_WLK: float32.
        given: (W, 1, count) what to take off the columns, and what to divide them by; by default the mean of
            each window and its standard deviation.
        count: of the columns, the first ones, that are read.
        least: the smallest divisor.

    Returns:
        (W, L, D), and location and divisor as in `given`.
    """
    windows, steps, columns = x_WLC.shape
    known = 0 if known_WLK is None else known_WLK.shape[-1]
    read_WLD = x_WLC.new_empty(windows, steps, 2 * count + known)
    if given is None:
        location, spread = x_WLC.new_empty(2, windows, 1, count)
    else:
        location, spread = (tensor.contiguous() for tensor in given)
    sizes = windows, steps, columns, count, known, int(given is None)
    tensors = (
        x_WLC.contiguous(),
        observed_WLC.contiguous(),
        None if known_WLK is None else known_WLK.contiguous(),
    )
    call("nightcast_normalise", *tensors, read_WLD, location, spread, *sizes, least)
    return read_WLD, location, spread


def clock_features(
    steps: Tensor,
    first_R: Tensor,
    base_R: Tensor,
    day_DF: Tensor,
    time_UF: Tensor,
    advance: int,
    out: Tensor,
) -> None:
    """What the clock knows of the steps after some of a grid (`lstm.clock.Calendar`, whose arrays these are).

    Args:
        steps: int64, of any shape.
        first_R: (R,) int64, the place of each run's first step: `advance` times its number.
        out: (..., H, F) float32, filled for the H steps after each of these, which the tables must know.
    """
    ahead, features = out.shape[-2:]
    # As torch's own operations do, so that a graph that still needs the batch before says so.
    torch.autograd.graph.increment_version(out)
    sizes = steps.numel(), ahead, len(first_R), advance, len(time_UF), features
    call("nightcast_calendar", steps.contiguous(), first_R, base_R, day_DF, time_UF, out, *sizes)


def call(function: str, *arguments: Tensor | float | None) -> None:
    """Call a native function, by pointers, sizes and numbers."""
    getattr(library.compiled(), function)(*(_as_c(argument) for argument in arguments))


def _as_c(argument: Tensor | float | None) -> Any:
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
