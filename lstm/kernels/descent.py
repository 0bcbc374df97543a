"""A step of AdamW, with clipped gradients and a moving average of the weights, in native code on the CPU.

Torch takes some ten passes over them, and as many operations a tensor, for what is mostly a few numbers.
`lstm.training.optimizer` has its formulas, which are what runs elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from lstm.kernels import elementwise, library
from lstm.kernels.calls import Fields, fields

# One thread does it: beyond so many numbers several of torch's are the faster ones.
_MOST = 2**20

_ARRAYS = "weights", "first", "second", "average", "gradient", "step"
_TENSOR: Fields = [
    (ctypes.c_void_p, " ".join(_ARRAYS)),
    (ctypes.c_int64, "count"),
    (ctypes.c_double, "decay"),
]
_DESCENT: Fields = [
    (ctypes.c_int64, "count lanes"),
    (ctypes.c_void_p, "tensors"),
    (ctypes.c_double, "rate beta1 beta2 epsilon clip towards"),
]


class _Tensor(ctypes.Structure):
    """`descent_tensor` of cpu/native.h."""

    _fields_ = fields(_TENSOR)


class _Descent(ctypes.Structure):
    """`descent` of cpu/native.h."""

    _fields_ = fields(_DESCENT)


def step(optimizer: torch.optim.AdamW, clip: float, averages: Sequence[Tensor], towards: float) -> bool:
    """One step by the gradients that are there, if native code may take it; whether it did.

    It leaves to torch the first step, which makes the moments; parameters without a gradient; what is not
    float32 in plain memory, one number after the other; and what several threads do faster.

    Args:
        optimizer: its groups differ in their weight decay only.
        clip: the largest norm of the gradient of all parameters.
        averages: of the parameters, in the order of the groups; none at all is allowed.
        towards: the share of the way that these move towards the new weights.
    """
    group = optimizer.param_groups[0]
    decayed = [
        (weights, group["weight_decay"]) for group in optimizer.param_groups for weights in group["params"]
    ]
    tensors = (_Tensor * len(decayed))()
    gradients = [weights.grad for weights, _ in decayed if weights.grad is not None]
    if len(gradients) < len(decayed) or not elementwise.fits(*gradients, *averages):
        return False
    for place, (weights, decay) in enumerate(decayed):
        state, count = optimizer.state.get(weights, {}), weights.numel()
        moments = [state.get(name) for name in ("exp_avg", "exp_avg_sq")]
        arrays = [weights, *moments, *averages[place : place + 1], gradients[place]]
        if not all(_is_flat(array, count) for array in arrays) or not _is_flat(state.get("step"), 1):
            return False
        addresses = (
            weights,
            *moments,
            averages[place] if averages else None,
            gradients[place],
            state["step"],
        )
        for name, array in zip(_ARRAYS, addresses, strict=True):
            setattr(tensors[place], name, None if array is None else array.data_ptr())
        tensors[place].count, tensors[place].decay = count, decay
    if torch.get_num_threads() > 1 and sum(weights.numel() for weights, _ in decayed) > _MOST:
        return False
    sizes = len(decayed), library.widths()[0], ctypes.addressof(tensors)
    task = _Descent(*sizes, group["lr"], *group["betas"], group["eps"], clip, towards)
    library.compiled().nightcast_descend(ctypes.byref(task))
    return True


def _is_flat(array: Tensor | None, count: int) -> bool:
    """Whether it is so many float32, one after the other, on the CPU."""
    return (
        array is not None
        and array.dtype is torch.float32
        and array.device.type == "cpu"
        and array.numel() == count
        and array.is_contiguous()
    )
