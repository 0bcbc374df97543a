"""Initial weights from a seed, whichever threads draw theirs at the same time.

Torch's own random numbers, which initial weights come from, are one stream for all threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_stream = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's random numbers are those of a seed; afterwards they go on as before."""
    with _stream, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
