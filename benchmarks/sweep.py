"""`sweep`: our LSTM against `torch.nn.LSTM` over sizes: is the kernel chosen the faster one, within 5 %?

`sweep-gru` is the same for GRUs.
`sweep-head` is the same for the calendar head, whose steps are those of the horizon.
`sweep-mixed` is the same in mixed precision and in float32, LSTM and GRU: a night trains and validates so.
`sweep-cuda` is the same on a GPU, LSTM and GRU, where ours is the persistent kernel and torch's is cuDNN.

A training step is forward and backward; inference is forward without gradients. Each kernel has a process of
its own, since the threads of one spin for a while on the cores of the other; the two take turns, cell by
cell. A cell's times are medians. A cell where the kernel chosen seems to lose is measured twice more, in new
processes: its times are then the medians of the three.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product
from math import inf
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contender import Contender, Process
from benchmarks.results import Cell, Result

GRID: Mapping[str, Sequence[Any]] = {
    "module": ("LSTM",),
    "hidden_size": (16, 32, 64, 128, 256, 512),
    "layers": (1, 2, 3),
    "batch": (16, 64, 512),
    "steps": (24, 168, 1_000),
    "mode": ("training", "inference"),
}
GRU_GRID: Mapping[str, Sequence[Any]] = {**GRID, "module": ("GRU",), "layers": (1, 2)}
MIXED_GRID: Mapping[str, Sequence[Any]] = {**GRID, "module": ("LSTM", "GRU"), "layers": (1, 2)}
HEAD_GRID: Mapping[str, Sequence[Any]] = {
    **GRID,
    "module": ("CalendarHead",),
    "layers": (1,),
    "batch": (16, 64, 256),
    "steps": (24, 96),
}
# As far as the persistent kernel goes.
CUDA_GRID: Mapping[str, Sequence[Any]] = {
    "module": ("LSTM", "GRU"),
    "hidden_size": (16, 32, 64, 128),
    "layers": (1, 2),
    "batch": (16, 64, 256, 1_024),
    "steps": (24, 168, 1_000),
    "mode": ("training", "inference"),
}
# By our kernel, what it is compared with, and the words for both.
RIVALS = {
    "native": ("torch", "native code against torch's"),
    "mixed": ("float32", "mixed precision against float32"),
    "persistent": ("torch", "persistent kernel against cuDNN"),
}
ENVIRONMENTS = {
    "native": {"NIGHTCAST_KERNEL": "native"},
    "torch": {"NIGHTCAST_KERNEL": "torch"},
    "float32": {"NIGHTCAST_KERNEL": "auto"},
    "mixed": {"NIGHTCAST_KERNEL": "auto", "NIGHTCAST_PRECISION": "auto"},
    # Not for the environment to choose.
    "persistent": {},
}
# Seconds of one call of torch's from which a cell is skipped, and of all cells for a number of threads. Cells
# come in no order, so that the time's end leaves out some of every size.
LIMIT, BUDGET = 2.0, 240.0
MOST_LOSS = 1.05
LISTED = 12


def run(threads: Sequence[int], repeats: int) -> Result:
    """The grid with each number of threads; `repeats` has no say, a cell takes as many as it needs.

    Raises:
        PeerFailed: the process ended early.
    """
    return _run("sweep", "native", "cpu", GRID, threads)


def run_gru(threads: Sequence[int], repeats: int) -> Result:
    """As `run`, for GRUs.

    Raises:
        PeerFailed: the process ended early.
    """
    return _run("sweep-gru", "native", "cpu", GRU_GRID, threads)


def run_heads(threads: Sequence[int], repeats: int) -> Result:
    """As `run`, for the calendar head.

    Raises:
        PeerFailed: the process ended early.
    """
    return _run("sweep-head", "native", "cpu", HEAD_GRID, threads)


def run_mixed(threads: Sequence[int], repeats: int) -> Result:
    """As `run`, where the processor multiplies bfloat16.

    Raises:
        PeerFailed: there is none, or the process ended early.
    """
    return _run("sweep-mixed", "mixed", "cpu", MIXED_GRID, threads)


def run_on_cuda(threads: Sequence[int], repeats: int) -> Result:
    """The grid on the first CUDA device; neither `threads` nor `repeats` has a say.

    Raises:
        PeerFailed: no Triton, or the process ended early.
    """
    return _run("sweep-cuda", "persistent", "cuda", CUDA_GRID, [1])


def _run(
    name: str, ours: str, device: str, grid: Mapping[str, Sequence[Any]], threads: Sequence[int]
) -> Result:
    cells = [
        {**cell, "threads": number} for number in threads for cell in _measure(ours, device, grid, number)
    ]
    measured = [cell for cell in cells if ours in cell]
    rival, words = RIVALS[ours]
    columns = (
        "module, hidden size, mode, threads",
        "cells",
        f"{rival} / {ours}: least",
        "median",
        "most",
        "auto loses in",
        "by at most",
    )
    rows = [
        row(f"{module} {size}, {mode}, {number}", chosen, ours)
        for number, module, size, mode in product(threads, grid["module"], grid["hidden_size"], grid["mode"])
        if (chosen := select(measured, threads=number, module=module, hidden_size=size, mode=mode))
    ]
    title = f"{name}: training step and inference over sizes, {words}"
    notes = (
        f"{len(measured)} of {len(cells)} cells measured: some take too long, came after the time, or do not "
        "fit the kernel.",
        *losers(measured, ours),
    )
    return Result(name, title, columns, tuple(rows), notes, {"cells": cells})


def select(cells: Sequence[Mapping[str, Any]], **values: Any) -> list[Mapping[str, Any]]:
    """The cells with these values."""
    return [cell for cell in cells if all(cell[key] == value for key, value in values.items())]


def loss(cell: Mapping[str, Any], ours: str) -> float:
    """Time of the kernel that `auto` chooses, in times of the faster one: 1 where it is that."""
    ratio: float = cell[cell["auto"]] / min(cell[RIVALS[ours][0]], cell[ours])
    return ratio


def row(name: str, cells: Sequence[Mapping[str, Any]], ours: str) -> tuple[Cell, ...]:
    """A line of the table."""
    gains = [cell[RIVALS[ours][0]] / cell[ours] for cell in cells]
    losing = [cell for cell in cells if loss(cell, ours) > MOST_LOSS]
    worst = max(loss(cell, ours) for cell in cells)
    return name, len(cells), min(gains), median(gains), max(gains), len(losing), f"{worst - 1:.0%}"


def losers(cells: Sequence[Mapping[str, Any]], ours: str) -> list[str]:
    """The cells where `auto` loses, the worst first."""
    by_loss = sorted(((loss(cell, ours), cell) for cell in cells), key=lambda pair: pair[0], reverse=True)
    losing = [(times, cell) for times, cell in by_loss if times > MOST_LOSS]
    lines = [
        f"{cell['module']}, {cell['mode']}: hidden size {cell['hidden_size']}, layers {cell['layers']}, "
        f"batch {cell['batch']}, steps {cell['steps']}, threads {cell['threads']}: "
        f"{cell['auto']} loses {times - 1:.0%}"
        for times, cell in losing[:LISTED]
    ]
    rest = len(losing) - len(lines)
    return [f"auto loses by more than {MOST_LOSS - 1:.0%} in {len(losing)} cells.", *lines] + (
        [f"... and {rest} more"] if rest > 0 else []
    )


def steadied(cell: Mapping[str, Any], again: Sequence[Mapping[str, Any]], ours: str) -> dict[str, Any]:
    """A cell with the medians of its times and of those that it had when it was measured again."""
    kernels = (RIVALS[ours][0], ours)
    same = [other for other in again if all(other[key] == cell[key] for key in GRID) and ours in other]
    return {
        **cell,
        **{kernel: median([cell[kernel], *(other[kernel] for other in same)]) for kernel in kernels},
    }


def _measure(ours: str, device: str, grid: Mapping[str, Sequence[Any]], threads: int) -> list[dict[str, Any]]:
    """Every cell until the budget is spent, the rest as skipped; those where `auto` seems to lose thrice."""
    cells = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    cells = [cells[place] for place in np.random.default_rng(0).permutation(len(cells))]
    found = _timed(ours, device, threads, cells, time.monotonic() + BUDGET)
    losing = [cell for cell in found if ours in cell and loss(cell, ours) > MOST_LOSS]
    if not losing:
        return found
    doubtful = [{key: cell[key] for key in GRID} for cell in losing]
    again = _timed(ours, device, threads, [*doubtful, *doubtful], inf)
    return [steadied(cell, again, ours) if cell in losing else cell for cell in found]


def _timed(
    ours: str, device: str, threads: int, cells: Sequence[Mapping[str, Any]], end: float
) -> list[dict[str, Any]]:
    """Each cell by both kernels in turn, until `end` of ``time.monotonic``; what comes later as skipped."""
    task = {"cells": cells, "limit": LIMIT, "device": device}
    rival, _ = RIVALS[ours]
    found = []
    with _process(rival, task, threads) as other, _process(ours, task, threads) as own:
        for cell in cells:
            if time.monotonic() > end:
                break
            theirs, its = other.repeat(), own.repeat()
            if "skipped" in theirs or "skipped" in its:
                found.append({**cell, "skipped": True})
            else:
                auto = ours if its["auto"] == ours else rival
                found.append({**cell, rival: theirs["taken"], ours: its["taken"], "auto": auto})
    return [*found, *({**cell, "skipped": True} for cell in cells[len(found) :])]


def _process(kernel: str, task: Mapping[str, Any], threads: int) -> Process:
    contender = Contender(kernel, "sweep_cells", environment=ENVIRONMENTS[kernel])
    return Process(contender, {**task, "kernel": kernel}, threads)
