"""Memory that is used again, since the system must find and clear fresh pages.

What a forward pass keeps for the backward pass is large, lives for a moment, and has the same size for every
batch. A tensor from here gives its memory back when it is no longer referred to, by nobody's doing.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from math import prod

import numpy as np
import psutil
import torch
from torch import Tensor

_MOST_FREE = 2**30  # bytes kept for later; the oldest go first
_LARGE = 2**28  # bytes from which on it is asked whether the machine has them
_SMALL = 2**17  # bytes up to which the C library's own allocator keeps its pages
_FLOAT = 4

_lock = threading.Lock()
_free: list[mmap.mmap] = []
# Appended to by finalizers, which may run inside `take`, in any thread: they must not wait for the lock.
_returned: deque[mmap.mmap] = deque()


def take(*shape: int) -> Tensor:
    """A tensor of this shape, float32 with any content.

    Raises:
        MemoryError: there is not as much; says how much was wanted.
    """
    floats = prod(shape)
    size = floats * _FLOAT
    if size <= _SMALL:
        # Whatever the defaults are.
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    memory = _reused(size) or _new(size)
    # Shaped before it is torch's: who gets a tensor that is a view may not change it in place.
    array = np.frombuffer(memory, dtype=np.float32, count=floats).reshape(shape)
    weakref.finalize(array, _returned.append, memory).atexit = False
    return torch.from_numpy(array)


def _reused(size: int) -> mmap.mmap | None:
    """The smallest free memory that is large enough, unless most of it would lie idle."""
    with _lock:
        while _returned:
            _free.append(_returned.popleft())
        fitting = [memory for memory in _free if size <= len(memory) <= 2 * size + mmap.PAGESIZE]
        chosen = min(fitting, key=len, default=None)
        if chosen is not None:
            _free.remove(chosen)
        while sum(map(len, _free)) > _MOST_FREE:
            _free.pop(0)
        return chosen


def _new(size: int) -> mmap.mmap:
    if size >= _LARGE and size > (available := psutil.virtual_memory().available):
        raise MemoryError(f"{size / 1e9:.1f} GB wanted, {available / 1e9:.1f} GB free")
    try:
        memory = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"{size / 1e9:.1f} GB wanted: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= _LARGE // 64:
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
