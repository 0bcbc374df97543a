"""Zero padding of the hidden size: where a small network's parameters lie in those of a larger one.

Torch stacks the gates of a recurrent layer: an axis of g gates of K units has g K rows, and each gate is
padded by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unpadded(padded: Tensor, shape: Sequence[int], hidden_size: int) -> Tensor:
    """The part of a padded parameter that a network of `hidden_size` units has, as a view.

    Args:
        padded: contiguous along its axes that are padded.
        shape: of the small network's own parameter. An axis that differs counts units, some gates of them.

    Returns:
        The elements of the own parameter in its order; axes that differ are split into gates and units.
    """
    view = padded
    for axis in reversed(range(len(shape))):
        if shape[axis] != padded.shape[axis]:
            gates = shape[axis] // hidden_size
            split = torch.unflatten(view, axis, (gates, padded.shape[axis] // gates))
            view = split.narrow(axis + 1, 0, hidden_size)
    return view
