"""Where the training runs, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import NightcastError
from lstm import kernels

Wanted = Literal["auto", "cpu", "cuda"]

# Numbers that one thread has worked on before the others are awake.
_FEW = 200_000


class DeviceMissing(NightcastError):
    """A device was asked for that this machine does not have."""


def choose_device(wanted: Wanted = "auto") -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        DeviceMissing: CUDA was asked for and torch sees none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(
            "device cuda: torch sees no CUDA device. "
            "Remedy: set NIGHTCAST_DEVICE=auto, or install a CUDA build of torch"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def set_threads(count: int = 1) -> None:
    """CPU threads of this process.

    Where the recurrent layers can't run on torch's threads, torch keeps to one: the others would spin on the
    cores of the recurrent kernel.
    """
    torch.set_num_threads(count if kernels.shares_threads() else 1)
    kernels.set_threads(count)


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Inside it torch works on one CPU thread where it is about a few numbers, tensor by tensor.

    Torch shares out what is small as well, and each time waits for the others twice.
    """
    count = torch.get_num_threads()
    if count == 1 or numbers > _FEW:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside it a network may multiply in bfloat16: all of it on CUDA, its recurrent layers on the CPU.

    Raises:
        SettingsError: see `lstm.kernels.mixed_precision`.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return kernels.mixed_precision()


def network_type(device: torch.device) -> torch.dtype:
    """In which networks that train together multiply there, and keep what backward reads."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device. To CUDA it goes through pinned memory, without waiting for it to arrive."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
