"""A window's own normalisation, and what an encoder reads of it.

Axes: B batch, L lookback steps, C columns (the target first), K known numbers of a step, D numbers read of a
step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.retrain import Normalisation
from lstm.kernels import dispatch, elementwise

# Keeps a window without variation from being divided by nothing; standardised units.
_LEAST_DIVISOR = 1e-4


class Normaliser(nn.Module):
    """Takes off each window, column by column, what its normalisation says.

    Args:
        normalisation: ``none``; ``last_value``, the newest value; ``instance``, mean and standard deviation.
    """

    takes_mean: Tensor
    takes_last: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        self.normalisation = normalisation
        # Buffers, so that networks of a stack may differ in it.
        self.register_buffer("takes_mean", torch.tensor(normalisation == "instance"), persistent=False)
        self.register_buffer("takes_last", torch.tensor(normalisation == "last_value"), persistent=False)

    def forward(
        self, x_BLC: Tensor, observed_BLC: Tensor, known_BLK: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) the first `count` columns, normalised; then their masks, then what is known.

        Args:
            observed_BLC: True where observed; or numbers, 1 and 0.

        Returns:
            With them the location and the scale that were taken off, (B, 1, count) each.
        """
        if self._is_for_native_code(x_BLC, observed_BLC, known_BLK, count):
            given = None if self.normalisation == "instance" else self._given(x_BLC[..., :count])
            return elementwise.normalise(x_BLC, observed_BLC, known_BLK, given, count, _LEAST_DIVISOR)
        x_BLC, loc_B1C, scale_B1C = self._normalised(x_BLC[..., :count])
        read = [x_BLC, observed_BLC[..., :count]]
        if known_BLK is not None:
            read.append(known_BLK)
        # In the type in which an encoder multiplies it, so that it is written, and read, but once.
        kind = dispatch.product_type(x_BLC)
        return torch.cat([part.to(kind) for part in read], dim=-1), loc_B1C, scale_B1C

    def _is_for_native_code(
        self, x_BLC: Tensor, observed_BLC: Tensor, known_BLK: Tensor | None, count: int
    ) -> bool:
        """Whether it may take types and shapes for granted; torch's formula refuses what does not fit."""
        numbers = [x_BLC] if known_BLK is None else [x_BLC, known_BLK]
        return (
            observed_BLC.dtype is torch.bool
            and x_BLC.dim() == 3
            and x_BLC.shape == observed_BLC.shape
            and x_BLC.shape[-1] >= count
            and all(one.dtype is torch.float32 and not one.requires_grad for one in numbers)
            and all(one.shape[:-1] == x_BLC.shape[:-1] for one in numbers)
            # Networks of a stack may share their windows, but not what they take off them.
            and elementwise.fits(observed_BLC, self.takes_mean, *numbers)
        )

    def _given(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """The newest value, or nothing; the scale stays."""
        last_B1C = x_BLC[:, -1:]
        return torch.where(self.takes_last, last_B1C, 0.0), torch.ones_like(last_B1C)

    def _normalised(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x without its location, by its scale; and both."""
        loc_B1C, scale_B1C = self._given(x_BLC)
        loc_B1C = torch.where(self.takes_mean, x_BLC.mean(dim=1, keepdim=True), loc_B1C)
        x_BLC = x_BLC - loc_B1C
        # Torch's own standard deviation takes ten times as long along this axis.
        deviation_B1C = torch.linalg.vector_norm(x_BLC, dim=1, keepdim=True) / x_BLC.shape[1] ** 0.5
        scale_B1C = torch.where(self.takes_mean, deviation_B1C, scale_B1C)
        return x_BLC / scale_B1C.clamp_min(_LEAST_DIVISOR), loc_B1C, scale_B1C
