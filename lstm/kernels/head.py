"""The calendar head in native code on the CPU: all between its products stays in the nearest cache.

Torch takes a pass over memory for each product, sum, activation and mask, forward and backward, which is more
time than the products themselves. `lstm.models.heads` has the formula, which is what runs elsewhere.

Axes: B batch, H horizon steps, K hidden size, F calendar features, Q outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lstm.kernels import dispatch, elementwise, native
from lstm.kernels.calls import Call, Fields, fields
from lstm.kernels.elementwise import Mask

_FIELDS: Fields = [
    (ctypes.c_int64, "batch steps hidden features outputs lanes vectors threads drops key threshold"),
    (ctypes.c_float, "scale"),
    (
        ctypes.c_void_p,
        "memory future w_memory b_memory w_calendar place w_mix b_mix w_out b_out out saved work",
    ),
    (
        ctypes.c_void_p,
        "dout dmemory dfuture dw_memory db_memory dw_calendar dplace dw_mix db_mix dw_out db_out",
    ),
]
# Fewer rows than these fill too few vectors for several threads, among which torch shares a wide head out
# (`benchmarks/sweep.py`).
_FEW_ROWS, _WIDE = 32, 256


class Weights(NamedTuple):
    """A head's weights: (K, K) and (K) of the memory, (K, F) by calendar feature, (H, K) of each place,
    (K, K) and (K) between two activations, (Q, K) and (Q) of the outputs."""

    memory_KK: Tensor
    memory_K: Tensor
    calendar_KF: Tensor
    place_HK: Tensor
    mix_KK: Tensor
    mix_K: Tensor
    out_QK: Tensor
    out_Q: Tensor


class _Head(ctypes.Structure):
    """`head` of cpu/native.h."""

    _fields_ = fields(_FIELDS)


def fits(memory_BK: Tensor, future_BHF: Tensor, weights: Weights) -> bool:
    """Whether native code may compute it, and is the faster one: float32 in plain memory, outside autocast.

    What does not fit together is left to torch, which knows what to make of it.
    """
    tensors = (memory_BK, future_BHF, *weights)
    if not elementwise.fit_as_floats(*tensors) or future_BHF.dim() != 3 or not future_BHF.numel():
        return False
    (batch, steps, features), hidden, outputs = future_BHF.shape, memory_BK.shape[-1], len(weights.out_Q)
    by_weight = [
        (hidden, hidden),
        (hidden,),
        (hidden, features),
        (steps, hidden),
        (hidden, hidden),
        (hidden,),
        (outputs, hidden),
        (outputs,),
    ]
    if [tuple(tensor.shape) for tensor in (memory_BK, *weights)] != [(batch, hidden), *by_weight]:
        return False
    is_shared_out = native.threads() > 1 and batch < _FEW_ROWS and hidden >= _WIDE
    return not is_shared_out or dispatch.wanted() == "native"


def calendar_head(memory_BK: Tensor, future_BHF: Tensor, weights: Weights, mask: Mask | None) -> Tensor:
    """(B, H, Q) out(gelu(mix(drop(gelu(memory + calendar + place))))), of what `fits`.

    `memory`, `calendar`, `mix` and `out` are linear maps. Its gradient has none of its own, and is made for
    one at a time.

    Args:
        memory_BK: what the encoder remembers, the same at every step.
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
        memory_KK, memory_K, calendar_KF, place_HK, mix_KK, mix_K, out_QK, out_Q = weights
        products = memory_KK, calendar_KF, mix_KK, out_QK
        call = _call(memory_BK, future_BHF, products, mask, None)
        out_BHQ = memory_BK.new_empty(*future_BHF.shape[:2], len(out_Q))
        saved = call.taken(call.ask("saved")) if save else None
        added = {"b_memory": memory_K, "place": place_HK, "b_mix": mix_K, "b_out": out_Q}
        call.set(out=out_BHQ, saved=saved, **{name: bias.contiguous() for name, bias in added.items()})
        call.run("forward")
        ctx.save_for_backward(memory_BK, future_BHF, saved, *products)
        ctx.mask, ctx.threads = mask, call.task.threads
        return out_BHQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHQ: Tensor) -> tuple[Tensor | None, ...]:
        memory_BK, future_BHF, saved, *products = ctx.saved_tensors
        memory_KK, calendar_KF, mix_KK, out_QK = products
        batch, steps, _ = future_BHF.shape
        outputs, hidden = out_QK.shape
        call = _call(memory_BK, future_BHF, products, ctx.mask, ctx.threads)
        sizes = {
            "dw_memory": memory_KK.shape,
            "db_memory": (hidden,),
            "dw_calendar": calendar_KF.shape,
            "dplace": (steps, hidden),
            "dw_mix": mix_KK.shape,
            "db_mix": (hidden,),
            "dw_out": out_QK.shape,
            "db_out": (outputs,),
        }
        by_weight = {name: mix_KK.new_empty(size) for name, size in sizes.items()}
        dmemory_BK = memory_BK.new_empty(batch, hidden)
        dfuture_BHF = future_BHF.new_empty(future_BHF.shape) if ctx.needs_input_grad[3] else None
        call.set(
            saved=saved, dout=dout_BHQ.contiguous(), dmemory=dmemory_BK, dfuture=dfuture_BHF, **by_weight
        )
        call.run("backward")
        return None, None, dmemory_BK, dfuture_BHF, *by_weight.values()


def _call(
    memory_BK: Tensor,
    future_BHF: Tensor,
    products: Sequence[Tensor],
    mask: Mask | None,
    threads: int | None,
) -> Call:
    """A head's call, with what both passes read; `threads` as of the first of them."""
    batch, steps, features = future_BHF.shape
    outputs, hidden = products[-1].shape
    if threads is None:
        a_step = hidden * (hidden + features + outputs)
        threads = native.threads_for(2 * batch * (hidden * hidden + steps * a_step))
    lanes, vectors = native.plan(batch, threads)
    sizes = (batch, steps, hidden, features, outputs, lanes, vectors, threads)
    task = _Head(*sizes, int(mask is not None), *(mask or Mask(0, 0, 1.0)))
    call = Call(task, f"head of batch {batch}, {steps} steps, hidden size {hidden}", "nightcast_head")
    names = "memory", "future", "w_memory", "w_calendar", "w_mix", "w_out"
    given = (memory_BK, future_BHF, *products)
    call.set(**{name: tensor.contiguous() for name, tensor in zip(names, given, strict=True)})
    return call
