"""What a recurrent module can be given, said in shapes before any kernel sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data.errors import NightcastError

# What autocast brings to its own type.
_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


class WrongInput(NightcastError, ValueError):
    """An input or state that does not fit the module; names the shapes."""


def check(module: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...]) -> None:
    """That input and initial state, where one is given, fit the module and each other.

    Raises:
        WrongInput: wrong rank, size, type or device, or nothing to read.
    """
    name, shape = type(module).__name__, tuple(x.shape)
    layout = "(batch, steps, inputs)" if module.batch_first else "(steps, batch, inputs)"
    if x.dim() not in (2, 3):
        raise WrongInput(f"{name}: input of shape {shape}. Remedy: {layout}, or (steps, inputs) unbatched")
    if shape[-1] != module.input_size:
        raise WrongInput(f"{name}: input of shape {shape} has {shape[-1]} inputs, not {module.input_size}")
    if not x.numel():
        raise WrongInput(f"{name}: input of shape {shape} is empty. Remedy: at least one row and one step")
    weight = module.weight_ih_l0
    assert isinstance(weight, Tensor)
    for what, tensor in [("input", x), *((f"initial state {i}", part) for i, part in enumerate(state))]:
        # Autocast brings them to one type itself, so that its networks have layers of several.
        is_fitting = tensor.dtype == weight.dtype or (
            tensor.dtype in _AUTOCAST and torch.is_autocast_enabled(weight.device.type)
        )
        if not is_fitting or tensor.device != weight.device:
            raise WrongInput(
                f"{name}: {what} of shape {tuple(tensor.shape)} is {tensor.dtype} on {tensor.device}, "
                f"the weights are {weight.dtype} on {weight.device}. Remedy: {what}.to(weight)"
            )
    for tensor, expected in zip(state, expected_states(module, x), strict=False):
        if tuple(tensor.shape) != expected:
            raise WrongInput(f"{name}: initial state of shape {tuple(tensor.shape)}, not {expected}")


def states(module: nn.RNNBase, hx: Any) -> tuple[Tensor, ...]:
    """The initial state as a tuple: none, (h,) or (h, c).

    Raises:
        WrongInput: not what the module takes.
    """
    if hx is None:
        return ()
    if module.mode == "LSTM":
        if not (isinstance(hx, tuple | list) and len(hx) == 2):
            raise WrongInput(f"{type(module).__name__}: the initial state is not a pair (h, c)")
        return tuple(hx)
    if not isinstance(hx, Tensor):
        raise WrongInput(f"{type(module).__name__}: the initial state is a {type(hx).__name__}, not a tensor")
    return (hx,)


def expected_states(module: nn.RNNBase, x: Tensor) -> tuple[tuple[int, ...], ...]:
    """The shapes of a full initial state."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    rows = () if x.dim() == 2 else (x.shape[0 if module.batch_first else 1],)
    hidden = (count, *rows, module.proj_size or module.hidden_size)
    return (hidden, (count, *rows, module.hidden_size)) if module.mode == "LSTM" else (hidden,)
