"""LSTM, GRU and RNN to drop in for torch's: same constructor, parameters, state dict, forward and results.

Axes: B batch, T time steps, I inputs, H hidden size; N layers times directions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm.kernels import library
from lstm.kernels.checks import check, expected_states, states
from lstm.kernels.dispatch import Layer, choose
from lstm.kernels.reference import Weights

_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "tanh", "RNN_RELU": "relu"}


class _Recurrent(nn.RNNBase):
    """What the three share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Known before a graph is made of the forward, which cannot look it up.
        library.widths()
        library.is_intel()
        library.shares_threads()

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name
        """As torch's module of the same name.

        Raises:
            WrongInput: a rank, shape, type or device that does not fit.
            MemoryError: too little memory; names the shapes.
        """
        layer = self._checked(input, hx)
        if layer is None:
            return super().forward(input, hx)
        y_BTH, ends = self._run(layer, input, hx, sequence=True)
        assert y_BTH is not None
        h_NBH, *c = (torch.stack(parts) for parts in zip(*ends, strict=True))
        c_NBH = c[0] if c else None
        if input.dim() == 2:
            y_BTH, h_NBH, c_NBH = y_BTH[0], h_NBH[:, 0], None if c_NBH is None else c_NBH[:, 0]
        elif not self.batch_first:
            y_BTH = y_BTH.transpose(0, 1)
        return y_BTH, h_NBH if c_NBH is None else (h_NBH, c_NBH)

    def last(self, input: Tensor, hx: Any = None) -> Tensor:  # noqa: A002
        """(B, H) the top layer's last hidden state alone; the others need not be written. (H,) unbatched.

        Raises:
            ValueError: the module is bidirectional.
            WrongInput, MemoryError: as `forward`.
        """
        if self.bidirectional:
            raise ValueError("last: a bidirectional module has no one last state. Remedy: forward")
        layer = self._checked(input, hx)
        if layer is None:
            _, state = super().forward(input, hx)
            h_NBH: Tensor = state[0] if self.mode == "LSTM" else state
            return h_NBH[-1]
        h_BH = self._run(layer, input, hx, sequence=False)[1][-1][0]
        return h_BH if input.dim() == 3 else h_BH[0]

    def _checked(self, input: Any, hx: Any) -> Layer | None:  # noqa: A002
        """What runs a layer; None leaves the whole module to torch."""
        if not isinstance(input, PackedSequence):
            check(self, input, states(self, hx))
        return choose(self, input)

    def _zeros(self, input: Tensor) -> tuple[Tensor, ...]:  # noqa: A002
        return tuple(input.new_zeros(shape) for shape in expected_states(self, input))

    def _run(
        self,
        layer: Layer,
        input: Tensor,  # noqa: A002
        hx: Any,
        sequence: bool,
    ) -> tuple[Tensor | None, list[tuple[Tensor, ...]]]:
        """Layer by layer: every hidden state of the top one if a `sequence` is wanted; and the last states of
        each, (B, H), h and an LSTM's c."""
        is_batched = input.dim() == 3
        state = states(self, hx) or self._zeros(input)
        if not is_batched:
            input, state = input[None], tuple(part[:, None] for part in state)  # noqa: A001
        x_BTI = input if self.batch_first or not is_batched else input.transpose(0, 1)
        directions = 2 if self.bidirectional else 1
        last: list[tuple[Tensor, ...]] = []
        for number in range(self.num_layers):
            is_top = number == self.num_layers - 1
            outputs = []
            for direction in range(directions):
                place = number * directions + direction
                y_BTH, *ends = layer(
                    _CELLS[self.mode],
                    x_BTI.flip(1) if direction else x_BTI,
                    state[0][place],
                    state[1][place] if self.mode == "LSTM" else None,
                    self._weights(number, direction),
                    sequence or not is_top,
                )
                last.append(tuple(end for end in ends if end is not None))
                if y_BTH is not None:
                    outputs.append(y_BTH.flip(1) if direction else y_BTH)
            if not outputs:
                break
            x_BTI = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
            if not is_top:
                x_BTI = nn.functional.dropout(x_BTI, self.dropout, self.training)
        return x_BTI if sequence else None, last

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
