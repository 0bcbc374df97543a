"""Dropout whose mask is a pure function of a key, so that it does not depend on what else is computed.

Torch draws masks from one stream of random numbers: the next mask depends on every draw before it. Here
each element's bits are a hash of (key, place of the layer, row, unit), as in a counter-based generator
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). The same network has the same masks
whether it is trained alone, beside others, or with units padded to its hidden size.

Axes: R rows (every axis but the last, flattened), G groups of four units, K hidden size.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn

from lstm.kernels import elementwise


def _signed(bits: int) -> int:
    """The low 64 bits as torch's int64 has them."""
    return (bits + 2**63) % 2**64 - 2**63


# Odd constants: the golden ratio's, and SplitMix64's two (Steele et al. 2014, "Fast splittable pseudorandom
# number generators").
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
_LEVELS = 2**16


class Place(IntEnum):
    """Where a network drops units: no two of its dropouts share a place, nor their masks."""

    MEMORY = 0
    UNITS = 1
    LAYERS = 2
    """Of the first layer; the others follow."""


class Dropout(nn.Module):
    """Zeroes each unit with probability p in training and scales the others by 1 / (1 - p).

    Its key must be set before each training step (`set_key`): a key that stays repeats its masks.

    Args:
        p: in [0, 1), to the nearest 1/65536.
        place: a number that no other dropout of the network has.
    """

    key: Tensor
    threshold: Tensor
    scale: Tensor

    def __init__(self, p: float, place: int) -> None:
        super().__init__()
        self.p = p
        self.place = place
        dropped = min(round(p * _LEVELS), _LEVELS - 1)
        # Buffers, so that each network of a stack has its own; no part of the weights.
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
        threshold = torch.tensor(dropped - _LEVELS // 2, dtype=torch.int16)
        self.register_buffer("threshold", threshold, persistent=False)
        self.register_buffer("scale", torch.tensor(_LEVELS / (_LEVELS - dropped)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x, (..., K), with units dropped in training."""
        if not self.drops:
            return x
        if x.dtype is torch.float32 and elementwise.fits(x, self.key):
            return elementwise.drop(x, self.mask())
        # A graph cannot hold a function with a rule for `vmap`.
        bits = _bits if torch.compiler.is_compiling() else _Bits.apply
        size = x.shape[-1]
        bits_RK: Tensor = bits(self._own_key(), x.numel() // size, size)
        keep = (bits_RK >= self.threshold).view(x.shape)
        return x * torch.where(keep, self.scale.to(x.dtype), 0)

    @property
    def drops(self) -> bool:
        """Whether it drops units now: in training, and with a p that is not 0."""
        return self.training and self.p > 0

    def mask(self) -> elementwise.Mask:
        """What native code needs to drop the same units."""
        return elementwise.Mask(int(self._own_key()), int(self.threshold), float(self.scale))

    def _own_key(self) -> Tensor:
        """The network's key with the place in it, so that no two dropouts have the same mask."""
        return self.key + _signed(self.place * _FIRST)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"p={self.p}, place={self.place}"


def set_key(model: nn.Module, key: Tensor) -> None:
    """The key of a network's masks from now on: a scalar int64, uniform over its values."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.key.copy_(key)


class _Bits(torch.autograd.Function):
    """Gives `vmap` a rule: the same with an axis of keys, since it cannot view numbers as others of another
    size before torch 2.13."""

    @staticmethod
    def forward(key: Tensor, rows: int, size: int) -> Tensor:
        return _bits(key, rows, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: whole numbers have no gradient."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], key_P: Tensor, rows: int, size: int
    ) -> tuple[Tensor, int]:
        return _bits(key_P.movedim(in_dims[0] or 0, 0), rows, size), 0


def _bits(key: Tensor, rows: int, size: int) -> Tensor:
    """(..., R, K) int16, uniform over its values; element (r, k) depends on key, r and k alone.

    One 64-bit hash serves four units, which makes a mask cheaper than one of torch's own on a CPU.

    Args:
        key: (...).
    """
    row_R = _mixed(key[..., None] + torch.arange(rows, device=key.device) * _GOLDEN)
    group_G = _mixed(torch.arange(1, -(-size // 4) + 1, device=key.device) * _SECOND)
    hash_RG = row_R[..., None] ^ group_G
    hash_RG *= _FIRST
    hash_RG ^= hash_RG >> 32
    hash_RG *= _SECOND
    return hash_RG.view(torch.int16)[..., :size]


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's finaliser; torch's shift of a negative number keeps the sign, which costs three bits."""
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    return z ^ (z >> 31)
