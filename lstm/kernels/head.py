"""The calendar head in native code on the CPU: all between its products stays in the nearest cache.

Torch takes a pass over memory for each product, sum, activation and mask, forward and backward, which is more
time than the products themselves. `lstm.models.heads` has the formula, which is what runs elsewhere.

Axes: B batch, H horizon steps, K hidden size, F calendar features, Q outputs.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import dispatch, elementwise, library, memory, native

_SIZES = "batch steps hidden features outputs lanes vectors threads drops key threshold"
_FIELDS: list[tuple[type[ctypes._SimpleCData[Any]], str]] = [
    (ctypes.c_int64, _SIZES),
    (ctypes.c_float, "scale"),
    (ctypes.c_void_p, "memory future"),
    (ctypes.c_int64, "future_batch future_step"),
    (ctypes.c_void_p, "w_calendar place w_mix b_mix w_out b_out out saved work"),
    (ctypes.c_void_p, "dout dmemory dfuture dw_calendar dplace dw_mix db_mix dw_out db_out"),
]
# Fewer rows than these fill too few vectors to share them out: torch is better with wide heads of them.
# Measured with one and two threads, AVX-512 and AVX2.
_FEW_ROWS, _WIDE = 32, 128
_WEIGHTS = ("w_calendar", "place", "w_mix", "b_mix", "w_out", "b_out")


class Weights(NamedTuple):
    """A head's weights: (K, F) by calendar feature, (H, K) of each place, (K, K) and (K) between two
    activations, (Q, K) and (Q) of the outputs."""

    calendar_KF: Tensor
    place_HK: Tensor
    mix_KK: Tensor
    mix_K: Tensor
    out_QK: Tensor
    out_Q: Tensor


class Mask(NamedTuple):
    """Which units are dropped, as of `lstm.kernels.elementwise.drop`."""

    key: int
    threshold: int
    scale: float


class _Head(ctypes.Structure):
    """`head` of cpu/native.h."""

    _fields_ = [(name, kind) for kind, names in _FIELDS for name in names.split()]


def fits(memory_BK: Tensor, future_BHF: Tensor, weights: Weights) -> bool:
    """Whether native code may compute it, and is the faster one: float32 in plain memory, outside autocast.

    What does not fit together is left to torch, which refuses it.
    """
    tensors = (memory_BK, future_BHF, *weights)
    (hidden, features), (batch, steps) = weights.calendar_KF.shape, (len(memory_BK), len(weights.place_HK))
    return (
        elementwise.fits(*tensors)
        and all(tensor.dtype is torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and memory_BK.shape == (batch, hidden)
        and future_BHF.shape == (batch, steps, features)
        and future_BHF.numel() > 0
        and (batch >= _FEW_ROWS or hidden < _WIDE or dispatch.wanted() == "native")
    )


def calendar_head(memory_BK: Tensor, future_BHF: Tensor, weights: Weights, mask: Mask | None) -> Tensor:
    """(B, H, Q) out(gelu(mix(drop(gelu(memory + calendar + place))))), of what `fits`.

    Args:
        memory_BK: the memory's part, the same at every step.
        mask: of the units between the activations; None drops nothing.

    Raises:
        MemoryError: too little of it; names the shapes.
    """
    arguments = memory_BK, future_BHF, *weights
    # Inside a function of autograd's there are never gradients to ask for.
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in arguments)
    out: Tensor = _CalendarHead.apply(save, mask, *arguments)  # type: ignore[no-untyped-call]
    return out


class _CalendarHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, save: bool, mask: Mask | None, memory_BK: Tensor, future_BHF: Tensor, *weights: Tensor
    ) -> Tensor:
        call = _Call(memory_BK, future_BHF, mask, weights)
        batch, steps, _ = future_BHF.shape
        out_BHQ = memory_BK.new_empty(batch, steps, len(weights[-1]))
        call.set(out=out_BHQ)
        saved = call.reserve("saved", call.ask("nightcast_head_saved_floats")) if save else None
        call.run("nightcast_head_forward", backward=False)
        ctx.save_for_backward(memory_BK, future_BHF, saved, *weights)
        ctx.mask, ctx.threads = mask, call.head.threads
        return out_BHQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHQ: Tensor) -> tuple[Tensor | None, ...]:
        memory_BK, future_BHF, saved, *weights = ctx.saved_tensors
        call = _Call(memory_BK, future_BHF, ctx.mask, weights, ctx.threads)
        dmemory_BK = torch.empty_like(memory_BK, memory_format=torch.contiguous_format)
        dfuture_BHF = future_BHF.new_empty(future_BHF.shape) if ctx.needs_input_grad[3] else None
        by_weights = [torch.empty_like(weight, memory_format=torch.contiguous_format) for weight in weights]
        call.set(saved=saved, dout=dout_BHQ.contiguous(), dmemory=dmemory_BK)
        if dfuture_BHF is not None:
            call.set(dfuture=dfuture_BHF)
        call.set(**{f"d{name}": gradient for name, gradient in zip(_WEIGHTS, by_weights, strict=True)})
        call.run("nightcast_head_backward", backward=True)
        return None, None, dmemory_BK, dfuture_BHF, *by_weights


class _Call:
    """One call into the library: its arguments, and the tensors that must live until it returns."""

    def __init__(
        self,
        memory_BK: Tensor,
        future_BHF: Tensor,
        mask: Mask | None,
        weights: Any,
        threads: int | None = None,
    ) -> None:
        batch, steps, features = future_BHF.shape
        hidden, outputs = memory_BK.shape[1], len(weights[-1])
        if threads is None:
            threads = native.threads_for(2 * batch * steps * hidden * (hidden + features + outputs))
        lanes, vectors = native.plan(batch, threads)
        key, threshold, scale = mask or Mask(0, 0, 1.0)
        sizes = (batch, steps, hidden, features, outputs, lanes, vectors, threads)
        self.head = _Head(*sizes, int(mask is not None), key, threshold, scale)
        self._shapes = f"batch {batch}, {steps} steps, hidden size {hidden}"
        self._alive: list[Tensor] = []
        if future_BHF.stride(-1) != 1:
            future_BHF = future_BHF.contiguous()
        self.head.future_batch, self.head.future_step, _ = future_BHF.stride()
        self.set(memory=memory_BK.contiguous(), future=future_BHF)
        self.set(**{name: weight.contiguous() for name, weight in zip(_WEIGHTS, weights, strict=True)})

    def set(self, **tensors: Tensor) -> None:
        """Point fields at tensors."""
        for name, tensor in tensors.items():
            self._alive.append(tensor)
            setattr(self.head, name, tensor.data_ptr())

    def ask(self, function: str, *arguments: int) -> int:
        """A number of floats."""
        count: int = getattr(library.compiled(), function)(ctypes.byref(self.head), *arguments)
        return count

    def reserve(self, name: str, floats: int) -> Tensor:
        """Reused memory for a field.

        Raises:
            MemoryError: too little of it; names the shapes.
        """
        try:
            taken = memory.take(floats)
        except MemoryError as error:
            raise MemoryError(f"head of {self._shapes}: {error}. Remedy: smaller batches") from error
        self.set(**{name: taken})
        return taken

    def run(self, function: str, *, backward: bool) -> None:
        """Call it."""
        self.reserve("work", self.ask("nightcast_head_work_floats", int(backward)))
        getattr(library.compiled(), function)(ctypes.byref(self.head))
