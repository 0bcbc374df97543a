"""Which kernel runs a layer, native, torch's own, reference or persistent, and in which precision."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from math import ceil
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from data.errors import SettingsError
from lstm.kernels import library, native, persistent, reference
from lstm.kernels.reference import Weights

logger = logging.getLogger(__name__)

VARIABLE = "NIGHTCAST_KERNEL"
PRECISION = "NIGHTCAST_PRECISION"
# From `make bench BENCHMARKS="sweep sweep-mixed"`: rows of a batch; rows times steps; hidden sizes.
_LEAST_BATCH, _FEW_MIXED, _LEAST_MIXED, _LARGE_BATCH = 4, 16, 32, 64
_SHORT, _MEDIUM, _LONG = 500, 3_000, 10_000
_SMALL, _NARROW, _MIDDLE, _WIDE = 16, 32, 128, 256
# Chips on which ``auto`` may take the persistent kernel instead of cuDNN (`torch.cuda.get_device_name`): its
# numbers were compared on the first one, its times with cuDNN's on the second (`benchmarks/sweep.py`).
CHIPS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
# Where it does: by the module's mode, padded hidden size, layers, and whether it trains, the smallest batches
# and steps with which it was measured to be the faster one. Everything else is cuDNN's.
FASTER_THAN_CUDNN: Mapping[tuple[str, int, int, bool], Sequence[tuple[int, int]]] = {
    ("LSTM", 16, 1, True): ((256, 1_000), (1_024, 168)),
    ("LSTM", 16, 2, True): ((256, 1_000), (1_024, 168)),
    ("LSTM", 32, 1, True): ((256, 1_000), (1_024, 168)),
    ("LSTM", 32, 2, True): ((1_024, 168),),
    ("LSTM", 64, 1, True): ((1_024, 168),),
    ("LSTM", 64, 2, True): ((1_024, 168),),
    ("GRU", 16, 1, True): ((64, 1_000), (1_024, 168)),
    ("GRU", 16, 2, True): ((64, 1_000), (1_024, 168)),
    ("GRU", 32, 1, True): ((64, 1_000), (256, 168)),
    ("GRU", 32, 2, True): ((64, 1_000), (1_024, 168)),
    ("GRU", 64, 1, True): ((64, 1_000), (256, 168)),
    ("GRU", 64, 2, True): ((256, 168),),
    ("LSTM", 16, 1, False): ((1_024, 168),),
    ("LSTM", 16, 2, False): ((1_024, 1_000),),
    ("LSTM", 32, 1, False): ((1_024, 168),),
    ("GRU", 16, 1, False): ((1_024, 168),),
    ("GRU", 16, 2, False): ((1_024, 1_000),),
    ("GRU", 32, 1, False): ((1_024, 168),),
    ("GRU", 32, 2, False): ((1_024, 1_000),),
    ("GRU", 64, 1, False): ((1_024, 168),),
    ("GRU", 64, 2, False): ((1_024, 168),),
}
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
    NIGHTCAST_PRECISION is not ``float32``. Sums, states and results stay float32. An infinite input makes NaN
    of a GRU's row.

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
        return persistent.layer if _beats_cudnn(module, x) else None
    if not _fits(module, x):
        return None
    if _forced.mixed and _gains_by_mixing(module, x):
        return native.mixed_layer
    if not library.widths():
        _say_once(f"LSTM, GRU and RNN run on torch's own kernels: the native one is {library.describe()}")
        return None
    return native.layer if kernel == "native" or _is_faster(module, x) else None


def _fits(module: nn.RNNBase, x: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return False
    tensors = (x, *module.parameters())
    return all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


def _gains_by_mixing(module: nn.RNNBase, x: Tensor) -> bool:
    """Whether mixed precision was measured to be faster (`benchmarks/sweep.py`). Relu has no code."""
    batch, steps = _batch_and_steps(module, x)
    if module.mode == "RNN_RELU" or batch < _FEW_MIXED:
        return False
    gains = _gains_on_amx if library.mixed_codes()[0] == library.AMX else _gains_on_avx512
    return gains(module, batch, steps)


def _gains_on_amx(module: nn.RNNBase, batch: int, steps: int) -> bool:
    """Its code walks with 32 rows at a time: with 16, the smallest layers lose but in inference (GRUs in long
    inference, too), and the widest LSTMs in short training beside several threads.

    Threads share out such blocks, and half of them may have none: more were not measured.
    """
    # A graph cannot ask for the number of threads.
    threads = 1 if torch.compiler.is_compiling() else native.threads()
    if batch < _FEW_MIXED * (threads - 1):
        return False
    if batch >= _LEAST_MIXED:
        return True
    is_training, is_lstm = torch.is_grad_enabled(), module.mode == "LSTM"
    if module.hidden_size <= _SMALL:
        # A GRU's mixed code loses its lead as the steps add up.
        return not is_training and (is_lstm or batch * steps < _SHORT)
    is_short = batch * steps < _SHORT
    return module.hidden_size <= _WIDE or threads == 1 or not (is_lstm and is_training and is_short)


def _gains_on_avx512(module: nn.RNNBase, batch: int, steps: int) -> bool:
    """A block of 32 rows takes it up to twice as long as a vector of 16 takes float32: it gains where a
    thread has fewer of the ones than it would have of the others.

    Where it has as many, only wide LSTMs gain, in training beside several threads: there float32 would share
    out half vectors.
    """
    # A graph cannot ask for the number of threads.
    threads = 1
    if not torch.compiler.is_compiling():
        threads = native.threads_of(batch, steps, module.input_size, module.hidden_size)
    vector = max(library.CODES)
    if ceil(ceil(batch / library.MIXED_COLUMNS) / threads) < ceil(ceil(batch / vector) / threads):
        return True
    is_wide = module.mode == "LSTM" and module.hidden_size >= _MIDDLE
    return is_wide and torch.is_grad_enabled() and threads > 1 and batch <= vector


def _is_faster(module: nn.RNNBase, x: Tensor) -> bool:
    """Rows of the batch lie along the vectors: a batch of a few rows leaves most of a vector idle.

    Several threads share the rows, so torch, which shares out the products of a step, is better with few rows
    and large layers. Where they are torch's and ours are others
    (`lstm.kernels.shares_threads`), torch's spin on the cores of ours: what is short is left to it too, but
    for the smallest layers. Threads of our own, told to be several, follow the rule of one.
    """
    batch, steps = _batch_and_steps(module, x)
    is_training = torch.is_grad_enabled()
    # A graph cannot ask for the number of threads, and may run with any.
    is_alone = not torch.compiler.is_compiling() and torch.get_num_threads() == 1
    if is_alone or (native.has_own_threads() and not library.shares_threads()):
        return batch >= _LEAST_BATCH and batch * steps >= _least_alone(module.hidden_size, is_training)
    if module.hidden_size <= (_NARROW if library.shares_threads() else _SMALL):
        return batch >= _LEAST_BATCH
    is_long = batch * steps >= _LONG
    if library.shares_threads():
        if batch < _LARGE_BATCH:
            return is_training and module.hidden_size <= _MIDDLE and is_long
        return module.hidden_size <= _MIDDLE or is_long
    return is_long and (batch >= _LARGE_BATCH or is_training)


def _least_alone(hidden_size: int, is_training: bool) -> int:
    """The rows times steps from which the native kernel is the faster one on one thread.

    What a call costs whatever its length outweighs the shortest batches, but for inference of narrow layers.
    Measured on one processor of AMD's and one of Intel's, both with AVX-512. On the latter torch, whose
    products are MKL's, trains wide layers faster a little longer, and the smallest never.
    """
    if is_training and library.is_intel():
        return 0 if hidden_size <= _SMALL else _SHORT if hidden_size < _MIDDLE else _MEDIUM
    return _SHORT if is_training or hidden_size > _NARROW else 0


def _beats_cudnn(module: nn.RNNBase, x: Tensor) -> bool:
    # It has no operator that a graph could hold. Both directions at a time were not measured.
    if torch.compiler.is_compiling() or module.bidirectional:
        return False
    if x.dtype is not torch.float32 or torch.is_autocast_enabled("cuda"):
        return False
    size = persistent.units(module.hidden_size)
    corners = FASTER_THAN_CUDNN.get((module.mode, size, module.num_layers, torch.is_grad_enabled()), ())
    batch, steps = _batch_and_steps(module, x)
    is_faster = any(batch >= rows and steps >= length for rows, length in corners)
    # Last, since it imports Triton.
    return is_faster and torch.cuda.get_device_name(x.device) in CHIPS and persistent.is_installed()


def _batch_and_steps(module: nn.RNNBase, x: Tensor) -> tuple[int, int]:
    steps_at, batch_at = (1, 0) if module.batch_first else (0, 1)
    return (1, x.shape[0]) if x.dim() == 2 else (x.shape[batch_at], x.shape[steps_at])


@cache
def _say_once(text: str) -> None:
    logger.warning(text)
