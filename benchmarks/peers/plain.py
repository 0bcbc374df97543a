"""Training as a plain torch loop has it on a GPU: each operation a launch, no graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lstm.training import graphs


def without_graphs() -> None:
    """From now on, in this process."""
    graphs.Repeated.__call__ = _called  # type: ignore[method-assign, assignment]


def _called(own: graphs.Repeated, function: Callable[..., None], *arguments: torch.Tensor) -> None:
    function(*arguments)
