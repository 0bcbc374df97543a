"""A window's own normalisation, and what an encoder reads of it.

Axes: B batch, L lookback steps, C columns (the target first), K known numbers of a step, D numbers read of a
step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.retrain import Normalisation
from lstm.kernels import dispatch, elementwise

# Keeps a window without variation from being divided by nothing; standardised units.
_LEAST_DIVISOR = 1e-4


def normalise(
    x_BLC: Tensor, observed_BLC: Tensor, known_BLK: Tensor | None, count: int, normalisation: Normalisation
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, D) the first `count` columns, normalised; then their masks, then what is known.

    Args:
        observed_BLC: True where observed; or numbers, 1 and 0.

    Returns:
        With them the location and the scale that were taken off, (B, 1, count) each.
    """
    given = None if normalisation == "instance" else _given(x_BLC[..., :count], normalisation)
    if _is_for_native_code(x_BLC, observed_BLC, known_BLK, count):
        return elementwise.normalise(x_BLC, observed_BLC, known_BLK, given, count, _LEAST_DIVISOR)
    x_BLC, observed_BLC = x_BLC[..., :count], observed_BLC[..., :count]
    # A scale that is given is 1.
    x_BLC, loc_B1C, scale_B1C = _standardised(x_BLC) if given is None else (x_BLC - given[0], *given)
    read = [x_BLC, observed_BLC] if known_BLK is None else [x_BLC, observed_BLC, known_BLK]
    # In the type in which an encoder multiplies it, so that it is written, and read, but once.
    kind = dispatch.product_type(x_BLC)
    return torch.cat([part.to(kind) for part in read], dim=-1), loc_B1C, scale_B1C


def _is_for_native_code(x_BLC: Tensor, observed_BLC: Tensor, known_BLK: Tensor | None, count: int) -> bool:
    """Whether it may take types and shapes for granted; torch's formula refuses what does not go together."""
    numbers = [x_BLC] if known_BLK is None else [x_BLC, known_BLK]
    return (
        observed_BLC.dtype is torch.bool
        and x_BLC.dim() == 3
        and x_BLC.shape == observed_BLC.shape
        and x_BLC.shape[-1] >= count
        and all(one.dtype is torch.float32 and not one.requires_grad for one in numbers)
        and all(one.shape[:-1] == x_BLC.shape[:-1] for one in numbers)
        and elementwise.fits(observed_BLC, *numbers)
    )


def _given(x_BLC: Tensor, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Nothing, or the newest value; the scale stays."""
    last_B1C = x_BLC[:, -1:]
    location_B1C = last_B1C if normalisation == "last_value" else torch.zeros_like(last_B1C)
    return location_B1C, torch.ones_like(last_B1C)


def _standardised(x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Less the mean and by the standard deviation, which torch's own takes ten times as long for along this
    axis; and both."""
    mean_B1C = x_BLC.mean(dim=1, keepdim=True)
    x_BLC = x_BLC - mean_B1C
    deviation_B1C = torch.linalg.vector_norm(x_BLC, dim=1, keepdim=True) / x_BLC.shape[1] ** 0.5
    return x_BLC / deviation_B1C.clamp_min(_LEAST_DIVISOR), mean_B1C, deviation_B1C
