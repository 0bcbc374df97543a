"""LSTM, GRU and RNN to drop in for torch's: same constructor, parameters, state dict, forward and results.

Axes: B batch, T time steps, I inputs, H hidden size, D directions, N layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm.kernels import reference
from lstm.kernels.dispatch import wanted
from lstm.kernels.reference import Weights

Layer = Callable[[str, Tensor, Tensor, Tensor | None, Weights], tuple[Tensor, Tensor, Tensor | None]]


class _Recurrent(nn.RNNBase):
    """What the three share.

    Attributes:
        between: applied to the output of every layer but the last, instead of torch's dropout; None for
            torch's.
    """

    between: nn.Module | None = None

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name
        """As torch's module of the same name."""
        layer = self._layer(input)
        if layer is None:
            return super().forward(input, hx)
        x_BTI, h_NBH, c_NBH = self._arguments(input, hx)
        y_BTH, h_NBH, c_NBH = self._run(layer, x_BTI, h_NBH, c_NBH)
        return self._results(input, y_BTH, h_NBH, c_NBH)

    def _layer(self, input: Any) -> Layer | None:  # noqa: A002
        """What runs one layer; None leaves the whole module to torch."""
        if isinstance(input, PackedSequence) or self.proj_size:
            return None
        if wanted() == "reference":
            return reference.layer
        return None

    @property
    def _cell(self) -> str:
        return {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "tanh", "RNN_RELU": "relu"}[self.mode]

    def _arguments(self, input: Tensor, hx: Any) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: A002
        """Batched, batch first, and the initial state, zeros where none is given."""
        is_batched = input.dim() == 3
        x_BTI = input if is_batched else input[None]
        if is_batched and not self.batch_first:
            x_BTI = x_BTI.transpose(0, 1)
        count = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            zeros = torch.zeros(count, len(x_BTI), self.hidden_size, dtype=input.dtype, device=input.device)
            return x_BTI, zeros, zeros if self.mode == "LSTM" else None
        h_NBH, c_NBH = hx if self.mode == "LSTM" else (hx, None)
        if not is_batched:
            h_NBH, c_NBH = h_NBH[:, None], None if c_NBH is None else c_NBH[:, None]
        return x_BTI, h_NBH, c_NBH

    def _results(self, input: Tensor, y_BTH: Tensor, h_NBH: Tensor, c_NBH: Tensor | None) -> Any:  # noqa: A002
        if input.dim() == 2:
            y_BTH, h_NBH = y_BTH[0], h_NBH[:, 0]
            c_NBH = None if c_NBH is None else c_NBH[:, 0]
        elif not self.batch_first:
            y_BTH = y_BTH.transpose(0, 1)
        return y_BTH, h_NBH if c_NBH is None else (h_NBH, c_NBH)

    def _run(
        self, layer: Layer, x_BTI: Tensor, h_NBH: Tensor, c_NBH: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        directions = 2 if self.bidirectional else 1
        last_h, last_c = [], []
        for number in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                place = number * directions + direction
                y_BTH, h_BH, c_BH = layer(
                    self._cell,
                    x_BTI.flip(1) if direction else x_BTI,
                    h_NBH[place],
                    None if c_NBH is None else c_NBH[place],
                    self._weights(number, direction),
                )
                outputs.append(y_BTH.flip(1) if direction else y_BTH)
                last_h.append(h_BH)
                last_c.append(c_BH)
            x_BTI = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
            if number < self.num_layers - 1:
                x_BTI = self._dropped(x_BTI)
        cells = [c_BH for c_BH in last_c if c_BH is not None]
        return x_BTI, torch.stack(last_h), torch.stack(cells) if cells else None

    def _dropped(self, y_BTH: Tensor) -> Tensor:
        if self.between is not None:
            return self.between(y_BTH)  # type: ignore[no-any-return]
        return nn.functional.dropout(y_BTH, self.dropout, self.training)

    def _weights(self, number: int, direction: int) -> Weights:
        suffix = f"_l{number}{'_reverse' if direction else ''}"
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        return Weights(*(getattr(self, name + suffix, None) for name in names))  # type: ignore[arg-type]


class LSTM(_Recurrent, nn.LSTM):
    """`torch.nn.LSTM`, run by the fastest kernel there is."""


class GRU(_Recurrent, nn.GRU):
    """`torch.nn.GRU`, run by the fastest kernel there is."""


class RNN(_Recurrent, nn.RNN):
    """`torch.nn.RNN`, run by the fastest kernel there is."""
