"""Calls into the compiled code: a structure of sizes and pointers, and the tensors that they point at."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lstm.kernels import library, memory

Fields = Sequence[tuple[type["ctypes._SimpleCData[Any]"], str]]


def fields(groups: Fields) -> list[tuple[str, Any]]:
    """The fields of a structure, from their types and their names."""
    return [(name, kind) for kind, names in groups for name in names.split()]


class Call:
    """One call: its arguments, and the tensors that must live until it returns.

    Args:
        task: the structure of `cpu/native.h`, its sizes filled in.
        what: is computed, with its shapes, for whoever lacks the memory.
        prefix: of the names of its functions.
    """

    def __init__(self, task: ctypes.Structure, what: str, prefix: str) -> None:
        self.task = task
        self._what = what
        self._prefix = prefix
        self._alive: list[Tensor] = []

    def set(self, **tensors: Tensor | None) -> None:
        """Point fields at tensors; None is the null pointer."""
        for name, tensor in tensors.items():
            if tensor is not None:
                self._alive.append(tensor)
                setattr(self.task, name, tensor.data_ptr())

    def ask(self, name: str, *arguments: int) -> int:
        """A number of floats."""
        function = getattr(library.compiled(), f"{self._prefix}_{name}_floats")
        count: int = function(ctypes.byref(self.task), *arguments)
        return count

    def taken(self, *shape: int) -> Tensor:
        """Reused memory.

        Raises:
            MemoryError: too little of it; names the shapes.
        """
        try:
            return memory.take(*shape)
        except MemoryError as error:
            raise MemoryError(f"{self._what}: {error}. Remedy: smaller batches, or fewer steps") from error

    def run(self, direction: str) -> None:
        """The pass in the direction ``forward`` or ``backward``.

        Raises:
            MemoryError: as `taken`.
        """
        self.set(work=self.taken(self.ask("work", int(direction == "backward"))))
        getattr(library.compiled(), f"{self._prefix}_{direction}")(ctypes.byref(self.task))
