"""A step of AdamW, with clipped gradients and a moving average of the weights, in native code on the CPU.

Torch takes some ten passes over them, and as many operations a tensor, for what is mostly a few numbers.
`lstm.training.optimizer` has its formulas, which are what runs elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm.kernels import elementwise, library
from lstm.kernels.calls import Fields, fields

# One thread does it: beyond so many numbers several of torch's are the faster ones.
_MOST = 2**20

_TENSOR: Fields = [
    (ctypes.c_void_p, "weights first second average gradient step"),
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
    float32 in plain memory, one number after the other; groups that differ in more than their weight decay;
    and what several threads do faster. Hooks of the optimizer are not called.

    Args:
        clip: the largest norm of the gradient of all parameters.
        averages: of the parameters, in the order of the groups; none at all is allowed.
        towards: the share of the way that these move towards the new weights.

    Raises:
        ValueError: as many averages as parameters are wanted, or none.
    """
    groups = optimizer.param_groups
    parameters = [(weights, group["weight_decay"]) for group in groups for weights in group["params"]]
    if averages and len(averages) != len(parameters):
        raise ValueError(f"{len(averages)} averages of {len(parameters)} parameters")
    entries = []
    for place, (weights, _) in enumerate(parameters):
        state = optimizer.state.get(weights, {})
        first, second, steps = (state.get(name) for name in ("exp_avg", "exp_avg_sq", "step"))
        given = {"weights": weights, "gradient": weights.grad, "step": steps}
        average = {"average": averages[place]} if averages else {}
        entries.append({**given, "first": first, "second": second, **average})
    arrays = [array for entry in entries for array in entry.values() if array is not None]
    if len(arrays) < sum(map(len, entries)) or not elementwise.fits(*arrays):
        return False
    # Now they are the CPU's: on a GPU rates are tensors, and to compare them would wait for it.
    if not _is_plain_adamw(groups):
        return False
    if torch.get_num_threads() > 1 and sum(weights.numel() for weights, _ in parameters) > _MOST:
        return False
    tensors = (_Tensor * len(entries))()
    for tensor, entry, (weights, decay) in zip(tensors, entries, parameters, strict=True):
        tensor.count, tensor.decay = weights.numel(), decay
        for name, array in entry.items():
            if not _is_flat(array, 1 if name == "step" else tensor.count):
                return False
            setattr(tensor, name, array.data_ptr())
    sizes = len(tensors), library.widths()[0], ctypes.addressof(tensors)
    options = groups[0]["lr"], *groups[0]["betas"], groups[0]["eps"]
    # As torch's own step does, so that a graph that still needs the old numbers says so.
    torch.autograd.graph.increment_version(arrays)
    library.compiled().nightcast_descend(ctypes.byref(_Descent(*sizes, *options, clip, towards)))
    return True


def _is_plain_adamw(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether groups differ in their weight decay only, and want nothing that native code does not know."""
    options = [(group["lr"], group["betas"], group["eps"]) for group in groups]
    return all(option == options[0] for option in options) and not any(
        group["amsgrad"] or group["maximize"] for group in groups
    )


def _is_flat(array: Tensor, count: int) -> bool:
    """Whether it is so many float32, one after the other."""
    return array.dtype is torch.float32 and array.numel() == count and array.is_contiguous()
