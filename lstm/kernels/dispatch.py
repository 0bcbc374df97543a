"""Which kernel runs a layer, native, torch's own, reference or persistent, and in which precision."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from data.errors import SettingsError
from lstm.kernels import library, measured, native, persistent, reference
from lstm.kernels.reference import Weights

logger = logging.getLogger(__name__)

VARIABLE = "NIGHTCAST_KERNEL"
PRECISION = "NIGHTCAST_PRECISION"
Kernel = Literal["auto", "native", "torch", "reference", "persistent"]
Layer = Callable[
    [str, Tensor, Tensor, Tensor | None, Weights, bool], tuple[Tensor | None, Tensor, Tensor | None]
]


class _Forced(threading.local):
    kernel: Kernel | None = None
    layer_of: Callable[[nn.RNNBase], Layer] | None = None
    mixed: bool = False


_forced = _Forced()


@contextmanager
def using(kernel: Kernel) -> Iterator[None]:
    """Force a kernel for this thread inside the block; it comes before NIGHTCAST_KERNEL.

    ``persistent`` raises `lstm.kernels.persistent.KernelUnavailable` from the layers that it cannot run.

    Raises:
        ValueError: an unknown name.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel {kernel!r}: not one of {', '.join(get_args(Kernel))}")
    before, _forced.kernel = _forced.kernel, kernel
    try:
        yield
    finally:
        _forced.kernel = before


@contextmanager
def layers_from(layer_of: Callable[[nn.RNNBase], Layer]) -> Iterator[None]:
    """Inside the block, this thread's modules run on what `layer_of` gives for each forward pass.

    Packed sequences and projections are left to torch all the same.
    """
    before, _forced.layer_of = _forced.layer_of, layer_of
    try:
        yield
    finally:
        _forced.layer_of = before


@contextmanager
def mixed_precision() -> Iterator[None]:
    """Inside the block, this thread's recurrent layers may multiply in bfloat16 on the CPU.

    They do where the processor has instructions for it, batches are large enough to gain by it, and
    NIGHTCAST_PRECISION is not ``float32``. Sums, states and results stay float32. An infinite input may
    make NaN of a GRU's row.

    Raises:
        SettingsError: NIGHTCAST_PRECISION is neither auto nor float32.
    """
    before, _forced.mixed = _forced.mixed, _may_mix() and bool(library.mixed_codes())
    try:
        yield
    finally:
        _forced.mixed = before


def product_type(x: Tensor) -> torch.dtype:
    """The type in which torch multiplies numbers such as these: autocast's, where that is on."""
    device = x.device.type
    # Others have no autocast that could be asked for.
    is_on = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on else x.dtype


def wanted() -> Kernel:
    """The kernel that this thread asks for: `using`, else NIGHTCAST_KERNEL, else ``auto``.

    Raises:
        SettingsError: NIGHTCAST_KERNEL is none of auto, native, torch; or native where there is none.
    """
    if _forced.kernel is not None:
        return _forced.kernel
    kernel = os.environ.get(VARIABLE) or "auto"
    if kernel not in ("auto", "native", "torch"):
        raise SettingsError(f"{VARIABLE}={kernel}: unknown kernel. Remedy: auto, native or torch")
    if kernel == "native" and not library.widths():
        raise SettingsError(
            f"{VARIABLE}=native: {library.describe()}. "
            "Remedy: install with a C compiler on this machine, or set auto or torch"
        )
    return kernel  # type: ignore[return-value]


def describe() -> str:
    """The kernel of the CPU, in words."""
    kernel = wanted()
    if kernel == "torch" or not library.widths():
        reason = f"{VARIABLE}=torch" if kernel == "torch" else library.describe()
        return f"torch ({reason})"
    codes = library.mixed_codes() if _may_mix() else ()
    mixed = f"; trains in bfloat16 on {library.MIXED[codes[0]]}" if codes else ""
    return f"native ({library.describe()}{mixed})"


def _may_mix() -> bool:
    precision = os.environ.get(PRECISION) or "auto"
    if precision not in ("auto", "float32"):
        raise SettingsError(f"{PRECISION}={precision}: unknown precision. Remedy: auto or float32")
    return precision == "auto"


def choose(module: nn.RNNBase, x: Tensor | PackedSequence) -> Layer | None:
    """What runs each layer of a module on this input; None leaves all of it to torch.

    The native kernel takes float32 on the CPU, and multiplies in bfloat16 where it may (`mixed_precision`)
    and was measured to be faster so. ``auto`` leaves to torch what torch was measured to do faster
    (`benchmarks/sweep.py`), and on a GPU everything that the persistent kernel was not measured to do faster.
    """
    if isinstance(x, PackedSequence) or module.proj_size:
        return None
    if _forced.layer_of is not None:
        return _forced.layer_of(module)
    kernel = wanted()
    if kernel == "torch":
        return None
    if kernel == "reference":
        return reference.layer
    if kernel == "persistent":
        return persistent.layer
    if x.is_cuda and kernel == "auto":
        return persistent.layer if measured.beats_cudnn(module, x) else None
    if not _fits(module, x):
        return None
    if _forced.mixed and measured.gains_by_mixing(module, x):
        return native.mixed_layer
    if not library.widths():
        _say_once(f"LSTM, GRU and RNN run on torch's own kernels: the native one is {library.describe()}")
        return None
    return native.layer if kernel == "native" or measured.is_faster(module, x) else None


def _fits(module: nn.RNNBase, x: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return False
    tensors = (x, *module.parameters())
    return all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


@cache
def _say_once(text: str) -> None:
    logger.warning(text)
