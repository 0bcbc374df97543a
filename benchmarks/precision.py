"""`precision`: trainings to the end in mixed precision beside the same ones in float32: losses and times.

The sample data set with its target alone; LSTM, GRU and RNN of 50 units, and two layers of LSTM; a lookback
of a week read step by step, a horizon of a day; 15 epochs of 24 batches. Validation is the last fifth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, get_args

import torch
from rich.console import Console

from benchmarks import household
from benchmarks.results import Result
from data.retrain import Cell
from data.splits import Span
from lstm.kernels.dispatch import PRECISION
from lstm.models.forecaster import ForecasterConfig
from lstm.training.device import set_threads
from lstm.training.fit import Fit, fit
from lstm.training.recipe import TrainingConfig
from lstm.windows import windows

SEEDS = 4
LOOKBACK, HORIZON, HIDDEN_SIZE, EPOCHS = 168, 24, 50, 15
NETWORKS: tuple[tuple[Cell, int], ...] = (*((cell, 1) for cell in get_args(Cell)), ("lstm", 2))
PRECISIONS = ("float32", "auto")


def run(threads: Sequence[int], repeats: int) -> Result:
    """Every network by every seed, both precisions in turn; the first number of threads, no repeats."""
    set_threads(threads[0])
    console, rows, details = Console(stderr=True), [], []
    for cell, layers in NETWORKS:
        found = [_pair(cell, layers, seed) for seed in range(SEEDS)]
        details.append({"cell": cell, "layers": layers, "seeds": found})
        rows.append(_row(f"{cell}, {layers} layer{'s' if layers > 1 else ''}", found))
        console.print(f"{cell}, {layers}: done")
    columns = (
        "network",
        "loss in float32, median",
        "in mixed precision, median",
        "apart, mean",
        "at most",
        "seconds in float32",
        "in mixed precision",
    )
    title = f"precision: trainings to the end, {SEEDS} seeds each, threads {threads[0]}"
    return Result("precision", title, columns, tuple(rows), (), {"networks": details})


def _pair(cell: Cell, layers: int, seed: int) -> dict[str, Any]:
    """Loss and seconds of the same training in both precisions."""
    found: dict[str, Any] = {}
    before = os.environ.get(PRECISION)
    try:
        # Each goes first half of the time.
        for precision in PRECISIONS if seed % 2 else reversed(PRECISIONS):
            os.environ[PRECISION] = precision
            begin = time.perf_counter()
            result = _trained(cell, layers, seed)
            found[precision] = {"loss": result.best_loss, "seconds": time.perf_counter() - begin}
    finally:
        os.environ.pop(PRECISION)
        if before is not None:
            os.environ[PRECISION] = before
    return found


def _trained(cell: Cell, layers: int, seed: int) -> Fit:
    panel, scaled = household.panel(), household.scaled(HORIZON)
    config = ForecasterConfig(
        cell=cell,
        hidden_size=HIDDEN_SIZE,
        num_layers=layers,
        dropout=0.1,
        segment_length=1,
        lookback=LOOKBACK,
        horizon=HORIZON,
        quantiles=tuple(household.data_set().retrain.quantiles),
        columns=1,
        calendar_features=scaled.calendar.shape[1],
    )
    training = TrainingConfig(max_epochs=EPOCHS, patience=EPOCHS, seed=seed)
    cut = panel.n_steps * 4 // 5
    spans = Span(0, cut), Span(cut + HORIZON, panel.n_steps - 1)
    train, validation = (windows(panel, span, LOOKBACK, HORIZON) for span in spans)
    return fit(config, training, scaled, train, validation, device=torch.device("cpu"))


def _row(name: str, found: Sequence[dict[str, Any]]) -> tuple[str | float, ...]:
    apart = [pair["auto"]["loss"] / pair["float32"]["loss"] - 1 for pair in found]

    def middle(precision: str, what: str) -> float:
        return float(median(pair[precision][what] for pair in found))

    return (
        name,
        f"{middle('float32', 'loss'):.4f}",
        f"{middle('auto', 'loss'):.4f}",
        f"{sum(apart) / len(apart):+.2%}",
        f"{max(map(abs, apart)):.2%}",
        middle("float32", "seconds"),
        middle("auto", "seconds"),
    )
