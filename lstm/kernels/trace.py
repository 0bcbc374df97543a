"""Looking inside: gates and states of every step of the recurrent layers that run meanwhile.

Axes: B batch, T time steps, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lstm.kernels import reference
from lstm.kernels.dispatch import Layer, layers_from
from lstm.kernels.reference import Weights


@dataclass(frozen=True, eq=False)
class Trace:
    """One layer and direction of one forward pass.

    Args:
        module: the module that it is of.
        number: of the layer within the module, from 0.
        is_reverse: whether it read its input backwards; its steps are in the order of time all the same.
        parts: (B, T, H) each, by the names of `LSTMStep`, `GRUStep` or `RNNStep`.
    """

    module: nn.RNNBase
    number: int
    is_reverse: bool
    parts: dict[str, Tensor]


@contextmanager
def tracing() -> Iterator[list[Trace]]:
    """Every layer of LSTM, GRU and RNN that this thread runs inside the block, in the order of running.

    They run on the reference cells, gate by gate: the same numbers but for rounding, slower, with autograd as
    ever. A network without such modules leaves the list empty.
    """
    traces: list[Trace] = []

    def layer_of(module: nn.RNNBase) -> Layer:
        places = iter(range(module.num_layers * (1 + module.bidirectional)))

        def layer(
            cell: str, x_BTI: Tensor, h_BH: Tensor, c_BH: Tensor | None, weights: Weights, sequence: bool
        ) -> tuple[Tensor | None, Tensor, Tensor | None]:
            number, direction = divmod(next(places), 1 + module.bidirectional)
            done = reference.steps(cell, x_BTI, h_BH, c_BH, weights)
            ordered = done[::-1] if direction else done
            parts = {
                name: torch.stack([getattr(one, name) for one in ordered], dim=1) for name in done[0]._fields
            }
            traces.append(Trace(module, number, bool(direction), parts))
            return reference.outputs(done, sequence)

        return layer

    with layers_from(layer_of):
        yield traces
