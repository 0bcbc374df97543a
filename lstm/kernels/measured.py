"""Which kernel was measured to be the faster one, by a layer's shape and its batch's (`benchmarks/sweep.py`).

Sizes in between are taken for those of the nearest that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lstm.kernels import library, native, persistent

# Rows of a batch; rows times steps; hidden sizes.
_LEAST_BATCH, _FEW, _VECTOR, _TWO_VECTORS, _LARGE_BATCH = 4, 8, 16, 32, 64
_SHORT, _MODERATE, _MEDIUM, _LONG = 500, 2_000, 3_000, 10_000
_SMALL, _NARROW, _MODEST, _MIDDLE, _WIDE = 16, 32, 64, 128, 256
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


def gains_by_mixing(module: nn.RNNBase, x: Tensor) -> bool:
    """Whether a layer is faster in mixed precision than in float32. Relu has no code."""
    batch, steps = _batch_and_steps(module, x)
    if module.mode == "RNN_RELU" or batch < _VECTOR:
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
    if batch < _VECTOR * (threads - 1):
        return False
    if batch >= _TWO_VECTORS:
        return True
    is_training, is_lstm = torch.is_grad_enabled(), module.mode == "LSTM"
    if module.hidden_size <= _SMALL:
        # A GRU's mixed code loses its lead as the steps add up.
        return not is_training and (is_lstm or batch * steps < _SHORT)
    is_short = batch * steps < _SHORT
    return module.hidden_size <= _WIDE or threads == 1 or not (is_lstm and is_training and is_short)


def _gains_on_avx512(module: nn.RNNBase, batch: int, steps: int) -> bool:
    """Its code walks with 32 rows at a time, float32's with 16: it gains once a thread has more than 16. With
    16, short inference of narrow layers gains as well.

    Measured on one processor of AMD's.
    """
    # A graph cannot ask for the number of threads.
    threads = 1
    if not torch.compiler.is_compiling():
        threads = native.threads_of(batch, steps, module.input_size, module.hidden_size)
    is_short = batch * steps < _SHORT and not torch.is_grad_enabled()
    return batch > _VECTOR * threads or (is_short and module.hidden_size <= _NARROW)


def is_faster(module: nn.RNNBase, x: Tensor) -> bool:
    """Whether the native kernel is faster than torch's.

    Rows of the batch lie along the vectors: a batch of a few rows leaves most of a vector idle. Torch has an
    LSTM of its own; its GRU and RNN are an operation after the other, so that it takes those faster only with
    few rows of a wide layer. Measured on one processor of Intel's and one of AMD's, both with AVX-512;
    all others follow the latter.
    """
    batch, steps = _batch_and_steps(module, x)
    size, is_training = module.hidden_size, torch.is_grad_enabled()
    is_graph = torch.compiler.is_compiling()
    # A graph cannot ask for the number of threads, and may run with any.
    is_alone = not is_graph and torch.get_num_threads() == 1
    is_alone = is_alone or (native.has_own_threads() and not library.shares_threads())
    if module.mode != "LSTM" and (is_alone or library.shares_threads()):
        threads = 1 if is_alone else 2 if is_graph else torch.get_num_threads()
        # Beside several threads even one vector is enough in inference, unless it is short.
        is_enough = not is_training and batch >= _VECTOR and batch * steps >= _MODERATE
        return size <= _MODEST or is_enough or batch >= _least_rows(size, is_training) * threads
    if is_alone:
        least = _least_rows_of_lstm(size, is_training)
        return batch >= least and batch * steps >= _least_alone(size, is_training)
    return _is_faster_beside(size, batch, steps, is_training)


def _least_rows(size: int, is_training: bool) -> int:
    """From which a thread takes a GRU or RNN of more than 64 units faster than torch."""
    return min(_VECTOR, size // (32 if is_training else 16))


def _least_rows_of_lstm(size: int, is_training: bool) -> int:
    """From which a thread takes an LSTM faster than torch: the more units, the more."""
    if is_training and size <= _SMALL:
        return _LEAST_BATCH
    return _FEW if size <= (_NARROW if is_training else _SMALL) else _VECTOR


def _least_alone(size: int, is_training: bool) -> int:
    """Rows times steps from which a thread takes an LSTM faster than torch.

    Torch's products are MKL's, which on Intel's processors are at their best.
    """
    if not library.is_intel():
        return _SHORT if is_training and size >= _WIDE else 0
    if is_training:
        return 0 if size <= _SMALL else _SHORT if size < _MIDDLE else _MEDIUM
    return _SHORT if size > _NARROW else 0


def _is_faster_beside(size: int, batch: int, steps: int, is_training: bool) -> bool:
    """Whether several threads take an LSTM faster than torch, which shares out the products of a step.

    Torch is better with few rows and large layers. Where its threads and ours are others
    (`lstm.kernels.shares_threads`), its spin on the cores of ours: what is short is left to it too, but for
    the smallest layers, and so it is with GRUs and RNNs.
    """
    if size <= (_NARROW if library.shares_threads() else _SMALL):
        return batch >= (_LEAST_BATCH if size <= _SMALL else _FEW)
    is_long = batch * steps >= _LONG
    if not library.shares_threads():
        return is_long and (batch >= _LARGE_BATCH or is_training)
    if not _is_careful() and batch >= _VECTOR * torch.get_num_threads():
        return size <= _WIDE or is_long
    if batch < _LARGE_BATCH:
        return is_training and size <= _MIDDLE and is_long
    return size <= _MIDDLE or is_long


def _is_careful() -> bool:
    """Whether torch keeps what was not measured to be slower: on Intel's processors only 16 and 64 rows were,
    and a graph may run with any number of threads."""
    return torch.compiler.is_compiling() or library.is_intel()


def beats_cudnn(module: nn.RNNBase, x: Tensor) -> bool:
    """Whether the persistent kernel is faster than cuDNN."""
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
