"""Steps that a GPU repeats by itself: CUDA graphs of functions over fixed memory.

A step of a small network is hundreds of launches, each of which takes the processor longer than the GPU. A
graph is launched as one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_capturing = threading.Lock()


@dataclass
class _Recording:
    """What the calls with arguments of the same shapes share; no graph after the first of them."""

    arguments: tuple[Tensor, ...]
    graph: torch.cuda.CUDAGraph | None = None


class Repeated:
    """Calls a function of tensors, which returns nothing and changes others in place, again and again.

    On a CUDA device the first call with arguments of some shapes runs as it is written, in which torch sets
    up what it needs; the second is captured, and all from then on launch what was captured. So the function
    must always use the same memory beside its arguments, which are copied. It must not read a number back.
    All calls come from one thread.
    """

    def __init__(self) -> None:
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}

    def __call__(self, function: Callable[..., None], *arguments: Tensor) -> None:
        """Call the function, always the same one; all arguments lie on one device.

        It is no attribute: with its owner's method in it, only the garbage collector would free their memory.
        """
        if not arguments[0].is_cuda:
            function(*arguments)
            return
        shapes = tuple(argument.shape for argument in arguments)
        recording = self._recordings.get(shapes)
        if recording is None:
            own = tuple(argument.clone() for argument in arguments)
            self._recordings[shapes] = _Recording(own)
            function(*own)
            return
        for own_argument, argument in zip(recording.arguments, arguments, strict=True):
            own_argument.copy_(argument)
        if recording.graph is None:
            recording.graph = _captured(function, recording.arguments)
        recording.graph.replay()


def _captured(function: Callable[..., None], arguments: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile, but not capture.
    with _capturing, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        function(*arguments)
    return graph
