"""A step of AdamW, with clipped gradients and a moving average of the weights, in native code on the CPU.

Torch takes some ten passes over them, and as many operations a tensor, for what is mostly a few numbers.
`lstm.training.optimizer` has its formulas, which are what runs elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lstm.kernels import elementwise, library
from lstm.kernels.calls import Fields, fields

# One thread does it: beyond so many numbers several of torch's are the faster ones.
_MOST = 2**20

_FIELDS: Fields = [
    (ctypes.c_int64, "count lanes"),
    (ctypes.c_void_p, "sizes decays weights first second average gradient step"),
    (ctypes.c_double, "rate beta1 beta2 epsilon clip towards"),
]


class _Descent(ctypes.Structure):
    """`descent` of cpu/native.h."""

    _fields_ = fields(_FIELDS)


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
    parameters: list[Tensor] = [weights for group in groups for weights in group["params"]]
    if averages and len(averages) != len(parameters):
        raise ValueError(f"{len(averages)} averages of {len(parameters)} parameters")
    states = [optimizer.state.get(weights, {}) for weights in parameters]
    found: dict[str, Sequence[Tensor | None]] = {
        "weights": parameters,
        "gradient": [weights.grad for weights in parameters],
        "first": [state.get("exp_avg") for state in states],
        "second": [state.get("exp_avg_sq") for state in states],
        "step": [state.get("step") for state in states],
        "average": averages,
    }
    arrays = {name: [one for one in given if one is not None] for name, given in found.items()}
    every = list(chain.from_iterable(arrays.values()))
    if len(every) < sum(map(len, found.values())) or not elementwise.fits(*every):
        return False
    # Now they are the CPU's: on a GPU rates are tensors, and to compare them would wait for it.
    if not _is_plain_adamw(groups):
        return False
    sizes = list(map(Tensor.numel, parameters))
    if not _are_flat(every) or any(
        list(map(Tensor.numel, given)) != ([1] * len(sizes) if name == "step" else sizes)
        for name, given in arrays.items()
        if given
    ):
        return False
    if torch.get_num_threads() > 1 and sum(sizes) > _MOST:
        return False
    # As torch's own step does, so that a graph that still needs the old numbers says so.
    torch.autograd.graph.increment_version(every)
    decays = [group["weight_decay"] for group in groups for _ in group["params"]]
    options = groups[0]["lr"], *groups[0]["betas"], groups[0]["eps"]
    _call(arrays, sizes, decays, (*options, clip, towards))
    return True


def _call(
    arrays: Mapping[str, Sequence[Tensor]],
    sizes: Sequence[int],
    decays: Sequence[float],
    options: Sequence[float],
) -> None:
    """The native step, of arrays that it may take as they are; none of a name is the null pointer."""
    count = len(sizes)
    tables: dict[str, ctypes.Array[Any]] = {
        name: (ctypes.c_void_p * count)(*map(Tensor.data_ptr, given))
        for name, given in arrays.items()
        if given
    }
    tables |= {"sizes": (ctypes.c_int64 * count)(*sizes), "decays": (ctypes.c_double * count)(*decays)}
    task = _Descent(count, library.widths()[0])
    for name, table in tables.items():
        setattr(task, name, ctypes.addressof(table))
    task.rate, task.beta1, task.beta2, task.epsilon, task.clip, task.towards = options
    library.compiled().nightcast_descend(ctypes.byref(task))


def _is_plain_adamw(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether groups differ in their weight decay only, and want nothing that native code does not know."""
    options = [(group["lr"], group["betas"], group["eps"]) for group in groups]
    return all(option == options[0] for option in options) and not any(
        group["amsgrad"] or group["maximize"] for group in groups
    )


def _are_flat(arrays: Sequence[Tensor]) -> bool:
    """Whether all are float32, one number after the other."""
    return all(array.dtype is torch.float32 for array in arrays) and all(map(Tensor.is_contiguous, arrays))
