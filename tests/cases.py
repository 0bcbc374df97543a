"""Cases and files for tests of the accuracy benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import standing
from benchmarks.campaign import Campaign, Plan
from benchmarks.protocol import Case, split_rows, unfolded
from data.panel import Panel

ENTRY = {
    "source": {"kind": "csv", "path": "made.csv"},
    "time": "date",
    "target": "value",
    "frequency": "h",
    "clock": "data",
}
PLAN = Plan(horizons=(6, 12), lookbacks=(24,), seeds=(0, 1), trials=2, retrain={"max_epochs": 1})


MakePanel = Callable[..., Panel]


def make_case(make_panel: MakePanel) -> Case:
    panel = unfolded(make_panel(steps=400, covariates=("other",)))
    return Case("made", panel, split_rows("made", 400, "70/10/20"), 24, ENTRY)


def campaign(case: Case, root: Path, plan: Plan = PLAN) -> Campaign:
    return Campaign(case, plan, standing.errors, root)


def write(path: Path, steps: int = 300, **columns: Any) -> Path:
    times = np.datetime64("2020-01-01T00:00:00", "us") + np.arange(steps) * np.timedelta64(1, "h")
    wave = np.sin(np.arange(steps) / 24 * 2 * np.pi)
    noise = np.random.default_rng(0).standard_normal((2, steps)) / 5
    frame = pl.DataFrame({"date": times, "HUFL": 5 + wave + noise[0], "OT": 20 - wave + noise[1], **columns})
    frame.with_columns(pl.col("date").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(path)
    return path


def write_series(path: Path, steps: int, **first_steps: int) -> Path:
    """A file of several series, each with its own level, that begin at these steps."""
    parts = []
    for number, (series, first) in enumerate(first_steps.items()):
        step = np.arange(first, steps)
        times = np.datetime64("2020-01-01T00:00:00", "us") + step * np.timedelta64(1, "h")
        load = 1000.0 * number + np.sin(step / 24 * 2 * np.pi)
        parts.append(pl.DataFrame({"time": times, "meter": [series] * len(step), "load": load}))
    pl.concat(parts).with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(path)
    return path
