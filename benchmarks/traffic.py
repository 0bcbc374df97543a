"""`lanes-traffic`: memory that a lane's training step moves on a GPU, counted, not measured.

Each operation reads its operands and writes its result, and the times of lanes that were measured on a GPU
are in proportion to these bytes (docs/performance.md). So they say what a change may gain before there is a
GPU to try it on. The steps run on the CPU, in bfloat16 as they would there; torch's fused cells, which only a
GPU has, are counted as what they would move. What stays in a GPU's caches is counted all the same.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import prod
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.lanes import ON_A_GPU
from benchmarks.peers import lanes_nightcast
from benchmarks.results import Result
from lstm.kernels import stacked
from lstm.training.batches import Batches
from lstm.training.lanes import Lanes
from lstm.training.trainer import Trainer

SIZES = (64, 128, 192)
NETWORKS = tuple(itertools.product(("gru", "lstm"), ("calendar", "segments"), (1, 2)))
# Of an epoch.
STEPS = ON_A_GPU["windows"] // ON_A_GPU["batch_size"]
# What a fused cell reads and writes of a unit and row at a step: both parts of its gates' sums, or their
# gradients; its states, before and after; and what it keeps for backward, an LSTM's four gates, and a GRU's
# three, the state before, and W_hn h + b_hn.
FUSED = {"lstm": {"forward": 15, "backward": 13}, "gru": {"forward": 13, "backward": 13}}
# These move nothing: they make a tensor of memory that is there, or of none.
_FREE = re.compile(
    "_?(unsafe_)?view|_?reshape(_alias)?|alias|as_strided|detach|(new_)?empty(_like|_strided)?|expand"
    "|lift_fresh|permute|select|slice|split(_with_sizes)?|squeeze|t|transpose|unbind|unsqueeze"
)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is moved inside its block.

    Attributes:
        moved: bytes.
        operations: how many moved any.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = self.operations = 0
        self._is_counting = False

    def __enter__(self) -> Self:
        self._is_counting = True
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._is_counting = False

    def add(self, moved: int) -> None:
        """Count one operation, if anything is counted now."""
        if self._is_counting:
            self.moved += moved
            self.operations += 1

    @contextmanager
    def as_one(self, moved: int) -> Iterator[None]:
        """All inside the block is one operation that moves so much."""
        self.add(moved)
        before, self._is_counting = self._is_counting, False
        try:
            yield
        finally:
            self._is_counting = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if self._is_counting and not _FREE.fullmatch(name):
            read, written = weight((args, kwargs)), weight(result)
            if name == "index_select":
                read = written
            elif name == "baddbmm":
                # What is added is copied to the result, which the product reads and writes.
                read += 2 * written
            self.add(read + written)
        return result


def weight(tensors: Any) -> int:
    """Bytes of all tensors in there; of numbers that an axis only repeats, once."""
    return sum(
        prod(size for size, stride in zip(leaf.shape, leaf.stride(), strict=True) if stride)
        * leaf.element_size()
        for leaf in tree_leaves(tensors)
        if isinstance(leaf, Tensor)
    )


def run(threads: Sequence[int], repeats: int) -> Result:
    """Count the sample's networks; neither argument has a say."""
    rows: list[tuple[Any, ...]] = []
    for cell, head, layers in NETWORKS:
        counted = [_lane(cell=cell, head=head, num_layers=layers, hidden_size=size) for size in SIZES]
        moved = [round(bytes_ / 1e6) for bytes_, _ in counted]
        name = f"{cell.upper()}, {layers} layer{'s' if layers > 1 else ''}, {head}"
        rows.append((name, *moved, counted[0][1]))
    return Result(
        "lanes-traffic",
        f"lanes-traffic: MB that a training step of {ON_A_GPU['batch_size']} windows moves on a GPU, counted",
        ("", *(f"{size} units" for size in SIZES), "operations"),
        tuple(rows),
        ("With its share of a validation. Operations: of an epoch of one step, for any number of lanes.",),
        {**ON_A_GPU, "steps": STEPS},
    )


def _lane(**model: Any) -> tuple[float, int]:
    """Bytes of a lane's step with its share of an epoch's validation, and operations of a step."""
    task = {**ON_A_GPU, "trials": 1, "device": "cpu", "windows": ON_A_GPU["batch_size"]}
    panel, train, validation = lanes_nightcast.data(task["lookback"])
    trainers = [
        Trainer(replace(config, **model), training, panel, train, validation, torch.device("cpu"), None)
        for config, training in lanes_nightcast.trials(task)
    ]
    batches = trainers[0].batches
    step, both = (epoch(trainers, batches[0], second) for second in (None, batches[1]))
    return step.moved + (both.moved - step.moved) / STEPS, step.operations


def epoch(
    trainers: Sequence[Trainer],
    train: Batches,
    validation: Batches | None,
    kind: torch.dtype = torch.bfloat16,
) -> Traffic:
    """What an epoch of lanes moves that compute in this type, once everybody has a place."""
    traffic = Traffic()
    with _as_on_a_gpu(traffic, kind):
        lanes = Lanes(trainers, train, validation)
        lanes.train_epoch(trainers)
        with traffic:
            lanes.train_epoch(trainers)
    return traffic


@contextmanager
def _as_on_a_gpu(traffic: Traffic, kind: torch.dtype) -> Iterator[None]:
    """Inside the block lanes compute in this type, and a cell's step counts as one operation."""
    with ExitStack() as stack:
        stack.enter_context(patch("lstm.training.lanes.network_type", lambda device: kind))
        for way, cells in (("forward", stacked.FORWARD), ("backward", stacked.BACKWARD)):
            own = {name: _fused(traffic, cell, FUSED[name][way]) for name, cell in cells.items()}
            stack.enter_context(patch.dict(cells, own))
        yield


def _fused(traffic: Traffic, cell: Callable[..., Any], numbers: int) -> Callable[..., Any]:
    """A cell's step, counted as so many numbers of each unit and row."""

    def step(first: Tensor, second: Tensor | None, h_PBH: Tensor, other: Any) -> Any:
        with traffic.as_one(numbers * h_PBH.numel() * h_PBH.element_size()):
            return cell(first, second, h_PBH, other)

    return step
